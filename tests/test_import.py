"""What importing the package costs, and the command line in all kinds of surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spear_gym
from spear_gym.envs_registry import ENTRIES, IDS

HEAVY = ("torch", "snntorch", "numba", "optuna", "stable_baselines3", "sklearn", "scipy",
         "matplotlib", "pandas", "sqlalchemy")  # fmt: skip
TESTS = str(Path(__file__).parent)


def python(
    folder: Path, *arguments: str, flags: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder, with environment variables set, or unset when they are empty."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, TESTS]), **variables}
    environment = {name: value for name, value in environment.items() if value}
    return subprocess.run(
        [sys.executable, *flags, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )


LIGHT = f"""
import sys, gymnasium, spear_gym
assert 'SpearPrune-v0' in gymnasium.registry
assert 'SpearPrune-DigitsEvents-v0' in gymnasium.registry
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
from spear_gym.cli import main
for arguments in (['--help'], ['--version'], ['search', '--help'], ['lre', '--samples', 'x'], []):
    sys.argv = ['spear', *arguments]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == (0 if {{'--help', '--version'}} & set(arguments) else 2)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, (arguments, loaded)
"""


def test_nothing_heavy_is_imported_for_help(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", LIGHT)
    assert done.returncode == 0, done.stderr
    assert f"spear-gym {spear_gym_version()}" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_environments_leave_the_pictures_and_the_agents_alone(tmp_path: Path) -> None:
    code = (
        "import sys, gymnasium, spear_gym\n"
        "gymnasium.make('SpearPrune-v0', lre='none')\n"
        "heavy = ('sklearn', 'optuna', 'matplotlib.pyplot', 'stable_baselines3', 'typer')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = python(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def spear_gym_version() -> str:
    from importlib.metadata import version

    return version("spear-gym")


def test_names_of_the_catalogue_are_those_of_its_entries() -> None:
    assert {entry.name: (entry.environment, entry.groups) for entry in ENTRIES.values()} == IDS


@pytest.mark.parametrize("name", spear_gym.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(spear_gym, name).__name__ == name


@pytest.mark.parametrize("module", [spear_gym, spear_gym.envs_registry])
def test_unknown_names_do_not(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        module.nonsense  # type: ignore[attr-defined]  # noqa: B018


# The command in all kinds of surroundings.


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"COLUMNS": "40"}, "--overwrite"),
        ({"COLUMNS": "10"}, "--overwrite"),
        ({"TERM": "", "COLUMNS": "100"}, "--overwrite"),
        ({"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"}, "--overwrite"),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}, "--overwrite"),
        ({"LC_ALL": "de_DE.UTF-8", "HOME": "/proc/nowhere", "COLUMNS": "100"}, "--overwrite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_help_in_narrow_and_poor_terminals(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    done = python(tmp_path, "-m", "spear_gym", "search", "--help", **variables)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_completion(tmp_path: Path) -> None:
    words = {"_SPEAR_COMPLETE": "complete_bash", "COMP_WORDS": "spear search --over"}
    done = python(tmp_path, "-m", "spear_gym", **words, COMP_CWORD="2")
    assert (done.returncode, done.stdout.split()) == (0, ["--overwrite"])
    for shell in ("bash", "zsh", "fish"):
        # Typer looks for the shell that runs it, which here may be any: make's, for one.
        named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        shown = python(tmp_path, "-m", "spear_gym", "--show-completion", shell, **named)
        assert shown.returncode == 0, shown.stderr
        assert "_SPEAR_COMPLETE" in shown.stdout


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "spear_gym", "--help"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.slow
def test_search_in_poor_surroundings(tmp_path: Path) -> None:
    """No terminal, a narrow one said, no home, a decimal comma, no assertions, odd paths."""
    folder = tmp_path / "wörk [bold] $x$ 雪"
    folder.mkdir()
    done = python(
        folder,
        "-m", "spear_gym", "search", "--workload", "toys:tiny", "--lre", "none", "--agent",
        "random", "--budget", "3", "--target", "0.5", "--out", "my run/ü",
        flags=("-O", "-W", "error::SyntaxWarning"), COLUMNS="40", TERM="", NO_COLOR="1",
        LC_ALL="de_DE.UTF-8", HOME="/proc/nowhere", SPEAR_GYM_HOME="",
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert "accuracy: 0." in done.stdout
    assert "spear evaluate 'my run/ü'" in done.stdout
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert {path.name for path in (folder / "my run" / "ü").iterdir()} >= {"result.json"}
