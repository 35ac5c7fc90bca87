"""One owner: the second is told who, a dead one is followed, a foreign file is left alone."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spear_gym.boundary import ownership
from spear_gym.boundary.ownership import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    FileSlot,
    OwnedError,
    Owner,
    own,
)

# Without the package, whose imports take seconds.
LOAD = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("ownership", {ownership.__file__!r})
ownership = sys.modules["ownership"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ownership)
from pathlib import Path
path = Path(sys.argv[1])
"""
HOLD = LOAD + "lease = ownership.own(path, 'the run'); print('mine', flush=True); sys.stdin.read()"
RACE = (
    LOAD
    + """
try:
    lease = ownership.own(path, "the run")
    print("mine", flush=True)
except ownership.OwnedError:
    print("no", flush=True)
sys.stdin.read()
"""
)
# Each adds one to a number in a file, which is not safe without an owner.
COUNT = (
    LOAD
    + """
import time
number = path.with_name("number")
for _ in range(int(sys.argv[2])):
    while True:
        try:
            with ownership.own(path, "the number"):
                found = int(number.read_text())
                time.sleep(0.0005)
                number.write_text(str(found + 1))
                break
        except ownership.OwnedError:
            time.sleep(0.0005)
"""
)


@contextmanager
def elsewhere(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    with elsewhere(HOLD, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process


def owner(**changes: object) -> str:
    line = json.loads(Owner.current().dumps()) | changes
    return json.dumps(line)


def test_owner_is_named_and_gives_up(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with own(path, "the run") as lease:
        lease.check()
        found = Owner.loads(path.read_text())
        assert found is not None
        assert found.is_this_process
    assert not path.exists()
    lease.release()


def test_second_process_is_told_who(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with held(path) as process:
        before = path.read_bytes()
        said = rf"the run belongs to process {process.pid} on '.+', since 20.+delete '{path}'"
        with pytest.raises(OwnedError, match=said):
            own(path, "the run")
        assert path.read_bytes() == before
    own(path, "the run").release()


@pytest.mark.parametrize("buried", [False, True])
def test_killed_owner_is_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, buried: bool
) -> None:
    """Also while its parent has not asked for its exit status."""
    path = tmp_path / "owner.json"
    with held(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        if buried:
            process.wait()
        else:
            time.sleep(0.2)
        with caplog.at_level(logging.WARNING, "spear_gym"), own(path, "the run") as lease:
            lease.check()
    assert f"took over the run from process {process.pid}" in caplog.text
    assert "gone" in caplog.text


def test_reused_process_number(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    path.write_text(owner(pid=os.getppid(), started="1"))
    with own(path, "the run") as lease:
        lease.check()


@pytest.mark.parametrize(
    ("silent", "refused"), [(0, True), (SILENT_SECONDS / 2, True), (SILENT_SECONDS * 2, False)]
)
@pytest.mark.parametrize("change", [{"machine": "another"}, {"started": ""}])
def test_owner_that_cannot_be_asked_for(
    tmp_path: Path, silent: float, refused: bool, change: dict[str, object]
) -> None:
    path = tmp_path / "owner.json"
    path.write_text(owner(pid=os.getppid(), **change))
    os.utime(path, (time.time() - silent,) * 2)
    if refused:
        with pytest.raises(OwnedError, match="the run belongs to process"):
            own(path, "the run")
    else:
        own(path, "the run").release()


def test_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 4 * BEAT_SECONDS < SILENT_SECONDS
    monkeypatch.setattr("spear_gym.boundary.ownership.BEAT_SECONDS", 0.01)
    path = tmp_path / "owner.json"
    with own(path, "the run"):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_owner_that_was_followed_notices(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with own(path, "the run") as lease:
        path.write_text(owner(pid=os.getppid(), machine="another"))
        with pytest.raises(OwnedError, match="the run was taken over by process"):
            lease.check()
    assert path.exists(), "the follower's file is not ours to remove"


def test_removed_by_a_cleaner(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with own(path, "the run") as lease:
        path.unlink()
        lease.check()
        assert path.exists()


def test_one_process_may_hold_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with own(path, "the run"):
        with own(path, "the run"):
            pass
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 1, 10, 30, 100])
def test_killed_while_it_wrote_its_name(tmp_path: Path, length: int) -> None:
    path = tmp_path / "owner.json"
    path.write_text(owner()[:length])
    with own(path, "the run") as lease:
        lease.check()


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.with_name("mine.txt").write_text("my own")
    path.symlink_to("mine.txt")


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("made", [folder, link, fifo])
def test_what_is_no_file_is_left_alone(tmp_path: Path, made: Callable[[Path], None]) -> None:
    path = tmp_path / "owner.json"
    made(path)
    before = path.lstat()
    with pytest.raises(OwnedError, match="no ordinary file"):
        own(path, "the run")
    assert path.lstat().st_mode == before.st_mode
    if made is link:
        assert path.read_text() == "my own"


@pytest.mark.parametrize(
    "content",
    [b"my own", b"{}", b"\x00" * 8, b"[" * 4000, b"9" * 5000, b'{"format": "another"}'],
)
def test_foreign_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "owner.json"
    path.write_bytes(content)
    with pytest.raises(OwnedError, match="left alone"):
        own(path, "the run")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change", [{"pid": 0}, {"pid": -1}, {"pid": "1"}, {"pid": 2**70}, {"host": 1}, {"extra": 1}]
)
def test_damaged_name_owns_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "owner.json"
    path.write_text(owner(**change))
    with own(path, "the run") as lease:
        lease.check()


def test_swap_compares(tmp_path: Path) -> None:
    slot = FileSlot(tmp_path / "owner.json")
    name = owner()
    assert not slot.swap("another", name)
    assert slot.swap(None, name)
    assert not slot.swap(None, name)
    assert slot.read().text == name
    assert slot.swap(name, None)
    assert slot.read().text is None


def test_three_processes_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    path = tmp_path / "owner.json"
    with (
        elsewhere(COUNT, path, 40) as one,
        elsewhere(COUNT, path, 40) as two,
        elsewhere(COUNT, path, 40) as three,
    ):
        assert [process.wait(60) for process in (one, two, three)] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "120"
    assert not path.exists()


def test_two_follow_a_dead_owner(tmp_path: Path) -> None:
    """Both find the same dead owner at once; one gets it."""
    path = tmp_path / "owner.json"
    for _ in range(5):
        path.write_text(owner(pid=os.getppid(), started="1"))
        with elsewhere(RACE, path) as one, elsewhere(RACE, path) as two:
            assert one.stdout is not None
            assert two.stdout is not None
            assert sorted([one.stdout.readline(), two.stdout.readline()]) == ["mine\n", "no\n"]
