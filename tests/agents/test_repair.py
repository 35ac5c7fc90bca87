"""Repair: what is handed over keeps its target, and its plan is the plan of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toys
from networks import FramesNet, GroupNet, ResidualNet, TutorialNet, enlivened
from torch import nn
from toys import rebuilt

from spear_gym.agents import repair as module
from spear_gym.agents.repair import AIM, SLACK, Delivery, RepairStep, repair
from spear_gym.evaluation import Counts, Evaluation, Finetuned, PlanEvaluator
from spear_gym.judge import Judge
from spear_gym.lre import NoEstimator
from spear_gym.pruning.surgery import prune_network
from spear_gym.reward import TargetAwareReward
from spear_gym.snn.zoo import ConvSNN
from spear_gym.training import Recipe
from spear_gym.workload import Workload, measure

PLAN = (4, 6, 6)


def judge_of(target: float) -> Judge:
    """Of any target, reachable or not."""
    return Judge(target, NoEstimator(), TargetAwareReward())


@cache
def tiny_tuned(seed: int = 0, counts: Counts = PLAN) -> Finetuned:
    return PlanEvaluator(toys.tiny()).finetune(counts, seed=seed)


def fraction_of(workload: Workload, model: nn.Module) -> float:
    whole = measure(workload, workload.graph.model, "search")
    return measure(workload, model, "search").synops / whole.synops


def rebuilt_from_its_plan(workload: Workload, delivery: Delivery) -> nn.Module:
    """The unpruned network cut by the plan, and the weights loaded into it."""
    model = prune_network(workload.graph, delivery.tuned.plan)
    model.load_state_dict(delivery.tuned.model.state_dict())
    return model


def assert_consistent(evaluator: PlanEvaluator, delivery: Delivery) -> None:
    """Figures, plan, weights and the last adopted step are of one network."""
    workload, tuned = evaluator.workload, delivery.tuned
    model = rebuilt_from_its_plan(workload, delivery)
    assert measure(workload, model, "search") == tuned.search
    assert measure(workload, model, "test") == measure(workload, tuned.model, "test")
    adopted = [step for step in delivery.steps if step.adopted]
    if adopted:
        last = adopted[-1]
        assert last.counts == tuned.plan.counts
        assert last.fraction == fraction_of(workload, model)
        assert last.accuracy == tuned.search.accuracy
    assert delivery.trimmed == any(step.action == "trim" for step in adopted)
    floor = evaluator.space.smallest_counts()
    assert all(n >= least for n, least in zip(tuned.plan.counts, floor, strict=True))


def within(inner: Finetuned, outer: Finetuned) -> bool:
    """Whether every channel that one network keeps is kept by the other."""
    pairs = zip(inner.plan.kept, outer.plan.kept, strict=True)
    return all(set(a) <= set(b) for a, b in pairs)


# Trimming.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.999, 0.9, 0.6, 0.3])
def test_a_network_over_its_target_is_trimmed_below_the_aim(
    tiny: Workload, seed: int, share: float
) -> None:
    evaluator, tuned = PlanEvaluator(tiny), tiny_tuned(seed)
    target = share * fraction_of(tiny, tuned.model)
    seen: list[RepairStep] = []
    delivery = repair(evaluator, judge_of(target), tuned, seed=seed, on_step=seen.append)
    assert fraction_of(tiny, rebuilt_from_its_plan(tiny, delivery)) <= AIM * target
    assert_consistent(evaluator, delivery)
    assert within(delivery.tuned, tuned)
    assert tuple(seen) == delivery.steps
    assert delivery.trimmed
    assert {step.action for step in seen} == {"trim"}
    fractions = [step.fraction for step in seen]
    assert all(f > AIM * target for f in fractions[:-1]), "no round after one that was enough"
    assert delivery.tuned.seconds > tuned.seconds
    # The network that came in is as it was.
    assert fraction_of(tiny, tuned.model) == pytest.approx(target / share, rel=1e-12)


def test_the_aim_is_a_little_under_the_target(tiny: Workload) -> None:
    """Test differs a little from search."""
    fraction = fraction_of(tiny, tiny_tuned().model)
    kept = repair(PlanEvaluator(tiny), judge_of(fraction / 0.985), tiny_tuned(), seed=0)
    near = repair(PlanEvaluator(tiny), judge_of(fraction / 0.995), tiny_tuned(), seed=0)
    assert (kept.trimmed, near.trimmed) == (False, True)


@pytest.mark.parametrize("use_slack", [False, True])
def test_nothing_is_done_to_a_network_that_keeps_its_target(
    tiny: Workload, use_slack: bool
) -> None:
    tuned = tiny_tuned()
    target = fraction_of(tiny, tuned.model) / (1 - 0.6 * SLACK)
    delivery = repair(PlanEvaluator(tiny), judge_of(target), tuned, seed=0, use_slack=use_slack)
    assert delivery == Delivery(tuned, (), 0)
    assert delivery.tuned is tuned
    assert not delivery.trimmed


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_kept_indices_are_those_of_the_weights(tiny: Workload, share: float) -> None:
    """Nothing is trained or recalibrated, so all weights are the unpruned network's own."""
    still = rebuilt(tiny, finetune=Recipe(epochs=0), scoring="plain")
    evaluator = PlanEvaluator(still)
    tuned = evaluator.finetune(PLAN)
    target = share * fraction_of(still, tuned.model)
    delivery = repair(evaluator, judge_of(target), tuned, seed=0)
    assert delivery.trimmed
    expected = prune_network(still.graph, delivery.tuned.plan).state_dict()
    actual = delivery.tuned.model.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
    assert delivery.tuned.plan.channels == (6, 8, 8)


def slow_trim(workload: Workload, model: nn.Module, limit: float) -> Counts:
    """One channel at a time, each tried out as a network of its own."""
    inner = Workload(
        model=model, num_steps=workload.num_steps, **workload.splits.named()
    )  # fmt: skip
    space = PlanEvaluator(inner, scoring="plain").space

    def tried(counts: Counts) -> tuple[float, float]:
        figures = measure(inner, prune_network(inner.graph, space.plan(counts)), "search")
        return figures.accuracy, figures.synops

    counts = tuple(group.channels for group in space.groups)
    accuracy, synops = tried(counts)
    while synops > limit:
        rows = []
        for index in range(len(counts)):
            fewer = (*counts[:index], counts[index] - 1, *counts[index + 1 :])
            if fewer[index] >= 1:
                quality, left = tried(fewer)
                saved, lost = synops - left, max(0.0, accuracy - quality)
                rows.append((lost / saved, abs(saved - (synops - limit)), fewer, quality, left))
                assert saved > 0
        _, _, counts, accuracy, synops = min(rows)
    return counts


def test_the_cheapest_channels_go_first(tiny: Workload) -> None:
    still = rebuilt(tiny, finetune=Recipe(epochs=0))
    evaluator = PlanEvaluator(still)
    tuned = evaluator.finetune((6, 7, 8))
    target = 0.6 * fraction_of(still, tuned.model)
    delivery = repair(evaluator, judge_of(target), tuned, seed=0)
    limit = AIM * target * evaluator.reference.synops
    assert delivery.tuned.plan.counts == slow_trim(still, tuned.model, limit)


def test_a_channel_that_saves_nothing_goes_last(tiny: Workload) -> None:
    """Without an inhibiting channel others fire more: free of loss, and no way to a target."""
    space = PlanEvaluator(tiny).space
    whole = (6, 8, 8)
    figures = {
        whole: (0.9, 100.0),
        (5, 8, 8): (0.9, 104.0),  # no loss, more SynOps
        (6, 7, 8): (0.88, 96.0),
        (6, 8, 7): (0.89, 90.0),  # least lost per SynOp saved
    }

    def evaluate(counts: Counts) -> Evaluation:
        return toys.made_up(counts, *figures[counts], unpruned=100.0)

    outer = SimpleNamespace(space=space, reference=SimpleNamespace(synops=100.0))
    inner: Any = SimpleNamespace(space=space, evaluate=evaluate, runs=0)
    work = module._Work(outer, judge_of(0.95), 0, lambda _: None)  # type: ignore[arg-type]
    cut = work._cheapest(inner, 0.95)
    assert cut is not None
    assert cut.counts == (6, 8, 7)


def growing(patch: pytest.MonkeyPatch, rounds: int, limit: float) -> list[int]:
    """So many fine-tunes make neurons fire until SynOps are above a limit; the epochs of all."""
    real, epochs = PlanEvaluator.finetune, []

    def finetune(self: PlanEvaluator, counts: Counts, **options: Any) -> Finetuned:
        found = real(self, counts, **options)
        epochs.append(options["recipe"].epochs)
        for _ in range(30 if len(epochs) <= rounds else 0):
            if found.search.synops > limit:
                break
            with torch.no_grad():
                for layer in found.model.modules():
                    if isinstance(layer, nn.BatchNorm2d):
                        layer.bias += 0.1
            found = replace(found, search=measure(self.workload, found.model, "search"))
        return found

    patch.setattr(PlanEvaluator, "finetune", finetune)
    return epochs


@pytest.mark.parametrize(
    ("trains", "epochs"), [(3, [1, 1]), (1, [1, 0]), (0, [0])], ids=["next", "last", "none"]
)
def test_synops_that_come_back_are_cut_again(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch, trains: int, epochs: list[int]
) -> None:
    """The last round does not train, so what it measures is what is handed over."""
    evaluator, tuned = PlanEvaluator(tiny), tiny_tuned()
    target = 0.8 * fraction_of(tiny, tuned.model)
    monkeypatch.setattr(module, "TRIM_ROUNDS", trains)
    rounds = min(1, trains)
    seen = growing(monkeypatch, rounds, target * evaluator.reference.synops)
    delivery = repair(evaluator, judge_of(target), tuned, seed=0)
    assert seen == epochs == [step.epochs for step in delivery.steps]
    assert all(step.fraction > target for step in delivery.steps[:-1])
    assert delivery.steps[-1].fraction <= AIM * target
    assert_consistent(evaluator, delivery)


def test_a_last_round_leaves_no_room_for_growth(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot come back need not be cut off beforehand."""
    evaluator, tuned = PlanEvaluator(tiny), tiny_tuned()
    target = 0.8 * fraction_of(tiny, tuned.model)
    goals = []
    real = module._Work._cheapest

    def cheapest(self: Any, inner: PlanEvaluator, goal: float) -> Evaluation | None:
        goals.append(goal)
        return real(self, inner, goal)

    monkeypatch.setattr(module._Work, "_cheapest", cheapest)
    monkeypatch.setattr(module, "TRIM_ROUNDS", 1)
    growing(monkeypatch, 1, target * evaluator.reference.synops)
    repair(evaluator, judge_of(target), tuned, seed=0)
    assert goals == [AIM * target] * 2


def test_at_the_floor_it_stays_broken(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny, max_ratio=0.4)
    delivery = repair(evaluator, judge_of(0.01), tiny_tuned(), seed=0)
    assert delivery.tuned.plan.counts == evaluator.space.smallest_counts()
    assert fraction_of(tiny, delivery.tuned.model) > 0.01
    assert len(delivery.steps) == 1, "no round that has nothing to take"
    assert_consistent(evaluator, delivery)
    # From the floor itself nothing can be done at all.
    smallest = evaluator.finetune(evaluator.space.smallest_counts())
    again = repair(evaluator, judge_of(0.01), smallest, seed=0)
    assert (again.tuned, again.steps) == (smallest, ())


@pytest.mark.parametrize(
    ("limits", "start"),
    [
        ({"channel_multiple": 2}, (4, 6, 8)),
        ({"channel_multiple": 3, "min_channels": 2}, (6, 6, 8)),
        ({"min_channels": 4}, (5, 7, 8)),
        ({"max_ratio": 0.5}, (6, 8, 8)),
    ],
)
def test_limits_on_channels_are_kept(tiny: Workload, limits: dict[str, Any], start: Counts) -> None:
    evaluator = PlanEvaluator(tiny, **limits)
    space = evaluator.space
    can = [{space.count(i, i_ratio / 200) for i_ratio in range(200)} for i in range(3)]
    tuned = evaluator.finetune(start)
    fraction = fraction_of(tiny, tuned.model)
    for target, use_slack in ((0.6 * fraction, False), (1.5 * fraction, True)):
        seen: list[RepairStep] = []
        delivery = repair(
            evaluator, judge_of(target), tuned, seed=0, use_slack=use_slack, on_step=seen.append
        )
        assert_consistent(evaluator, delivery)
        for step in seen:
            assert all(n in can[i] for i, n in enumerate(step.counts)), step
            assert all(n >= m for n, m in zip(step.counts, space.smallest_counts(), strict=True))


def test_a_diverging_fine_tune_is_left_out(tiny: Workload) -> None:
    """The cut network itself is handed over, as it keeps the target without."""
    evaluator = PlanEvaluator(rebuilt(tiny, finetune=Recipe(epochs=3, lr=3e37)))
    tuned = tiny_tuned()
    target = 0.8 * fraction_of(tiny, tuned.model)
    delivery = repair(evaluator, judge_of(target), tuned, seed=0)
    assert [step.epochs for step in delivery.steps] == [0]
    assert delivery.steps[0].fraction <= AIM * target
    assert_consistent(evaluator, delivery)


def counted(patch: pytest.MonkeyPatch, outer: PlanEvaluator) -> list[Counts]:
    """Plans that any other evaluator simulates."""
    real, plans = PlanEvaluator.evaluate, []

    def evaluate(self: PlanEvaluator, counts: Sequence[int]) -> Evaluation:
        if self is not outer and tuple(counts) not in self.known:
            plans.append(tuple(counts))
        return real(self, counts)

    patch.setattr(PlanEvaluator, "evaluate", evaluate)
    return plans


@pytest.mark.parametrize("share", [0.7, 1.5])
def test_evaluations_are_counted(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    evaluator, tuned = PlanEvaluator(tiny), tiny_tuned()
    target = share * fraction_of(tiny, tuned.model)
    plans = counted(monkeypatch, evaluator)
    delivery = repair(evaluator, judge_of(target), tuned, seed=0, use_slack=True)
    assert delivery.steps
    assert delivery.evaluations == len(plans) > 0
    assert evaluator.runs == 0, "beside the search's own"


# Widening.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [1.1, 1.5, 2.5])
def test_widening_hands_over_nothing_worse(tiny: Workload, seed: int, share: float) -> None:
    """Not less accurate on search, not over the target, and said what was done."""
    evaluator, tuned = PlanEvaluator(tiny), tiny_tuned(seed, (3, 4, 4))
    before = fraction_of(tiny, tuned.model)
    target = share * before
    seen: list[RepairStep] = []
    delivery = repair(
        evaluator, judge_of(target), tuned, seed=seed, use_slack=True, on_step=seen.append
    )
    assert delivery.tuned.search.accuracy >= tuned.search.accuracy
    assert fraction_of(tiny, rebuilt_from_its_plan(tiny, delivery)) <= target
    assert_consistent(evaluator, delivery)
    assert [replace(s, adopted=True) for s in delivery.steps] == seen
    assert delivery.steps[0].action == "widen"
    if delivery.tuned is tuned:
        assert not any(step.adopted for step in delivery.steps)
    elif not delivery.trimmed:
        assert within(tuned, delivery.tuned), "fine-tuned channels stay"
        assert delivery.tuned.plan.counts > tuned.plan.counts
    # What is not adopted ends it, so it comes last.
    flags = [step.adopted for step in delivery.steps]
    assert flags == sorted(flags, reverse=True)


def test_slack_is_used(tiny: Workload) -> None:
    """A network far under its target becomes both larger and better."""
    evaluator = PlanEvaluator(tiny)
    tuned = evaluator.finetune((2, 3, 3))
    delivery = repair(evaluator, judge_of(0.6), tuned, seed=0, use_slack=True)
    assert delivery.tuned.search.accuracy > tuned.search.accuracy
    assert fraction_of(tiny, delivery.tuned.model) > 2 * fraction_of(tiny, tuned.model)
    without = repair(evaluator, judge_of(0.6), tuned, seed=0)
    assert without.steps == ()


def test_a_widened_network_that_is_worse_is_not_adopted(tiny: Workload) -> None:
    rough = PlanEvaluator(rebuilt(tiny, finetune=Recipe(epochs=1, lr=1.0)))
    tuned = tiny_tuned()
    delivery = repair(rough, judge_of(0.95), tuned, seed=0, use_slack=True)
    assert delivery.tuned is tuned
    assert delivery.steps
    assert not any(step.adopted for step in delivery.steps)
    assert not delivery.trimmed


def test_widening_that_diverges_leaves_the_network(tiny: Workload) -> None:
    wild = PlanEvaluator(rebuilt(tiny, finetune=Recipe(epochs=3, lr=3e37)))
    tuned = tiny_tuned()
    delivery = repair(wild, judge_of(0.95), tuned, seed=0, use_slack=True)
    assert delivery.tuned is tuned
    assert delivery.steps == ()


def test_nothing_can_be_added_to_a_whole_network(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    tuned = evaluator.finetune((6, 8, 8), recipe=Recipe(epochs=0))
    delivery = repair(evaluator, judge_of(5.0), tuned, seed=0, use_slack=True)
    assert delivery.tuned is tuned
    assert delivery.steps == ()


# Networks of other kinds.


def frames(shape: tuple[int, ...], classes: int) -> Callable[[int], tuple[Any, Any]]:
    return lambda n: (torch.rand(n, *shape), torch.arange(n) % classes)


@pytest.mark.parametrize(
    ("make", "shape", "steps", "classes"),
    [
        (lambda: ResidualNet(3), (1, 8, 8), 3, 5),
        (lambda: TutorialNet(3), (1, 10, 10), 3, 5),
        (GroupNet, (1, 8, 8), 2, 3),
        (FramesNet, (3, 2, 8, 8), 3, 3),
    ],
    ids=["residual", "tutorial", "groups", "frames"],
)
def test_networks_of_other_kinds(
    make: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, classes: int
) -> None:
    data = frames(shape, classes)
    workload = Workload(
        model=enlivened(make()),
        train=data(24),
        search=data(20),
        test=data(20),
        num_steps=steps,
        finetune=Recipe(epochs=1, batch_size=12, lr=1e-3),
        calibration_samples=16,
    )
    evaluator = PlanEvaluator(workload)
    space = evaluator.space
    narrowed = [space.next_lower(i, group.channels) for i, group in enumerate(space.groups)]
    tuned = evaluator.finetune([max(2, count) for count in narrowed])
    fraction = fraction_of(workload, tuned.model)
    assert fraction > 0
    trimmed = repair(evaluator, judge_of(0.7 * fraction), tuned, seed=0)
    assert trimmed.trimmed
    assert within(trimmed.tuned, tuned)
    assert_consistent(evaluator, trimmed)
    at_floor = trimmed.tuned.plan.counts == evaluator.space.smallest_counts()
    assert fraction_of(workload, trimmed.tuned.model) <= AIM * 0.7 * fraction or at_floor
    wider = repair(evaluator, judge_of(1.2 * fraction), trimmed.tuned, seed=0, use_slack=True)
    assert_consistent(evaluator, wider)
    assert fraction_of(workload, wider.tuned.model) <= 1.2 * fraction
    assert wider.tuned.search.accuracy >= trimmed.tuned.search.accuracy


def wide() -> Workload:
    """528 channels in eleven layers, on tiny images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = (16, 16, 32, 32, 48, 48, 48, 64, 64, 80, 80)
        model = enlivened(ConvSNN(widths, (2, 4, 7), 8))
        data = frames((1, 8, 8), 10)
        return Workload(
            model=model, train=data(32), search=data(60), test=data(20), num_steps=2,
            finetune=Recipe(epochs=0, batch_size=16), calibration_samples=32, scoring="plain",
        )  # fmt: skip


def test_a_wide_network_takes_tens_of_evaluations() -> None:
    """One channel at a time, widening took 342 and 715."""
    evaluator = PlanEvaluator(wide())
    tuned = evaluator.finetune([int(0.7 * group.channels) for group in evaluator.space.groups])
    fraction = tuned.search.synops / evaluator.reference.synops
    for share, action in ((1.0, "trim"), (1.1, "widen"), (1.3, "widen")):
        target = share * fraction
        found = repair(evaluator, judge_of(target), tuned, seed=0, use_slack=share > 1)
        assert [step.action for step in found.steps] == [action]
        assert (1 - SLACK) * target <= found.steps[0].fraction <= AIM * target + 1e-9
        assert found.evaluations <= 90


@pytest.mark.parametrize("share", [0.3, 1.9])
@pytest.mark.parametrize("budget", [1, 5, 12])
def test_evaluations_have_a_limit(tiny: Workload, share: float, budget: int) -> None:
    """What was reached by then is handed over."""
    evaluator, tuned = PlanEvaluator(tiny), tiny_tuned()
    target = share * fraction_of(tiny, tuned.model)
    delivery = repair(evaluator, judge_of(target), tuned, seed=0, use_slack=True, budget=budget)
    rounds = len(delivery.steps) + 1  # each of which scores what it begins with
    assert delivery.evaluations <= budget + rounds
    assert_consistent(evaluator, delivery)
