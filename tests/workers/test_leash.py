"""Worker processes end with their parent, and with the caller's interest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Spear, ledger_rows
from jobs import lasts

from spear_gym.workers.leash import GRACE
from spear_gym.workers.tasks import run_tasks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
]

BUDGET = 150
SPEAR = (sys.executable, "-c", "from spear_gym.cli import main; main()")
COMPARE = (
    "compare", "--workload", "toys:tiny", "--lre", "none", "--targets", "0.4", "--seeds", "1",
    "--agents", "random,qmc", "--budget", str(BUDGET),
)  # fmt: skip


def waits_for(what: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def children(pid: int) -> list[int]:
    """Workers of a process: its children that are no helper of Python's own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == pid and state != "Z" and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_and_nothing_is_paid_twice(
    spear: Spear, tmp_path: Path, ending: signal.Signals
) -> None:
    cells = [tmp_path / "cells" / "toys tiny" / a / "target 0.4 seed 0" for a in ("random", "qmc")]
    parent = subprocess.Popen(
        [*SPEAR, *COMPARE, "--workers", "2", "--out", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["tests", *sys.path])},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The other worker may still be importing: it, too, must see that its parent is gone.
        begun = waits_for(
            lambda: any(len(ledger_rows(cell)) >= 3 for cell in cells) or parent.poll() is not None,
            300,
        )
        workers = children(parent.pid)
        parent.send_signal(ending)
        _, err = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert begun, err
    assert len(workers) == 2
    assert waits_for(lambda: not any(map(lives, workers)), GRACE + 30)
    before = [ledger_rows(cell) for cell in cells]
    assert any(3 <= len(rows) < BUDGET for rows in before)
    if ending is signal.SIGTERM:
        assert parent.returncode == 130, err
        assert "Traceback" not in err

    ran = spear(*COMPARE, "--workers", "1", "--out", tmp_path)
    assert ran.code == 0, ran.err
    for cell, earlier in zip(cells, before, strict=True):
        rows = ledger_rows(cell)
        assert rows[: len(earlier)] == earlier
        assert len(rows) == len({tuple(row["counts"]) for row in rows})


def test_tasks_that_nobody_waits_for_are_interrupted(tmp_path: Path) -> None:
    running = run_tasks(lasts, [0, 1, 2], context=tmp_path, workers=2)
    assert next(running) == (0, 0)
    under_way = [tmp_path / "begun-1", tmp_path / "begun-2"]
    assert waits_for(lambda: all(mark.exists() for mark in under_way), 60)
    workers = children(os.getpid())
    running.close()
    interrupted = [tmp_path / "interrupted-1", tmp_path / "interrupted-2"]
    assert waits_for(lambda: all(mark.exists() for mark in interrupted), 20)
    assert waits_for(lambda: not any(map(lives, workers)), 20)
