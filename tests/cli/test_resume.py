"""`spear search --resume`: nothing is paid twice, and nothing else is continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Spear, assert_one_error, ledger_rows, read
from searches import ENDED, RANDOM, TINY, replace, result_of, truncate

from spear_gym.evaluation import PlanEvaluator


def test_resume_of_nothing_pays_nothing(spear: Spear, folder: Path) -> None:
    mistyped = folder.with_name("rum")
    ran = spear("search", *RANDOM, "--out", mistyped, "--resume")
    assert_one_error(ran, f"no run in '{mistyped}' to continue (did you mean '{folder}'?)")
    assert not mistyped.exists()


def test_resume_of_a_finished_run_changes_nothing(spear: Spear, folder: Path) -> None:
    before, rows = result_of(folder), ledger_rows(folder)
    ran = spear("search", *RANDOM, "--out", folder, "--resume")
    assert ran.code in ENDED, ran.err
    assert result_of(folder) == before
    assert ledger_rows(folder) == rows


@pytest.mark.parametrize(
    ("agent", "budget"),
    [
        ("random", 8),
        ("gates", 40),
        ("network-slimming", 40),
        pytest.param("spear-ddpg", 8, marks=pytest.mark.slow),
    ],
)
def test_resume_after_rows_were_lost(spear: Spear, tmp_path: Path, agent: str, budget: int) -> None:
    """The journal ends in the middle of a row, as after a crash of the machine."""
    folder = tmp_path / "run"
    run = ("search", *TINY, "--agent", agent, "--budget", str(budget), "--out", folder)
    assert spear(*run).code in ENDED
    before, rows = result_of(folder), ledger_rows(folder)
    path = folder / "ledger.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]) + lines[-4][:50])
    (folder / "result.json").unlink()
    assert 0 < len(ledger_rows(folder)) < len(rows)
    ran = spear(*run, "--resume")
    assert ran.code in ENDED, ran.err
    assert result_of(folder) == before
    assert [row["counts"] for row in ledger_rows(folder)] == [row["counts"] for row in rows]
    assert len({tuple(row["counts"]) for row in rows}) == len(rows) == before["paid"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("--seed", "4"), "seed"),
        (("--agent", "uniform"), "agent"),
        (("--target", "0.5"), "target"),
        (("--budget", "13"), "budget"),
        (("--scoring", "plain"), "fingerprint.scoring, scoring"),
        (("--workload", "toys:toy"), "fingerprint.workload, workload"),
    ],
)
def test_resume_of_another_search(
    spear: Spear, folder: Path, changes: tuple[str, str], named: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ran = spear("search", *RANDOM, *changes, "--out", folder, "--resume")
    assert_one_error(ran, f"is another search (different: {named})")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate("settings.json", 0.5), "settings.json"),
        (replace("settings.json", "[]"), "its settings.json is damaged, or of something else"),
        (replace("ledger.log", "foreign\n"), "is no ledger"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_resume_of_a_damaged_run(
    spear: Spear, folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    assert_one_error(spear("search", *RANDOM, "--out", folder, "--resume"), message)


def test_resume_that_diverges(spear: Spear, folder: Path) -> None:
    """A row that this agent does not ask for next."""
    path = folder / "ledger.log"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [i for i, line in enumerate(lines) if '"evaluation"' in line]
    lines[rows[2]], lines[rows[3]] = lines[rows[3]], lines[rows[2]]
    path.write_text("".join(lines), encoding="utf-8")
    ran = spear("search", *RANDOM, "--out", folder, "--resume")
    assert_one_error(ran, "the resumed search diverged at evaluation 3")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_disturbed_run_ends_as_an_undisturbed_one(
    spear: Spear, tmp_path: Path, ending: signal.Signals
) -> None:
    budget = 250
    arguments = ("search", *TINY, "--agent", "random", "--budget", budget)
    folder, whole = tmp_path / "disturbed", tmp_path / "whole"
    command = [sys.executable, "-c", "from spear_gym.cli import main; main()"]
    process = subprocess.Popen(
        [*command, *map(str, arguments), "--out", str(folder)],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[1] / "helpers"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and len(ledger_rows(folder)) < 8:
            time.sleep(0.01)
        process.send_signal(ending)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    before = ledger_rows(folder)
    assert 8 <= len(before) < budget, err
    assert not (folder / "result.json").exists()
    if ending is signal.SIGINT:
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert f"the best plan so far is in {folder / 'plan.json'}" in out
        assert "--resume" in out
        feasible = [row for row in before if min(row["synops_fraction"], 1.0) <= 0.4]
        best = max(feasible, key=lambda row: (row["accuracy"], -row["synops"]))
        plan = read(folder / "plan.json")
        assert [len(group["kept"]) for group in plan["groups"]] == best["counts"]
    else:
        assert process.returncode == -signal.SIGKILL

    resumed = spear(*arguments, "--out", folder, "--resume")
    assert resumed.code in ENDED, resumed.err
    assert spear(*arguments, "--out", whole).code in ENDED
    assert result_of(folder) == result_of(whole)
    for name in ("plan.json", "settings.json", "network.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    rows = ledger_rows(folder)
    assert rows[: len(before)] == before
    assert len(rows) == len({tuple(row["counts"]) for row in rows}) == len(ledger_rows(whole))
    assert [row["counts"] for row in rows] == [row["counts"] for row in ledger_rows(whole)]


def test_interrupt_while_fine_tuning(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(PlanEvaluator, "finetune", interrupted)
        ran = spear("search", *RANDOM, "--out", folder)
    assert ran.code == 130
    assert f"the best plan so far is in {folder / 'plan.json'}" in ran.out
    assert spear("search", *RANDOM, "--out", folder, "--resume").code in ENDED
