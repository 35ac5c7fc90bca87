"""Output folders: what is ours is recognised, what is not is never touched, and one writes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import Spear, assert_one_error
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.agents.folders import (
    OWNER,
    RUN_FILES,
    RUN_FORMAT,
    RunError,
    check_folder,
    check_front,
    claimed,
    owned,
    remove_front,
    state_of,
)
from spear_gym.boundary.files import (
    FileError,
    clear_dead,
    file_name,
    number_in_name,
    temporary_for,
    write_bytes,
    write_json,
)
from spear_gym.boundary.ownership import OwnedError

SETTINGS = {
    "format": RUN_FORMAT,
    "settings": {"workload": "digits", "agent": "tpe", "budget": 200},
    "fingerprint": {},
    "lre": "NoEstimator",
    "versions": {},
}
EARLIER = {key: value for key, value in SETTINGS.items() if key != "format"}


def a_run(folder: Path, settings: object = SETTINGS) -> Path:
    write_json(folder / "settings.json", settings)
    (folder / "ledger.log").touch()
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def killed_while_writing(path: Path) -> None:
    """What a process leaves that is killed just before a file is renamed into place."""
    child = os.fork()
    if child == 0:
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        try:
            write_bytes(path, b"half")
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_states(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert state_of(folder) == "missing"
    folder.mkdir()
    assert state_of(folder) == "empty"
    killed_while_writing(folder / "settings.json")
    assert len(list(folder.iterdir())) == 1
    assert state_of(folder) == "begun"
    (folder / "notes.txt").touch()
    assert state_of(folder) == "foreign"
    a_run(folder)
    assert state_of(folder) == "run"


@pytest.mark.parametrize("name", [".settings.json.k3_x9a2b", ".plan.json.abcdefgh", OWNER])
def test_what_earlier_versions_left_is_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert state_of(tmp_path) == "begun"
    with claimed(tmp_path, resume=True):
        assert {path.name for path in tmp_path.iterdir()} == {OWNER}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ledger.log.0123abcd.owner", "ledger.log.damaged-1"])
def test_what_a_ledger_left_goes_with_its_run(tmp_path: Path, name: str) -> None:
    """And not before."""
    a_run(tmp_path / "target-0.3")
    left = tmp_path / "target-0.3" / name
    left.touch()
    with claimed(tmp_path / "target-0.3", resume=True):
        assert left.exists()
    with owned(tmp_path):
        remove_front(tmp_path)
    assert not left.parent.exists()
    left.parent.mkdir()
    left.touch()
    assert state_of(left.parent) == "begun"


@pytest.mark.parametrize(
    "name",
    [".settings.json.swp", ".settings.json.ABCDEFGH", ".notes.txt.abcdefgh", "settings.json.tmp",
     ".thesis.tex.host.12.0123abcd.spear-gym-tmp", ".DS_Store", "ledger.log.damaged-x",
     "ledger.log.owner", "my ledger.log.damaged-1"],
)  # fmt: skip
def test_temporary_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert state_of(tmp_path) == "foreign"
    a_run(tmp_path)
    with claimed(tmp_path, resume=True):
        assert (tmp_path / name).exists()
    with claimed(tmp_path, overwrite=True):
        assert {path.name for path in tmp_path.iterdir()} == {name, OWNER}


FOREIGN: list[object] = [
    {}, [], "x", None, {"settings": {}}, {"editor.tabSize": 4},
    {"settings": {"workload": "w", "agent": "a", "budget": 1}},
    SETTINGS | {"format": "another"}, SETTINGS | {"settings": []}, SETTINGS | {"versions": "1"},
    SETTINGS | {"settings": {"workload": "w", "agent": "a"}},
]  # fmt: skip


@pytest.mark.parametrize("settings", FOREIGN)
@pytest.mark.parametrize("flag", ["overwrite", "resume", ""])
def test_any_settings_file_does_not_make_it_ours(
    tmp_path: Path, settings: object, flag: str
) -> None:
    write_json(tmp_path / "settings.json", settings)
    (tmp_path / "plan.png").write_bytes(b"mine")
    before = contents(tmp_path)
    told = {"overwrite": flag == "overwrite", "resume": flag == "resume"}
    with pytest.raises(RunError, match="damaged, or of something else"), claimed(tmp_path, **told):
        pytest.fail("it was claimed")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("settings", [SETTINGS, EARLIER], ids=["now", "earlier"])
def test_a_run_is_removed_and_nothing_else(tmp_path: Path, settings: object) -> None:
    a_run(tmp_path, settings)
    for name in RUN_FILES:
        if name != "settings.json":
            (tmp_path / name).touch()
    (tmp_path / "sub" / "settings.json").mkdir(parents=True)
    (tmp_path / "plan.json").unlink()
    (tmp_path / "plan.json").mkdir()
    with claimed(tmp_path, overwrite=True):
        assert set(contents(tmp_path)) == {"plan.json", "sub", "sub/settings.json", OWNER}


@pytest.mark.parametrize("flag", ["overwrite", "resume", ""])
def test_places_that_cannot_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    told = {"overwrite": flag == "overwrite", "resume": flag == "resume"}
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home, work):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    for place in (home, Path("../home"), Path("/"), Path(), Path("../work"), work):
        for check in (check_folder, check_front):
            with pytest.raises(RunError, match=r"no folder for a run|is the working folder"):
                check(place, **told)
    assert not list(home.iterdir())
    assert not list(work.iterdir())
    a_run(work)
    if flag:
        check_folder(Path(), **told)  # in the middle of a run of ours


def test_resume_needs_a_run(tmp_path: Path) -> None:
    a_run(tmp_path / "digits-tpe-0.3-seed0")
    with pytest.raises(RunError, match=r"no run in .* to continue .*digits-tpe-0.3-seed0'\?"):
        check_folder(tmp_path / "digits-tpe-0.3-seed1", overwrite=False, resume=True)
    with pytest.raises(RunError, match=r"to continue; leave --resume away"):
        check_front(tmp_path / "x", overwrite=False, resume=True)
    check_folder(tmp_path / "x", overwrite=False, resume=True, may_be_missing=True)
    assert [path.name for path in tmp_path.iterdir()] == ["digits-tpe-0.3-seed0"]


def test_a_front_is_removed_and_nothing_else(tmp_path: Path) -> None:
    a_run(tmp_path / "target-0.5")
    a_run(tmp_path / "target-0.3")
    (tmp_path / "target-0.3" / "notes.txt").touch()
    (tmp_path / "target-audience").mkdir()
    (tmp_path / "target-audience" / "settings.json").write_text("{}", encoding="utf-8")
    a_run(tmp_path / "elsewhere")
    (tmp_path / "target-0.2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "front.png").touch()
    check_front(tmp_path, overwrite=True, resume=False)
    with owned(tmp_path):
        remove_front(tmp_path)
    assert (tmp_path / "target-0.2" / "settings.json").exists(), "it leads to another's folder"
    (tmp_path / "target-0.2").unlink()
    assert set(contents(tmp_path)) == {
        "target-0.3", "target-0.3/notes.txt", "target-audience", "target-audience/settings.json",
        "elsewhere", "elsewhere/settings.json", "elsewhere/ledger.log",
    }  # fmt: skip


def test_targets_of_somebody_else_are_no_front(tmp_path: Path) -> None:
    (tmp_path / "target-audience").mkdir()
    (tmp_path / "target-audience" / "notes.txt").touch()
    for told in ({"overwrite": True, "resume": False}, {"overwrite": False, "resume": True}):
        with pytest.raises(RunError, match="holds no searches for several targets"):
            check_front(tmp_path, **told)


@contextmanager
def another_owner(folder: Path) -> Iterator[int]:
    """Another process that owns a folder, until it is killed at the end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with owned(folder):
                os.write(writing, b"1")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reading, 1) == b"1"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_owner(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    with another_owner(folder) as process:
        before = contents(folder)
        for told in ({"resume": True}, {"overwrite": True}):
            message = rf"the run in '{folder}' belongs to process {process} on"
            with pytest.raises(OwnedError, match=message), claimed(folder, **told):
                pytest.fail("two own it")
        assert contents(folder) == before
    killed_while_writing(folder / "plan.json")
    with claimed(folder, resume=True):
        assert set(contents(folder)) == {"settings.json", "ledger.log", OWNER}
    assert set(contents(folder)) == {"settings.json", "ledger.log"}


SEARCH = ("search", "--workload", "toys:tiny", "--lre", "none", "--agent", "random", "--budget", 2)
COMPARE = (
    "compare", "--workload", "toys:tiny", "--lre", "none", "--agents", "random", "--budget", 2,
    "--seeds", 1, "--workers", 1, "--targets", "0.5",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "inner"),
    [
        ((*SEARCH, "--target", "0.5"), ""),
        ((*SEARCH, "--targets", "0.5,0.4"), ""),
        ((*SEARCH, "--targets", "0.5,0.4"), "target-0.4"),
        (COMPARE, ""),
    ],
    ids=["search", "front", "one of a front", "comparison"],
)
def test_a_second_command_is_told_who_owns_it(
    spear: Spear, tmp_path: Path, command: tuple[object, ...], inner: str
) -> None:
    """And nothing is paid; when the owner is gone, the same command goes on."""
    folder = tmp_path / "run"
    (folder / inner).mkdir(parents=True)
    with another_owner(folder / inner) as process:
        flags = () if command is COMPARE else ("--resume",)
        ran = spear(*command, "--out", folder, *flags)
        assert_one_error(ran, f"belongs to process {process} on")
        assert not list(folder.rglob("ledger.log"))
    ran = spear(*command, "--out", folder, *flags)
    assert ran.code in (0, 3), ran
    assert not list(folder.rglob(OWNER))


# Names.


def test_dead_writers_are_cleared_at_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    killed_while_writing(path)
    killed_while_writing(path)
    killed_while_writing(tmp_path / "other.json")
    (left,) = {name for name in contents(tmp_path) if "other" in name}
    assert temporary_for(left) == "other.json"
    alive = left.replace("other.json", "fit.json").split(".")
    alive[-3] = str(os.getppid())
    elsewhere = [*alive[:-4], "elsewhere", *alive[-3:]]
    kept = {".".join(alive), ".".join(elsewhere), left}
    for name in kept:
        (tmp_path / name).touch()
    clear_dead(path)
    assert set(contents(tmp_path)) == kept
    write_bytes(path, b"whole")
    assert set(contents(tmp_path)) == {*kept, "fit.json"}


def test_permissions_are_what_the_umask_leaves(tmp_path: Path) -> None:
    for mask in (0o077, 0o022, 0o002):
        before = os.umask(mask)
        try:
            write_bytes(tmp_path / "file", b"")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


@given(st.text(max_size=300))
def test_names_lead_nowhere_else(text: str) -> None:
    top = Path("/top")
    try:
        name = file_name(text)
    except FileError:
        return
    assert Path(os.path.normpath(top / name)) == top / name
    assert (top / name).parent == top
    assert len(os.fsencode(name)) <= 200


@pytest.mark.parametrize("text", ["", ".", "..", "...", " . ", "/", "../..", "x" * 201, "\ud800"])
def test_names_that_no_file_can_have(text: str) -> None:
    with pytest.raises(FileError, match="cannot be the name of a file"):
        file_name(text)


def test_names_of_earlier_runs_stay() -> None:
    assert file_name("toys:tiny") == file_name("toys/tiny") == "toys tiny"
    assert [number_in_name(value) for value in (0.3, 0.15, 1.0, 120000.0)] == [
        "0.3", "0.15", "1", "120000",
    ]  # fmt: skip
    assert json.loads(number_in_name(0.70000001)) == 0.70000001
    assert number_in_name(0.7) != number_in_name(0.70000001)
