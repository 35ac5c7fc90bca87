"""The package list, the links, the dependencies and the ban on bare names, against the disk."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("agents", "envs_registry")

with (ROOT / "pyproject.toml").open("rb") as stream:
    PYPROJECT = tomllib.load(stream)


def packages_below(folder: Path, name: str) -> set[str]:
    """Returns the dotted names of `folder` and the packages in it, not following links."""
    if not (folder / "__init__.py").is_file():
        return set()
    found = {name}
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            found |= packages_below(child, f"{name}.{child.name}")
    return found


def folders_with_modules(folder: Path) -> set[Path]:
    return {path.parent for path in folder.rglob("*.py") if "__pycache__" not in path.parts}


def ruff(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache"]
    command += ["--config", str(ROOT / "pyproject.toml"), "--output-format", "concise", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_package_list_is_what_is_on_disk():
    on_disk = packages_below(ROOT / "spear_gym", "spear_gym")
    for name in LINKED:
        on_disk |= packages_below(ROOT / name, f"spear_gym.{name}")
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == on_disk


@pytest.mark.parametrize("top", ["spear_gym", *LINKED])
def test_no_folder_with_modules_lacks_its_init(top):
    lacking = {f for f in folders_with_modules(ROOT / top) if not (f / "__init__.py").is_file()}
    assert lacking == set()


def test_package_dir_maps_the_linked_folders():
    mapping = PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert mapping == {"spear_gym": "spear_gym", **{f"spear_gym.{n}": n for n in LINKED}}


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative_and_resolve(name):
    link = ROOT / "spear_gym" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("package", PYPROJECT["tool"]["setuptools"]["packages"])
def test_every_package_imports(package):
    assert importlib.import_module(package).__name__ == package


@pytest.mark.parametrize(
    "statement",
    [
        "import agents",
        "import agents.base",
        "from agents import base",
        "import envs_registry",
        "from envs_registry import register_envs",
    ],
)
def test_ruff_refuses_the_bare_names(tmp_path, statement):
    source = tmp_path / "module.py"
    source.write_text(f'"""A module."""\n\n{statement}\n', encoding="utf-8")
    result = ruff(source)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "TID251" in result.stdout


def test_ruff_accepts_the_installed_names(tmp_path):
    source = tmp_path / "module.py"
    text = '"""A module."""\n\nimport spear_gym.agents\nfrom spear_gym.envs_registry import x\n'
    source.write_text(text + "\n__all__ = ['spear_gym', 'x']\n", encoding="utf-8")
    assert "TID251" not in ruff(source).stdout


def test_ruff_does_not_judge_the_name_of_the_clone(tmp_path):
    clone = tmp_path / "spear-gym"
    for name in ("agents", "envs_registry"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", clone)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    found = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


# The name of a distribution where it is not that of its module.
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "psycopg": "psycopg[binary]",
    "PIL": "pillow",
}


def imported_modules() -> set[str]:
    """Top-level names that the library imports, anywhere in its files."""
    found = set()
    for top in ("spear_gym", *LINKED):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"spear_gym"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0].lower() for line in requirements}


def test_what_is_imported_is_promised() -> None:
    promised = names(PYPROJECT["project"]["dependencies"])
    for extra, requirements in PYPROJECT["project"]["optional-dependencies"].items():
        if extra not in ("dev", "docs"):
            promised |= names(requirements)
    brought = {"sqlalchemy"}  # by Optuna, whose storages are made of it
    imported = {DISTRIBUTIONS.get(m, m).replace("_", "-") for m in imported_modules()}
    assert imported - brought <= promised


def test_every_extra_has_code_behind_it() -> None:
    text = "".join(
        path.read_text(encoding="utf-8")
        for top in ("spear_gym", *LINKED)
        for path in (ROOT / top).rglob("*.py")
    )
    for extra in set(PYPROJECT["project"]["optional-dependencies"]) - {"dev", "docs"}:
        assert f"spear-gym[{extra}]" in text, f"no line of code asks for the extra '{extra}'"
