"""Keeping the promise: what is done with a fine-tuned network that misses the SynOps target.

Nothing of it is in the paper, as far as that is known. SynOps and accuracies here are those on the
search split, so that test stays untouched. Because the two splits differ a little, the aim is
:data:`AIM` of the target.

- **Trim.** Over the aim, the channels go that cost least: step by step those of the group which
  loses least accuracy per SynOp saved, tried out on the fine-tuned network without training. A
  brief fine-tune follows, SynOps are measured, and if they came back up the next round allows for
  it. The last round does not train, so what it measures is what is handed over.
- **Widen** (only on request). A network more than :data:`SLACK` under the target is given channels
  back, step by step those of the group which gains most accuracy per SynOp, as long as they fit.
  The fine-tuned channels keep their weights, those that come back have the unpruned network's. The
  network is then fine-tuned in full, and trimmed where needed. The more accurate one on search is
  kept, the wider one when they are equal.

A step is one channel, and more on wide networks (:mod:`spear_gym.agents.stepping`). A repair scores
:data:`EVALUATIONS` plans at most, beside the search's budget, and says how many it took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from spear_gym.evaluation import Counts, Evaluation, EvaluationFailed, Finetuned, PlanEvaluator
from spear_gym.judge import Judge
from spear_gym.pruning.origin import mark_origin
from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import grafted_network
from spear_gym.training import Recipe, TrainingDiverged
from spear_gym.workload import Workload

from .stepping import Price, Stepping

AIM = 0.99
"""Share of the target that a network is trimmed to on search."""

SLACK = 0.03
"""Networks further than this under the target are widened on request; a share of the target."""

TRIM_ROUNDS = 3
"""Rounds of trimming with a brief fine-tune, before one without."""

WIDEN_ROUNDS = 2
"""Larger plans that are fine-tuned at most."""

EVALUATIONS = 200
"""Plans that one repair scores at most, as many as a search does by default."""

BRIEF_RATE = 0.3
"""Learning rate of a brief fine-tune, one epoch, over that of the recipe (*reconstructed*)."""


@dataclass(frozen=True, slots=True)
class RepairStep:
    """One step of a repair.

    Attributes:
        action: ``"trim"`` or ``"widen"``.
        counts: channels kept per group afterwards.
        accuracy: on search, afterwards.
        fraction: SynOps on search over those of the unpruned network, afterwards.
        epochs: of fine-tuning that it took.
        adopted: whether the network that was handed over went through it.
    """

    action: str
    counts: Counts
    accuracy: float
    fraction: float
    epochs: int
    adopted: bool = True


@dataclass(frozen=True)
class Delivery:
    """A network after its repair.

    Attributes:
        tuned: the network, and its figures on search.
        steps: what was done; empty when nothing had to be.
        evaluations: plans that were scored for it, beside the search's.
    """

    tuned: Finetuned
    steps: tuple[RepairStep, ...]
    evaluations: int

    @property
    def trimmed(self) -> bool:
        """Whether channels of the fine-tuned network had to go."""
        return any(step.action == "trim" and step.adopted for step in self.steps)


OnStep = Callable[[RepairStep], None]
"""Called after each step."""


def repair(
    evaluator: PlanEvaluator,
    judge: Judge,
    tuned: Finetuned,
    *,
    seed: int,
    use_slack: bool = False,
    on_step: OnStep | None = None,
    checkpoints: Path | None = None,
    budget: int = EVALUATIONS,
) -> Delivery:
    """Trims a network that breaks its target, and on request widens one that wastes it.

    Args:
        evaluator: scores and fine-tunes.
        judge: gives the target.
        tuned: the fine-tuned network.
        seed: of the fine-tunes.
        use_slack: widen.
        on_step: progress callback.
        checkpoints: folder for those of the fine-tunes, see :meth:`PlanEvaluator.finetune`.
        budget: plans to score at most, for all rounds together; each round also scores the network
            that it begins with. What it lacks then stays undone.
    """
    work = _Work(evaluator, judge, seed, on_step or (lambda _: None), checkpoints, budget)
    tuned, steps = work.trimmed(tuned)
    for _ in range(WIDEN_ROUNDS if use_slack else 0):
        if work.fraction(tuned) >= (1 - SLACK) * judge.target:
            break
        wider = work.widened(tuned)
        if wider is None:
            break
        other, more = wider
        better = other.search.accuracy >= tuned.search.accuracy and work.kept(other)
        steps += [replace(step, adopted=better) for step in more]
        if not better:
            break
        tuned = other
    return Delivery(tuned, tuple(steps), work.evaluations)


class _Work:
    """One repair.

    Args:
        evaluator: scores and fine-tunes.
        judge: gives the target.
        seed: of the fine-tunes.
        on_step: progress callback.
        checkpoints: folder for those of the fine-tunes.
        budget: plans to score at most.
    """

    def __init__(
        self,
        evaluator: PlanEvaluator,
        judge: Judge,
        seed: int,
        on_step: OnStep,
        checkpoints: Path | None = None,
        budget: int = EVALUATIONS,
    ) -> None:
        self.evaluator, self.judge, self.seed, self.on_step = evaluator, judge, seed, on_step
        self.checkpoints, self.budget = checkpoints, budget
        self.evaluations = 0

    def fraction(self, tuned: Finetuned) -> float:
        """SynOps on search over the unpruned network's."""
        return tuned.search.synops / self.evaluator.reference.synops

    def kept(self, tuned: Finetuned) -> bool:
        """Whether the target is kept on search."""
        return self.fraction(tuned) <= self.judge.target

    # ---------------------------------------------------------------- trimming

    def trimmed(self, tuned: Finetuned) -> tuple[Finetuned, list[RepairStep]]:
        """The network with the cheapest channels removed until it is under the aim."""
        steps: list[RepairStep] = []
        aim, growth = AIM * self.judge.target, 1.0
        for number in range(TRIM_ROUNDS + 1):
            if self.fraction(tuned) <= aim:
                break
            trains = number < TRIM_ROUNDS
            inner = PlanEvaluator(
                _workload_of(self.evaluator.workload, tuned.model),
                scoring="plain",
                criterion=self.evaluator.criterion,
            )
            cut = self._cheapest(inner, aim / growth if trains else aim)
            if cut is None:
                break
            recipe = _brief(self.evaluator.workload.finetune, trains=trains)
            tuned, epochs = self._cut(inner, tuned, cut, recipe)
            if cut.synops > 0:
                growth = max(growth, tuned.search.synops / cut.synops)
            steps.append(self._step("trim", tuned, epochs))
        return tuned, steps

    def _cheapest(self, inner: PlanEvaluator, goal: float) -> Evaluation | None:
        """The fine-tuned network's best smaller plan under a fraction, or the smallest there is.

        ``None`` when no channel can go.
        """
        limit = goal * self.evaluator.reference.synops
        runs = inner.runs
        whole = inner.evaluate(tuple(group.channels for group in inner.space.groups))
        self.evaluations += inner.runs - runs

        def price(here: Evaluation, move: Evaluation) -> Price:
            saved, excess = here.synops - move.synops, here.synops - limit
            lost = max(0.0, here.accuracy - move.accuracy)
            # Fewer inhibiting channels can mean more spikes: such a move comes last.
            cost = lost / saved if saved > 0 else lost
            return float(saved <= 0), cost, abs(saved - excess)

        found = Stepping(
            len(inner.space.groups),
            partial(self._smaller, inner),
            self._paid(inner),
            lambda plan: plan.synops - limit,
            price,
            past=True,
        ).walk(whole)
        return None if found is whole else found

    def _paid(self, inner: PlanEvaluator) -> Callable[[Counts], Evaluation | None]:
        """Scores plans as long as there is budget; ``None`` for what cannot be evaluated."""
        before = self.evaluations - inner.runs

        def evaluate(counts: Counts) -> Evaluation | None:
            if self.evaluations >= self.budget:
                return None
            try:
                return inner.evaluate(counts)
            except EvaluationFailed:
                return None
            finally:
                self.evaluations = before + inner.runs

        return evaluate

    def _smaller(
        self, inner: PlanEvaluator, counts: Counts, index: int, steps: int
    ) -> Counts | None:
        """The plan with steps taken off a group; ``None`` when it has none to give.

        A depthwise convolution cut to one channel is an ordinary one, so the fine-tuned network can
        have groups that the unpruned one has not, or without the blocks of that one's; they stay.
        """
        space = self.evaluator.space
        own = {(group.name, group.blocks): index for index, group in enumerate(space.groups)}
        group = inner.space.groups[index]
        place = own.get((group.name, group.blocks))
        if place is None:
            return None
        count, floor = counts[index], space.smallest_counts()[place]
        for _ in range(steps):
            lower = space.next_lower(place, count)
            if not floor <= lower < count:
                break
            count = lower
        return None if count == counts[index] else (*counts[:index], count, *counts[index + 1 :])

    def _cut(
        self, inner: PlanEvaluator, tuned: Finetuned, cut: Evaluation, recipe: Recipe
    ) -> tuple[Finetuned, int]:
        """The network cut to a plan of its own, fine-tuned; the epochs that took."""
        try:
            found, epochs = (
                inner.finetune(
                    cut.counts, seed=self.seed, recipe=recipe, checkpoints=self.checkpoints
                ),
                recipe.epochs,
            )
        except TrainingDiverged:
            found, epochs = inner.finetune(cut.counts, recipe=replace(recipe, epochs=0)), 0
        plan = _composed(tuned.plan, found.plan)
        mark_origin(found.model, self.evaluator.graph, plan)
        return replace(found, plan=plan, seconds=tuned.seconds + found.seconds), epochs

    # ---------------------------------------------------------------- widening

    def widened(self, tuned: Finetuned) -> tuple[Finetuned, list[RepairStep]] | None:
        """The network with channels given back, fine-tuned; ``None`` when none fits."""
        evaluator = self.evaluator
        inner = PlanEvaluator(
            _workload_of(
                evaluator.workload, grafted_network(evaluator.graph, tuned.plan, tuned.model)
            ),
            scoring=evaluator.scoring,
            criterion=evaluator.criterion,
            rankings=_kept_first(tuned.plan, evaluator.space.rankings),
            exclude=evaluator.exclude,
        )
        try:
            larger = self._larger(inner, tuned)
            if larger is None:
                return None
            found = inner.finetune(larger.counts, seed=self.seed, checkpoints=self.checkpoints)
        except (EvaluationFailed, TrainingDiverged):
            return None
        found = replace(found, seconds=tuned.seconds + found.seconds)
        step = self._step("widen", found, evaluator.workload.finetune.epochs)
        found, more = self.trimmed(found)
        return found, [step, *more]

    def _larger(self, inner: PlanEvaluator, tuned: Finetuned) -> Evaluation | None:
        """The best plan with more channels that should just keep the target."""
        runs = inner.runs
        start = inner.evaluate(tuned.plan.counts)
        self.evaluations += inner.runs - runs
        # What is measured with those channels is known; the scores say how it grows.
        scale = self.fraction(tuned) / max(start.synops, 1e-9)
        goal = AIM * self.judge.target

        def price(here: Evaluation, move: Evaluation) -> Price:
            return ((here.accuracy - move.accuracy) / max(move.synops - here.synops, 1e-9),)

        found = Stepping(
            len(inner.space.groups),
            self._wider,
            self._paid(inner),
            lambda plan: goal / scale - plan.synops,
            price,
            past=False,
        ).walk(start)
        return None if found is start else found

    def _wider(self, counts: Counts, index: int, steps: int) -> Counts | None:
        """The plan with steps more in a group; ``None`` when it is whole."""
        space, count = self.evaluator.space, counts[index]
        for _ in range(steps):
            count = max(count, space.next_higher(index, count))
        return None if count == counts[index] else (*counts[:index], count, *counts[index + 1 :])

    def _step(self, action: str, tuned: Finetuned, epochs: int) -> RepairStep:
        step = RepairStep(
            action, tuned.plan.counts, tuned.search.accuracy, self.fraction(tuned), epochs
        )
        self.on_step(step)
        return step


def _workload_of(workload: Workload, model: nn.Module) -> Workload:
    """A workload of another network, with the data and settings of the one that it came from."""
    splits = workload.splits
    return Workload(
        model=model,
        train=splits.train,
        search=splits.search,
        test=splits.test,
        num_steps=workload.num_steps,
        name=workload.name,
        varying=workload.varying,
        events=workload.events,
        readout=workload.readout,
        loss=workload.objective.loss,
        metric=workload.objective.metric,
        num_classes=workload.num_classes,
        outputs=workload.outputs,
        finetune=workload.finetune,
        calibration_samples=workload.calibration_samples,
    )


def _brief(recipe: Recipe, *, trains: bool) -> Recipe:
    """One epoch at a lower rate, or none."""
    epochs = min(1, recipe.epochs) if trains else 0
    return replace(recipe, epochs=epochs, lr=BRIEF_RATE * recipe.lr)


def _composed(outer: Plan, inner: Plan) -> Plan:
    """A plan of a network that was pruned by another, as a plan of the unpruned one."""
    after = dict(zip(inner.groups, inner.kept, strict=True))
    kept = tuple(
        # A group that the pruned network has no more keeps what it has.
        tuple(before[index] for index in after.get(name, range(len(before))))
        for name, before in zip(outer.groups, outer.kept, strict=True)
    )
    return Plan(outer.groups, outer.channels, kept)


def _kept_first(plan: Plan, rankings: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Rankings that begin with the channels that a plan keeps."""
    return tuple(
        (*kept, *(index for index in ranking if index not in set(kept)))
        for kept, ranking in zip(plan.kept, rankings, strict=True)
    )
