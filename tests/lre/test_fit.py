"""Fitting for real: which samples are taken, in which order, and that none is lost."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import toys
from toys import failed, rebuilt

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.lre import LineIntervals, LREError, Sample, SampleStore, bounded, fit_line
from spear_gym.lre import fit as lre_fit
from spear_gym.lre.fit import Progress, Stopping, fit_lre, sample_plan
from spear_gym.lre.sampling import spanning_plans
from spear_gym.lre.targets import TargetError
from spear_gym.training import Recipe
from spear_gym.workload import Workload, measure

OFF = Stopping()
SURE = Stopping(confidence=0.95)


@pytest.fixture
def evaluator(tiny: Workload) -> PlanEvaluator:
    return PlanEvaluator(tiny)


class Counting:
    """Counts the samples that a function makes, and can fail some of them."""

    def __init__(self, make: Any, failing: tuple[int, ...] = ()) -> None:
        self.make, self.failing = make, failing
        self.made: list[tuple[Counts, int]] = []

    def __call__(self, evaluator: PlanEvaluator, item: tuple[Counts, int]) -> Sample:
        self.made.append(item)
        found: Sample = self.make(evaluator, item)
        if item[1] in self.failing:
            return dataclasses.replace(failed(), counts=item[0])
        return found


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Samples close to a line instead of fine-tunes."""
    return counting(monkeypatch, jobs.close_to_a_line)


@pytest.fixture
def loose(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Samples with so much noise that the line fits poorly."""
    return counting(monkeypatch, jobs.near_a_line)


def counting(patch: pytest.MonkeyPatch, make: Any, failing: tuple[int, ...] = ()) -> Counting:
    counter = Counting(make, failing)
    patch.setattr(lre_fit, "sample_plan", counter)
    return counter


# When it stops.


def test_stops_as_soon_as_it_is_sure(evaluator: PlanEvaluator, tight: Counting) -> None:
    assert fit_lre(evaluator, stopping=OFF).fit.samples == 6
    assert fit_lre(evaluator, stopping=SURE).fit.samples == 19, "what a 95 % bound needs"
    half = Stopping(confidence=0.5)
    assert fit_lre(evaluator, stopping=half).fit.samples == 6, "no bound, no samples for one"
    everything = Stopping(tolerance=0.0, cap=12)
    assert fit_lre(evaluator, stopping=everything).fit.samples == 12
    assert len(tight.made) == 6 + 19 + 6 + 12


def test_a_noisy_relation_takes_more_and_the_cap_ends_it(
    evaluator: PlanEvaluator, loose: Counting
) -> None:
    fit = fit_lre(evaluator, stopping=Stopping(cap=30))
    assert (fit.fit.samples, len(loose.made)) == (30, 30)
    widths = Stopping().widths(fit.fitted)
    assert widths is not None
    assert widths[0] > Stopping().tolerance
    some = fit_lre(evaluator, stopping=Stopping(tolerance=0.12, cap=40))
    assert 6 < some.fit.samples < 40
    widths = Stopping().widths(some.fitted)
    assert widths is not None
    assert widths[0] < 0.12
    before = Stopping().widths(some.fitted[:-1])
    assert before is not None
    assert before[0] >= 0.12 or some.fit.samples == 6, "one fewer was not enough"


def test_a_poor_fit_takes_the_samples_of_its_wider_bound(
    evaluator: PlanEvaluator, loose: Counting
) -> None:
    """Otherwise it would end with too few for the search that asked for it."""
    fit = fit_lre(evaluator, stopping=Stopping(tolerance=0.5, confidence=0.9))
    assert fit.poor
    assert fit.fit.samples == 19, "0.95 is taken for 0.9"
    assert bounded(fit, 0.9).predict(0.4) > fit.predict(0.4)


@pytest.mark.parametrize(("estimator", "samples"), [("linear", 6), ("per-layer", 7), ("trees", 11)])
def test_an_estimator_gets_the_samples_it_needs(
    evaluator: PlanEvaluator, tight: Counting, estimator: str, samples: int
) -> None:
    """Four layers and an intercept, one sample to spare, one to be left out by a bound."""
    assert fit_lre(evaluator, estimator=estimator).fit.samples == samples


def test_more_parameters_than_samples_are_refused_before_any(
    evaluator: PlanEvaluator, tight: Counting
) -> None:
    message = "samples is 5; the estimator 'per-layer' needs at least 6 on this network; raise it"
    with pytest.raises(LREError, match=message):
        fit_lre(evaluator, stopping=Stopping(cap=5), estimator="per-layer")
    with pytest.raises(LREError, match="unknown estimator 'liner'; did you mean 'linear'"):
        fit_lre(evaluator, estimator="liner")
    assert tight.made == []


def test_failed_samples_take_a_place_and_do_not_count(
    evaluator: PlanEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = counting(monkeypatch, jobs.close_to_a_line, failing=(1, 4))
    seen: list[Progress] = []
    fit = fit_lre(evaluator, on_sample=seen.append)
    assert (fit.fit.samples, fit.failed, len(counter.made)) == (6, 2, 8)
    assert [p.failed for p in seen] == [0, 1, 1, 1, 2, 2, 2, 2]
    assert fit.fit.residual_std < 0.005


def test_a_plan_that_cannot_be_scored_is_a_failed_sample() -> None:
    evaluator = PlanEvaluator(toys.overflowing(), scoring="plain")
    found = sample_plan(evaluator, ((12, 12), 0))
    assert "output is not finite" in found.failed
    assert all(map(math.isnan, (found.scored, found.finetuned, found.accuracy)))
    assert found.counts == (12, 12)


# In which order.


def in_order(order: random.Random) -> Any:
    """`run_tasks` with results that come in any order, as from several workers."""

    def run(function: Any, items: Any, *, context: Any, workers: int) -> Iterator[Any]:
        waiting = list(enumerate(items))
        while waiting:
            # Up to four are under way; any of them may be the next to end.
            index, item = waiting.pop(order.randrange(min(4, len(waiting))))
            yield index, function(context, item)

    return run


@pytest.mark.parametrize(
    "stopping", [OFF, SURE, Stopping(tolerance=0.12)], ids=["off", "sure", "wide"]
)
def test_the_order_of_completion_does_not_matter(
    evaluator: PlanEvaluator, monkeypatch: pytest.MonkeyPatch, stopping: Stopping
) -> None:
    """The shortest sequence of plans that is enough, whichever samples ended first."""
    make = jobs.close_to_a_line if stopping.tolerance < 0.1 else jobs.near_a_line
    counting(monkeypatch, make)
    expected = fit_lre(evaluator, stopping=stopping, held_out=3)
    plans = spanning_plans(evaluator, stopping.cap, 0)
    assert [s.counts for s in expected.fitted] == plans[: expected.fit.samples]
    for seed in range(4):
        order = random.Random(seed)
        monkeypatch.setattr(lre_fit, "run_tasks", in_order(order))
        assert fit_lre(evaluator, stopping=stopping, held_out=3) == expected
    enough = [n for n in range(1, 41) if stopping.enough(expected.fitted[:n])]
    assert enough[0] == expected.fit.samples


@pytest.mark.slow
def test_two_workers_give_the_fit_of_one(
    evaluator: PlanEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lre_fit, "sample_plan", jobs.close_to_a_line)
    assert fit_lre(evaluator, held_out=2, workers=2) == fit_lre(evaluator, held_out=2)


def test_progress(evaluator: PlanEvaluator, tight: Counting) -> None:
    seen: list[Progress] = []
    fit = fit_lre(evaluator, stopping=Stopping((0.2, 0.6)), held_out=2, on_sample=seen.append)
    samples = [p.sample for p in seen]
    assert samples == [*fit.fitted, *fit.samples[6:]]
    assert [p.done for p in seen] == [1, 2, 3, 4, 5, 6, 1, 2]
    assert [p.mean_half_width for p in seen[:2]] == [None, None]
    for number in range(3, 7):
        line = LineIntervals.of(samples[:number])
        at = [line.scored_at(target) for target in (0.2, 0.6)]
        now = seen[number - 1]
        assert now.mean_half_width == max(map(line.mean_half_width, at))
        assert now.plan_half_width == max(map(line.plan_half_width, at))
    assert seen[6].mean_half_width is None, "held out, no part of the line"


def test_progress_shows_the_mean_becoming_sure(evaluator: PlanEvaluator, loose: Counting) -> None:
    seen: list[Progress] = []
    fit_lre(evaluator, stopping=Stopping(tolerance=0.0), on_sample=seen.append)
    few, many = seen[7], seen[39]
    assert None not in (few.mean_half_width, many.mean_half_width)
    assert many.mean_half_width < 0.6 * few.mean_half_width  # type: ignore[operator]
    assert many.plan_half_width > 0.6 * few.plan_half_width  # type: ignore[operator]


# Few plans.


def test_fewer_plans_than_the_cap(toy: Workload, tight: Counting) -> None:
    evaluator = PlanEvaluator(toy, channel_multiple=12)
    fit = fit_lre(evaluator, stopping=Stopping(tolerance=0.0))
    assert sorted(s.counts for s in fit.samples) == [(1, 1), (1, 12), (12, 1), (12, 12)]


def test_too_few_plans_to_hold_some_out_are_refused_before_any(
    toy: Workload, tight: Counting
) -> None:
    evaluator = PlanEvaluator(toy, channel_multiple=12)
    with pytest.raises(LREError, match="too few plans for 4 samples and 2 held out; lower one"):
        fit_lre(evaluator, held_out=2)
    assert tight.made == []


# Interrupted.


def test_an_interrupted_fit_goes_on_where_it_was(
    evaluator: PlanEvaluator, tight: Counting, tmp_path: Path
) -> None:
    expected = fit_lre(evaluator, stopping=SURE, held_out=3)
    tight.made.clear()
    path = tmp_path / "samples.json"
    seen: list[Progress] = []

    def interrupt(now: Progress) -> None:
        seen.append(now)
        if len(seen) in (4, 20, 41):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fit_lre(evaluator, stopping=SURE, held_out=3, store=path, on_sample=interrupt)
    assert fit_lre(evaluator, stopping=SURE, held_out=3, store=path) == expected
    assert len(tight.made) == len(set(tight.made)) == len(expected.samples) == 22
    assert fit_lre(evaluator, stopping=SURE, held_out=3, store=path) == expected
    assert len(tight.made) == 22, "a finished fit fine-tunes nothing again"


def test_a_larger_fit_takes_the_samples_of_a_smaller_one(
    evaluator: PlanEvaluator, tight: Counting, tmp_path: Path
) -> None:
    path = tmp_path / "samples.json"
    fit_lre(evaluator, stopping=OFF, store=path)
    fit = fit_lre(evaluator, stopping=SURE, store=path)
    assert (fit.fit.samples, len(tight.made)) == (19, 19)
    other = fit_lre(evaluator, stopping=OFF, seed=1, store=path)
    assert len(tight.made) == 25, "other fine-tunes"
    assert other != fit


def test_a_store_of_another_network_is_refused(
    evaluator: PlanEvaluator, toy: Workload, tight: Counting, tmp_path: Path
) -> None:
    path = tmp_path / "samples.json"
    fit_lre(evaluator, store=path)
    with pytest.raises(LREError, match=r"belong to something else \(different: workload\)"):
        fit_lre(PlanEvaluator(toy), store=path)


FIT = """
import sys
from pathlib import Path
import toys
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre.fit import Stopping, fit_lre

finetune, log = PlanEvaluator.finetune, Path(sys.argv[1]).with_suffix(".log")

def counted(self, counts, **options):
    found = finetune(self, counts, **options)
    with log.open("a") as file:
        file.write(f"{options['seed']} {counts}\\n")
    return found

PlanEvaluator.finetune = counted
everything = Stopping(tolerance=0.0, cap=14)
fit_lre(PlanEvaluator(toys.tiny()), stopping=everything, store=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_fit_goes_on_where_it_was(tmp_path: Path, tiny: Workload) -> None:
    path = tmp_path / "samples.json"
    command = [sys.executable, "-c", FIT, str(path)]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1] / "helpers"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and stored(path) < 4:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL, err
    before = stored(path)
    assert 4 <= before < 14
    subprocess.run(command, env=environment, check=True, timeout=300)
    assert stored(path) == 14
    lines = path.with_suffix(".log").read_text(encoding="utf-8").splitlines()
    # One that ended between its fine-tune and its record may be made again, no other.
    assert 14 <= len(lines) <= 15
    assert len(set(lines)) == 14
    whole = fit_lre(PlanEvaluator(tiny), stopping=Stopping(tolerance=0.0, cap=14))
    store = SampleStore(path, PlanEvaluator(tiny).fingerprint())
    kept = [s for s in (store.get(s.counts, i) for i, s in enumerate(whole.samples)) if s]
    assert [timeless(s) for s in kept] == [timeless(s) for s in whole.samples]
    assert fit_line(kept, whole.fingerprint).weight == whole.to_json()["weight"]


def stored(path: Path) -> int:
    return len(json.loads(path.read_text(encoding="utf-8"))["samples"]) if path.exists() else 0


def timeless(sample: Sample) -> Sample:
    return dataclasses.replace(sample, seconds=0.0)


# What is sampled.


def test_fit_finetunes_with_the_final_recipe(toy: Workload) -> None:
    evaluator = PlanEvaluator(toy)
    seen: list[Progress] = []
    all_four = Stopping(tolerance=0.0, cap=4)
    found = fit_lre(evaluator, stopping=all_four, held_out=2, seed=3, on_sample=seen.append)
    assert found.fingerprint == evaluator.fingerprint()
    assert len(seen) == len(found.samples) == 6
    assert len({s.counts for s in found.samples}) == 6, "held-out plans are not fitted to"
    assert (found.fit.samples, found.held_out and found.held_out.samples) == (4, 2)
    # The samples are what scoring and the final fine-tune give.
    first = found.samples[0]
    assert first.scored == evaluator.evaluate(first.counts).synops_fraction
    tuned = evaluator.finetune(first.counts, seed=3000)
    unpruned = measure(toy, toy.graph.model, "search").synops
    assert first.finetuned == measure(toy, tuned.model, "search").synops / unpruned
    assert first.accuracy == tuned.search.accuracy
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(
        fit_lre(PlanEvaluator(toy), stopping=all_four, seed=3).samples[0], seconds=0
    )


def test_diverging_finetunes_are_left_out(toy: Workload) -> None:
    evaluator = PlanEvaluator(rebuilt(toy, finetune=Recipe(epochs=3, lr=3e37)))
    failed = sample_plan(evaluator, ((12, 12), 0))
    assert "loss became" in failed.failed
    assert math.isnan(failed.finetuned)
    with pytest.raises(LREError, match=r"0 samples given \(3 more failed\)"):
        fit_lre(evaluator, stopping=Stopping(cap=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cap": 2}, "samples is 2; .* at least 3"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"confidence": 0.99}, "samples is 40, .* confidence 0.99 needs 99"),
        ({"confidence": 1.0}, "confidence is 1; it must lie inside"),
        ({"targets": ()}, "targets are none; give one or more"),
        ({"targets": (0.3, 15.0)}, r"targets are 0.3, 15.0; give one or more in \(0, 1\]"),
    ],
)
def test_stopping_rules_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LREError, match=message):
        Stopping(**settings)


def test_negative_held_out(toy: Workload) -> None:
    with pytest.raises(LREError, match="held_out is -1"):
        fit_lre(PlanEvaluator(toy), held_out=-1)


@pytest.mark.parametrize("share", [0.999, 0.5])
def test_a_target_below_the_smallest_plan_costs_one_fine_tune(
    tight: Counting, evaluator: PlanEvaluator, tmp_path: Path, share: float
) -> None:
    store = tmp_path / "samples.json"
    smallest = fit_lre(evaluator, stopping=Stopping(cap=3, tolerance=0.0)).samples[0]
    assert smallest.counts == evaluator.space.smallest_counts()
    tight.made.clear()
    targets = (0.9, share * smallest.finetuned)
    with pytest.raises(TargetError, match=r"but the smallest plan has 0\.\d{4} .*max_ratio"):
        fit_lre(evaluator, store=store, keeping=targets)
    assert len(tight.made) == 1
    with pytest.raises(TargetError, match=r"target is 1\.5; it must lie in \(0, 1\]"):
        fit_lre(evaluator, keeping=(1.5,))
    assert len(tight.made) == 1, "what can be seen costs nothing"
    fit = fit_lre(evaluator, store=store, keeping=(smallest.finetuned,))
    assert len(tight.made) == fit.fit.samples, "what was paid for is not paid again"
