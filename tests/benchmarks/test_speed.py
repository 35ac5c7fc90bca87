"""The benchmark scripts, each run once in its shortest form, and two of pytest-benchmark's kind.

Figures are judged elsewhere; here the scripts only stay runnable. For times of the last two:

    SPEAR_BENCHMARK_ROUNDS=30 .venv/bin/pytest tests/benchmarks --benchmark-only
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from benchmarks import before_after, common, device_speed, growth, speed, workload_speed
from benchmarks.common import Row

from spear_gym import load_workload
from spear_gym.evaluation import PlanEvaluator
from spear_gym.workload import Workload

ROUNDS = int(os.environ.get("SPEAR_BENCHMARK_ROUNDS", "1"))


def check(row: Row, *text: str) -> None:
    """Every cell is a positive number, but for those named."""
    assert all(isinstance(row[name], str) for name in text)
    numbers = {name: value for name, value in row.items() if name not in text}
    assert all(isinstance(value, int | float) and value > 0 for value in numbers.values()), numbers


# -------------------------------------------------------------------- networks


def test_tables_of_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = replace(speed.SMALL[0], batches=(8,), repeats=1)
    rows = speed.evaluation_rows(case)
    assert [row["ratio"] for row in rows] == list(speed.RATIOS)
    for row in rows:
        check({key: value for key, value in row.items() if key != "ratio"}, "network")
    common.show("evaluation", rows)
    printed = capsys.readouterr().out
    assert "digits" in printed
    assert "masked / ours" in printed
    common.write_json(tmp_path / "new" / "speed.json", {"evaluation": rows})
    written = json.loads((tmp_path / "new" / "speed.json").read_text())
    assert written["tables"] == {"evaluation": rows}
    assert written["machine"]["threads"] == 1


def test_table_of_training_steps() -> None:
    check(speed.training_row(replace(speed.SMALL[0], repeats=1)), "network")


# -------------------------------------------------------------------- workloads


def test_plans(tiny: Workload) -> None:
    row = workload_speed.scoring_row(tiny, plans=2, repeats=1)
    check(row, "workload", "default")
    assert row["default"] == tiny.scoring
    check(workload_speed.loop_row(growth.resized(tiny, steps=speed.T), repeats=1), "workload")
    with pytest.raises(ValueError, match="num_steps is 3"):
        workload_speed.loop_row(tiny, repeats=1)


def test_episodes(tiny: Workload) -> None:
    check(workload_speed.bfloat16_row(tiny, plans=3), "workload")
    check(workload_speed.overhead_row(tiny, workload_speed.ENVS, repeats=1), "workload")
    check(workload_speed.vector_row(tiny, workload_speed.ENVS, repeats=1), "workload")


def test_search(tiny: Workload) -> None:
    row = workload_speed.search_row(tiny, budget=6)
    assert row.pop("from memory, memory_bytes=0") == 0
    check(row, "workload", "same plans")
    assert row["same plans"] == "True"


def test_one_worker_and_memory(tiny: Workload) -> None:
    rate, start = workload_speed.worker_rate(tiny, plans=3, workers=1)
    assert rate > 0
    assert start > 0
    check(workload_speed.memory_of("digits", plans=1), "workload")


@pytest.mark.slow
def test_other_processes(tiny: Workload) -> None:
    rate, start = workload_speed.worker_rate(tiny, plans=4, workers=2)
    assert rate > 0
    assert start > 0
    check(workload_speed.memory_row("digits", plans=1), "workload")


# -------------------------------------------------------------------- device


def test_plans_on_a_device() -> None:
    """On the CPU, which is a device, too: SynOps of one plan after the other are its own."""
    row = device_speed.device_row(replace(speed.SMALL[0], repeats=1), "cpu", scored=16, plans=2)
    assert row.pop("SynOps of one by one, largest change") == 0
    assert row.pop("SynOps of side by side, largest change") == pytest.approx(0, abs=0.02)
    check(row, "network")


# -------------------------------------------------------------------- growth


def test_growth(tiny: Workload, tmp_path: Path) -> None:
    measured = growth.measure(
        tiny, "plain", evaluations=9, every=2, plans=1, repeats=1, samples=(30, 200), steps=(1, 2)
    )
    assert measured.run.evaluations == [2, 4, 6, 8, 9]
    assert measured.run.remembered_per_plan > 500
    assert measured.samples.x == [30, 200]
    assert "bytes per plan" in growth.describe(measured)
    growth.write(tmp_path, measured, tiny.name, "plain")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "growth.json").read_text())["steps"]["x"] == [1, 2]


def test_resized(tiny: Workload) -> None:
    search = tiny.splits.search
    more = growth.resized(tiny, samples=len(search) + 5).splits.search
    assert more.inputs[len(search) :].equal(search.inputs[:5])
    assert growth.resized(tiny, steps=7, calibration=11).num_steps == 7
    assert len(growth.resized(tiny, calibration=11).calibration) == 11


def test_line() -> None:
    line = growth.fit([0, 1, 2], [1.0, 3.0, 5.0])
    assert line.slope == pytest.approx(2)
    assert line(10) == pytest.approx(21)
    assert line.r2 == pytest.approx(1)
    # Through (0, 0), (1, 0), (2, 3): slope 3/2, intercept -1/2; distances 1/2, 1, 1/2 of a range 3.
    assert growth.fit([0, 1, 2], [0.0, 0.0, 3.0]).furthest == pytest.approx(1 / 3)


# -------------------------------------------------------------------- helpers


def test_fresh_plans_are_distinct_and_the_same_for_a_seed(tiny: Workload) -> None:
    space = PlanEvaluator(tiny).space
    plans = list(islice(common.fresh_plans(space, 3), 100))
    assert len(set(plans)) == 100
    assert plans == [space.counts(r) for r in islice(common.fresh_ratios(space, 3), 100)]


def test_no_plan_left(toy: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "TRIES", 200)
    space = PlanEvaluator(toy, min_channels=11).space
    with pytest.raises(ValueError, match="no new plan in 200 draws after 4 plans"):
        list(common.fresh_plans(space))


def test_before_and_after() -> None:
    seconds = before_after.measured()
    assert tuple(seconds) == before_after.TASKS
    times = {task: [1.0, 0.002, 0.004] for task in seconds}
    half = {task: [0.002] for task in seconds}
    rows = before_after.table(times, half).splitlines()
    assert len(rows) == 2 + len(seconds)
    assert rows[2] == "| import spear_gym | 4.0 | 2.0 | 0.50 |"


def test_memory_of_this_process() -> None:
    assert 0 < common.resident_bytes() <= common.peak_bytes() * 1.01


# -------------------------------------------------------------------- pytest-benchmark


def test_evaluation_of_a_plan(benchmark: Any) -> None:
    evaluator = PlanEvaluator(load_workload("digits"))
    plans = common.fresh_plans(evaluator.space)
    evaluator.evaluate(next(plans))
    benchmark.pedantic(
        evaluator.evaluate, setup=lambda: ((next(plans),), {}), rounds=ROUNDS, iterations=1
    )
    assert evaluator.runs >= 2


def test_training_step(benchmark: Any) -> None:
    step = speed.training_steps(speed.SMALL[0])["ours"]
    benchmark.pedantic(step, rounds=ROUNDS, iterations=1, warmup_rounds=1)
