"""Independent jobs: the same results in this process and in others."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from jobs import Unreadable, dies, dies_once, leaves_a_mark, named
from toys import process, scaled

from spear_gym import workload as catalogue
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre.fit import sample_plan
from spear_gym.workers.tasks import WorkerDied, WorkerFailed, default_workers, run_tasks
from spear_gym.workload import Workload, load_workload, register_workload


def test_in_this_process() -> None:
    assert dict(run_tasks(scaled, [3, 1, 2], context=10.0)) == {0: 30.0, 1: 10.0, 2: 20.0}
    assert list(run_tasks(scaled, [], context=10.0, workers=4)) == []
    assert next(run_tasks(process, [1], context=None, workers=4))[1][1] == os.getpid()


def test_errors_come_through() -> None:
    with pytest.raises(ValueError, match="item -1 is negative"):
        list(run_tasks(scaled, [1, -1], context=1.0))


@pytest.mark.slow
def test_in_other_processes_of_one_thread(tiny: Workload) -> None:
    context, plans = PlanEvaluator(tiny), [((3, 4, 5), 1), ((6, 8, 2), 2), ((2, 2, 2), 3)]
    here = dict(run_tasks(sample_plan, plans, context=context, workers=1))
    there = dict(run_tasks(sample_plan, plans, context=PlanEvaluator(tiny), workers=2))
    assert set(there) == {0, 1, 2}
    for index, sample in here.items():
        assert sample is not None
        assert there[index] is not None
        assert dataclasses.replace(sample, seconds=0) == dataclasses.replace(
            there[index], seconds=0
        )
    items = [item for _, item in run_tasks(process, [0, 1], context=None, workers=2)]
    assert all(pid != os.getpid() and threads == 1 for _, pid, threads in items)


@pytest.mark.slow
def test_errors_come_through_from_other_processes() -> None:
    with pytest.raises(ValueError, match="item -1 is negative"):
        list(run_tasks(scaled, [-1, -1], context=1.0, workers=2))


@pytest.mark.slow
def test_the_task_of_a_killed_worker_runs_again(tmp_path: Path) -> None:
    context = (torch.arange(20_000.0), tmp_path)
    assert dict(run_tasks(dies_once, [7, 9], context=context, workers=2)) == {0: 7.0, 1: 9.0}


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_is_given_up() -> None:
    with pytest.raises(WorkerDied, match=r"died 3 times; tasks left: \[0, 1\]"):
        list(run_tasks(dies, [0, 1], context=None, workers=2))


@pytest.mark.slow
def test_a_context_that_cannot_be_read_is_told() -> None:
    with pytest.raises(WorkerFailed, match=r"could not start: ValueError: .*'no number'"):
        list(run_tasks(process, [0, 1], context=Unreadable(), workers=2))


@pytest.mark.slow
def test_a_function_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nowhere_on_disk")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def task(context, item): return item", module.__dict__)
    with pytest.raises(WorkerFailed, match="ModuleNotFoundError: No module named 'nowhere_on_disk"):
        list(run_tasks(module.task, [0, 1], context=None, workers=2))


@pytest.mark.slow
def test_a_workload_that_the_user_registered_travels_whole(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FACTORIES", dict(catalogue.FACTORIES))
    monkeypatch.setattr(catalogue, "_LOADED", {})
    splits, graph = tiny.splits, tiny.graph
    register_workload(
        "mine",
        lambda: Workload(
            model=graph.model,
            train=splits.train,
            search=splits.search,
            test=splits.test,
            num_steps=tiny.num_steps,
            name="not its key",
        ),
    )
    workload = load_workload("mine")
    expected = ("not its key", True, workload.reference().synops, workload.fingerprint())
    results = dict(run_tasks(named, [0, 1], context=workload, workers=2))
    assert results == {0: expected, 1: expected}


@pytest.mark.slow
def test_tasks_that_nobody_waits_for_are_not_run(tmp_path: Path) -> None:
    """Only those that were under way, or next in the workers' queue, when the caller stopped."""
    running = run_tasks(leaves_a_mark, range(40), context=tmp_path, workers=2)
    next(running)
    running.close()
    time.sleep(2.5)  # enough for all of them
    assert len(list(tmp_path.iterdir())) <= 10


def test_default_is_every_core_there_is() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
