"""Fitting SynOps estimators: random plans, really fine-tuned, until the fit is sure enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from spear_gym.evaluation import Counts, EvaluationFailed, PlanEvaluator
from spear_gym.lre import (
    FittedEstimator,
    LineIntervals,
    LREError,
    Sample,
    SampleStore,
    fit_estimator,
    fit_line,
    samples_needed,
)
from spear_gym.lre.conformal import NO_BOUND, widened
from spear_gym.lre.families import FAMILIES, check_family
from spear_gym.lre.sampling import spanning_plans, spread_plans
from spear_gym.lre.targets import TargetError, check_fraction
from spear_gym.snn.graph import counted_synapses
from spear_gym.training import Recipe, TrainingDiverged
from spear_gym.workers.tasks import run_tasks

CAP = 40
"""Samples at which a fit stops, sure or not."""

TOLERANCE = 0.02
"""Half width of the interval of the mean at which a fit stops, of the unpruned SynOps."""

FEWEST_TO_STOP = 6
"""Fewest samples before a fit may stop: with fewer the spread itself is hardly known."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is.

    Attributes:
        sample: that came in last.
        done: samples so far, failed ones included.
        failed: those that failed.
        mean_half_width: of the 95 % interval of the mean prediction, the largest over the targets;
            ``None`` before there is one.
        plan_half_width: of the 95 % interval of one further plan.
    """

    sample: Sample
    done: int
    failed: int
    mean_half_width: float | None
    plan_half_width: float | None


OnSample = Callable[[Progress], None]
"""Called as samples come in."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a fit has enough samples.

    Attributes:
        targets: SynOps fractions at which it must be sure.
        tolerance: half width, of the unpruned SynOps, that the 95 % interval of the mean must not
            exceed at any target; 0 takes all samples up to the cap.
        confidence: of bounds that will be taken; asks for the samples that they need
            (:func:`spear_gym.lre.samples_needed`), more of them where the line fits poorly.
        cap: samples at which it stops in any case.

    Raises:
        LREError: when a setting is out of range.
    """

    targets: tuple[float, ...] = (0.15, 0.3, 0.5)
    tolerance: float = TOLERANCE
    confidence: float | None = None
    cap: int = CAP

    def __post_init__(self) -> None:
        if self.cap < 3:
            raise LREError(f"samples is {self.cap}; a line with a residual needs at least 3")
        if not self.targets or not all(0.0 < target <= 1.0 for target in self.targets):
            raise LREError(
                f"targets are {', '.join(map(str, self.targets)) or 'none'}; give one or more in "
                "(0, 1], fractions of the unpruned SynOps"
            )
        if not 0.0 <= self.tolerance < 1.0:
            raise LREError(
                f"tolerance is {self.tolerance:g}; it must lie in [0, 1), a share of the unpruned "
                "SynOps; 0 takes all samples up to the cap"
            )
        if self.confidence is not None and samples_needed(self.confidence) > self.cap:
            raise LREError(
                f"samples is {self.cap}, and a bound at confidence {self.confidence:g} needs "
                f"{samples_needed(self.confidence)}; raise it (`spear lre --samples`), lower the "
                "confidence, or set it to 'off'"
            )

    def widths(self, samples: Sequence[Sample]) -> tuple[float, float] | None:
        """The larger half widths over the targets, of the mean and of one plan."""
        try:
            line = LineIntervals.of(samples)
        except LREError:
            return None
        at = [line.scored_at(target) for target in self.targets]
        return max(map(line.mean_half_width, at)), max(map(line.plan_half_width, at))

    def enough(self, samples: Sequence[Sample], least: int = FEWEST_TO_STOP) -> bool:
        """Whether these samples are enough.

        Args:
            samples: in the order of the plans.
            least: how many must have succeeded in any case.
        """
        good = [sample for sample in samples if not sample.failed]
        widths = self.widths(good)
        if len(good) < least or widths is None or not widths[0] < self.tolerance:
            return False
        if self.confidence is None or self.confidence <= NO_BOUND:
            return True
        poor = fit_line(good, {}).poor
        return len(good) >= samples_needed(widened(self.confidence) if poor else self.confidence)


def fit_lre(
    evaluator: PlanEvaluator,
    *,
    stopping: Stopping | None = None,
    held_out: int = 0,
    estimator: str = "linear",
    seed: int = 0,
    workers: int = 1,
    store: Path | None = None,
    on_sample: OnSample | None = None,
    keeping: Sequence[float] = (),
) -> FittedEstimator:
    """Fine-tunes random plans with the final recipe until the prediction is sure enough.

    Plans span the range of SynOps, each halving the widest gap left by those before it. Which
    samples a fit takes does not depend on the number of workers or on interruptions: it takes the
    shortest sequence of plans that is enough.

    Args:
        evaluator: scores and fine-tunes; the fit carries its fingerprint.
        stopping: when there are enough samples.
        held_out: further plans to judge the fit on, of the same range.
        estimator: kind of estimator, see :mod:`spear_gym.lre.families`.
        seed: of the plans and the fine-tunes.
        workers: worker processes.
        store: file that samples are kept in as they come; a fit that was killed takes them again.
        on_sample: progress callback.
        keeping: targets that plans shall keep later; those out of reach are refused after the
            first fine-tune, see :func:`check_reachable`.

    Raises:
        TargetError: when a target in ``keeping`` cannot be reached.
        LREError: when too few samples are left to fit to, or the store belongs to something else.
        OwnedError: when another process adds samples to the store.
    """
    stopping = stopping or Stopping()
    check_family(estimator)
    fewest = FAMILIES[estimator].fewest(len(counted_synapses(evaluator.graph)))
    if stopping.cap < fewest:
        raise LREError(
            f"samples is {stopping.cap}; the estimator '{estimator}' needs at least {fewest} on "
            "this network; raise it (`spear lre --samples`), or choose another"
        )
    if held_out < 0:
        raise LREError(f"held_out is {held_out}; it must be at least 0")
    plans = spanning_plans(evaluator, stopping.cap, seed)
    items = [(counts, seed * 1000 + index) for index, counts in enumerate(plans)]
    others = _held_out_plans(evaluator, held_out, seed + 1, plans)
    held = [(counts, seed * 1000 + stopping.cap + index) for index, counts in enumerate(others)]
    least = max(FEWEST_TO_STOP, fewest + 1)  # bounds leave one out
    with SampleStore(store, evaluator.fingerprint()) as kept:
        if keeping:
            _check_reachable(evaluator, keeping, kept, seed)
        fitted = _Collection(items, kept, stopping, on_sample, least).run(evaluator, workers)
        rest = _Collection(held, kept, None, on_sample).run(evaluator, workers)
    return fit_estimator(estimator, fitted, evaluator.fingerprint(), rest)


def check_reachable(
    evaluator: PlanEvaluator, targets: Sequence[float], *, store: Path | None, seed: int = 0
) -> None:
    """Refuses, before a fit is paid for, a target that even the smallest plan misses.

    That plan is the first of every fit, so what is paid for it here is not paid again.

    Args:
        evaluator: scores and fine-tunes.
        targets: SynOps fractions after fine-tuning.
        store: of the fit's samples.
        seed: of the fit.

    Raises:
        TargetError: when a target is out of range, or cannot be reached.
        LREError: when the store belongs to something else.
    """
    with SampleStore(store, evaluator.fingerprint()) as kept:
        _check_reachable(evaluator, targets, kept, seed)


def _check_reachable(
    evaluator: PlanEvaluator, targets: Sequence[float], kept: SampleStore, seed: int
) -> None:
    for target in targets:
        check_fraction(target)
    item = (evaluator.space.smallest_counts(), seed * 1000)
    sample = kept.get(*item)
    if sample is None:
        sample = sample_plan(evaluator, item)
        kept.add(sample, item[1])
    # Nothing smaller can be made of a network, by a search or by trimming it.
    if not sample.failed and min(targets) < sample.finetuned:
        raise TargetError(
            f"target is {min(targets):g}, but the smallest plan has "
            f"{math.ceil(sample.finetuned * 1e4) / 1e4:.4f} of the unpruned SynOps after "
            f"fine-tuning (every group pruned by {evaluator.space.limits}); raise the target or "
            "max_ratio"
        )


def _held_out_plans(
    evaluator: PlanEvaluator, count: int, seed: int, exclude: Sequence[Counts]
) -> list[Counts]:
    if not count:
        return []
    try:
        return spread_plans(evaluator, count, seed, exclude)
    except ValueError as error:
        raise LREError(
            f"the network has too few plans for {len(exclude)} samples and {count} held out; lower "
            "one of them (`spear lre --samples --held-out`)"
        ) from error


class _Collection:
    """Samples of a sequence of plans, until there are enough.

    Args:
        items: plans and the seeds of their fine-tunes, in order.
        kept: samples made so far, and where new ones go.
        stopping: when there are enough; all are wanted without a rule.
        on_sample: progress callback.
        least: samples that must have succeeded before they are enough.
    """

    def __init__(
        self,
        items: list[tuple[Counts, int]],
        kept: SampleStore,
        stopping: Stopping | None,
        on_sample: OnSample | None,
        least: int = FEWEST_TO_STOP,
    ) -> None:
        self._items, self._kept = items, kept
        self._stopping, self._on_sample, self._least = stopping, on_sample, least
        self._done: dict[int, Sample] = {}

    def run(self, evaluator: PlanEvaluator, workers: int) -> list[Sample]:
        """The samples of the shortest sequence of plans that is enough."""
        for index, item in enumerate(self._items):
            sample = self._kept.get(*item)
            if sample is not None:
                self._add(index, sample)
        waiting = [i for i in range(len(self._items)) if i not in self._done]
        if self._enough() is None:
            todo = [self._items[i] for i in waiting]
            running = run_tasks(sample_plan, todo, context=evaluator, workers=workers)
            with closing(running):
                for position, sample in running:
                    index = waiting[position]
                    self._kept.add(sample, self._items[index][1])
                    self._add(index, sample)
                    if self._enough() is not None:
                        break
        found = self._enough()
        assert found is not None, "all plans have been sampled"
        return found

    def _enough(self) -> list[Sample] | None:
        """The shortest sequence that is enough, once all of it is there."""
        found: list[Sample] = []
        for index in range(len(self._items)):
            if index not in self._done:
                return None
            found.append(self._done[index])
            if self._stopping is not None and self._stopping.enough(found, self._least):
                break
        return found

    def _add(self, index: int, sample: Sample) -> None:
        self._done[index] = sample
        if self._on_sample is None:
            return
        so_far = [self._done[i] for i in sorted(self._done)]
        widths = None if self._stopping is None else self._stopping.widths(so_far)
        failed = sum(bool(s.failed) for s in so_far)
        self._on_sample(Progress(sample, len(so_far), failed, *(widths or (None, None))))


def sample_plan(
    evaluator: PlanEvaluator, item: tuple[Counts, int], *, recipe: Recipe | None = None
) -> Sample:
    """Scores and fine-tunes one plan; one that fails in either gives a failed sample.

    Args:
        evaluator: scores and fine-tunes.
        item: channels kept per group, and the seed of the fine-tune.
        recipe: of the fine-tune, the workload's by default.
    """
    counts, seed = item
    nan = float("nan")
    try:
        scored = evaluator.evaluate(counts)
    except EvaluationFailed as error:
        return Sample(counts, nan, nan, nan, 0.0, failed=str(error))
    try:
        tuned = evaluator.finetune(counts, seed=seed, recipe=recipe)
    except TrainingDiverged as error:
        before = (counts, scored.synops_fraction)
        return Sample(*before, nan, nan, 0.0, scored.layer_fractions, failed=str(error))
    return Sample(
        counts,
        scored.synops_fraction,
        tuned.search.synops / evaluator.reference.synops,
        tuned.search.accuracy,
        tuned.seconds,
        scored.layer_fractions,
        tuple(layer.synops / evaluator.reference.synops for layer in tuned.search.layers),
    )
