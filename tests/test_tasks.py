"""Independent jobs: the same results in this process and in others."""

from __future__ import annotations

import dataclasses
import os

import pytest
from toys import process, scaled

from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre_fit import sample_plan
from spear_gym.tasks import default_workers, run_tasks
from spear_gym.workload import Workload


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


def test_default_is_every_core_there_is() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
