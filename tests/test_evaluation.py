"""The evaluator: what it remembers, forgets, counts and refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

from spear_gym.env import make_env
from spear_gym.evaluation import Evaluation, EvaluationFailed, PlanEvaluator
from spear_gym.pruning.criteria import CriterionError
from spear_gym.pruning.plan import PlanError
from spear_gym.simulation.neurons import KERNEL
from spear_gym.simulation.simulate import SCORINGS, Scoring
from spear_gym.training import Recipe, TrainingDiverged
from spear_gym.workload import Workload, WorkloadError, measure


def plans(evaluator: PlanEvaluator, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Random distinct plans."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[evaluator.space.counts(rng.uniform(0, 0.9, len(evaluator.space)))] = None
    return list(found)


def untimed(evaluation: Evaluation) -> Evaluation:
    return dataclasses.replace(evaluation, seconds=0.0)


def held_bytes(evaluator: PlanEvaluator) -> int:
    """Bytes of the distinct tensors that the walks in memory hold alive."""
    storages: dict[int, int] = {}
    given = evaluator.simulator.prepared.inputs.untyped_storage().data_ptr()

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() != given:
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)

    for walk in evaluator._walks.values():
        for field in dataclasses.fields(walk):
            collect(getattr(walk, field.name))
    return sum(storages.values())


# Memory.


def test_known_plans_are_not_run_again(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    first = evaluator.evaluate((3, 4, 5))
    assert evaluator.runs == 1
    assert evaluator.evaluate([3, 4, 5]) is first
    assert evaluator.runs == 1
    evaluator.evaluate((3, 4, 6))
    assert evaluator.runs == 2
    assert set(evaluator.known) == {(3, 4, 5), (3, 4, 6)}
    assert first.id == "3-4-5"


def test_prefixes_are_not_runs(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    for counts in ((), (3,), (3, 4)):
        evaluator.prefix(counts)
    assert evaluator.runs == 0
    evaluator.evaluate((3, 4, 5))
    assert evaluator.runs == 1


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_tiny_memory_changes_no_number(tiny: Workload, scoring: Scoring) -> None:
    roomy = PlanEvaluator(tiny, scoring=scoring)
    cramped = PlanEvaluator(tiny, scoring=scoring, memory_bytes=1)
    chosen = plans(roomy, 12)
    for counts in [*chosen, *reversed(chosen)]:
        assert untimed(roomy.evaluate(counts)) == untimed(cramped.evaluate(counts))
    assert len(cramped._walks) == 1 < len(roomy._walks)
    fresh = PlanEvaluator(tiny, scoring=scoring)
    assert untimed(fresh.evaluate(chosen[5])) == untimed(roomy.evaluate(chosen[5]))


@pytest.mark.parametrize("scoring", ["plain", "refit"])
def test_memory_stays_within_its_limit(tiny: Workload, scoring: Scoring) -> None:
    evaluator = PlanEvaluator(tiny, scoring=scoring)
    evaluator.evaluate((6, 8, 8))
    largest = max(walk.nbytes() for walk in evaluator._walks.values())
    evaluator.memory_bytes = 4 * largest
    sizes = []
    for counts in plans(evaluator, 60):
        evaluator.evaluate(counts)
        sizes.append(held_bytes(evaluator))
        assert evaluator._walk_bytes == sum(walk.nbytes() for walk in evaluator._walks.values())
        assert evaluator._walk_bytes <= evaluator.memory_bytes
    # What is not counted (statistics, counts per channel) stays small beside it.
    assert max(sizes) <= 1.25 * evaluator.memory_bytes
    assert len(evaluator.known) == 61 - ((6, 8, 8) in plans(evaluator, 60))


def test_walks_that_ended_are_not_kept(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny, scoring="refit")
    for counts in plans(evaluator, 10):
        evaluator.evaluate(counts)
    assert all(walk.readout is None for walk in evaluator._walks.values())


def test_remembered_plans_need_no_simulation(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [np.array([r], np.float32) for r in (0.5, 0.2, 0.7)]
    env = make_env(tiny, target=0.3, lre="none")
    walked = [env.reset(), *(env.step(action) for action in actions)]
    known = list(env.evaluator.known.values())

    evaluator = PlanEvaluator(tiny)
    for evaluation in known:
        evaluator.remember(Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))))
    monkeypatch.setattr(
        PlanEvaluator, "simulator", property(lambda _: pytest.fail("a simulation was started"))
    )
    again = make_env(evaluator=evaluator, target=0.3, lre="none")
    replayed = [again.reset(), *(again.step(action) for action in actions)]
    assert evaluator.runs == 0
    for one, other in zip(walked, replayed, strict=True):
        assert np.array_equal(one[0], other[0])
    assert walked[-1][1:4] == replayed[-1][1:4]
    assert walked[-1][4]["synops"] == replayed[-1][4]["synops"]
    assert replayed[-1][4]["cached"] == 1


def test_evaluation_survives_json(tiny: Workload) -> None:
    evaluation = PlanEvaluator(tiny).evaluate((2, 3, 4))
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


def test_figures_fit_together(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    unpruned = measure(tiny, tiny.graph.model, "search")
    assert evaluator.reference == unpruned
    for counts in plans(evaluator, 5):
        evaluation = evaluator.evaluate(counts)
        assert sum(evaluation.layer_synops) == pytest.approx(evaluation.synops)
        assert evaluation.prefixes[-1].synops_committed == evaluation.synops
        assert evaluation.prefixes[-1].synops_open == 0.0
        committed = [prefix.synops_committed for prefix in evaluation.prefixes]
        assert committed == sorted(committed)
        assert evaluation.prefixes[0].synops_open == pytest.approx(unpruned.synops)
        assert len(evaluation.prefixes) == len(counts) + 1
        for index, count in enumerate(counts[:-1]):
            width = evaluator.space.groups[index].channels
            assert evaluation.prefixes[index + 1].kept_inputs == count / width


def test_unpruned_plan_scored_plainly_is_the_reference(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny, scoring="plain")
    evaluation = evaluator.evaluate(tuple(group.channels for group in tiny.graph.groups))
    assert evaluation.accuracy == evaluator.reference.accuracy
    assert evaluation.synops == evaluator.reference.synops
    assert (evaluation.synops_fraction, evaluation.params_fraction) == (1.0, 1.0)
    trainable = sum(p.numel() for p in tiny.graph.model.parameters())
    assert evaluation.parameters == trainable


# Fine-tuning.


def test_finetune_is_deterministic_by_seed(tiny: Workload) -> None:
    one, again, other = (PlanEvaluator(tiny).finetune((3, 4, 5), seed=seed) for seed in (1, 1, 2))
    assert one.search == again.search
    states = [tuned.model.state_dict() for tuned in (one, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert one.plan.counts == (3, 4, 5)


def test_finetune_leaves_the_workload_and_global_state_alone(tiny: Workload) -> None:
    before = {key: value.clone() for key, value in tiny.graph.model.state_dict().items()}
    state = torch.get_rng_state()
    evaluator = PlanEvaluator(tiny)
    scored = untimed(evaluator.evaluate((3, 4, 5)))
    evaluator.finetune((3, 4, 5))
    after = tiny.graph.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), state)
    assert untimed(PlanEvaluator(tiny).evaluate((3, 4, 5))) == scored


def test_finetune_starts_from_the_scored_network(tiny: Workload) -> None:
    """With no epoch it is the scored network itself."""
    for scoring in SCORINGS:
        evaluator = PlanEvaluator(tiny, scoring=scoring)
        tuned = evaluator.finetune((3, 4, 5), recipe=Recipe(epochs=0))
        evaluation = evaluator.evaluate((3, 4, 5))
        assert tuned.search.accuracy == evaluation.accuracy
        assert tuned.search.synops == evaluation.synops
        assert tuned.search.parameters == evaluation.parameters


def test_finetune_reports_its_progress(tiny: Workload) -> None:
    seen: list[tuple[int, int]] = []
    recipe = Recipe(epochs=2, batch_size=100)
    PlanEvaluator(tiny).finetune(
        (3, 4, 5), recipe=recipe, on_batch=lambda done, total, _: seen.append((done, total))
    )
    assert seen == [(done, 6) for done in range(1, 7)]


def test_diverging_finetune(tiny: Workload) -> None:
    with pytest.raises(TrainingDiverged, match=r"loss became (nan|inf) .*lower the learning rate"):
        PlanEvaluator(tiny).finetune((6, 8, 8), recipe=Recipe(epochs=5, lr=3e37))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": 1, "batch_size": 1}, "batch_size 1"),
        ({"epochs": 1, "lr": 0.0}, "lr is 0.0"),
        ({"epochs": 1, "lr": float("nan")}, "lr is nan"),
        ({"epochs": 1, "optimizer": "rms"}, "optimizer is 'rms'; choose"),
        ({"epochs": 1, "bn_time": "never"}, "bn_time is 'never'; choose"),
    ],
)
def test_recipes_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_recipe_survives_json() -> None:
    recipe = Recipe(epochs=3, lr=3e-4, optimizer="sgd", shift=1)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(ValueError, match=r"unknown recipe settings \['speed'\]"):
        Recipe.from_json({"epochs": 1, "speed": 2})


# What is refused.


def test_unknown_names(tiny: Workload) -> None:
    with pytest.raises(WorkloadError, match=r"unknown scoring 'refitt'; did you mean 'refit'"):
        PlanEvaluator(tiny, scoring="refitt")  # type: ignore[arg-type]
    with pytest.raises(CriterionError, match=r"unknown criterion 'l11'; did you mean 'l1'\?"):
        PlanEvaluator(tiny, criterion="l11")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_channels": 7}, r"min_channels is 7; it must lie in 1\.\.6"),
        ({"min_channels": 0}, "min_channels is 0"),
        ({"channel_multiple": 7}, "channel_multiple is 7"),
        ({"max_ratio": 1.0}, r"max_ratio is 1\.0"),
        ({"max_ratio": 0.0}, r"max_ratio is 0\.0"),
    ],
)
def test_limits_must_fit_the_network(tiny: Workload, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PlanEvaluator(tiny, **limits)


def test_a_simulation_that_breaks_is_a_failed_evaluation(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = PlanEvaluator(tiny)
    expected = untimed(PlanEvaluator(tiny).evaluate((3, 4, 5)))
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluator.simulator, "advance", lambda *_: (_ for _ in ()).throw(MemoryError("full"))
        )
        with pytest.raises(EvaluationFailed, match=r"plan \(3, 4, 5\): full"):
            evaluator.evaluate((3, 4, 5))
    assert evaluator.runs == 0
    assert untimed(evaluator.evaluate((3, 4, 5))) == expected


@pytest.mark.parametrize(
    ("message", "of_a_plan"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("shape mismatch", False),
    ],
)
def test_only_memory_that_ran_out_is_a_failed_evaluation(
    tiny: Workload, monkeypatch: pytest.MonkeyPatch, message: str, of_a_plan: bool
) -> None:
    evaluator = PlanEvaluator(tiny)

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(evaluator.simulator, "advance", fail)
    with pytest.raises(RuntimeError) as caught:
        evaluator.evaluate((3, 4, 5))
    assert isinstance(caught.value, EvaluationFailed) == of_a_plan


def test_plans_of_the_toy_can_be_enumerated(toy: Workload) -> None:
    evaluator = PlanEvaluator(toy)
    space = evaluator.space
    assert space.smallest_counts() == (1, 1)
    reachable = {
        space.counts(pair) for pair in itertools.product(np.linspace(0, 0.9, 200), repeat=2)
    }
    assert reachable == set(itertools.product(range(1, 13), repeat=2))


def test_statistics_count_what_memory_answered(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    groups = len(evaluator.space)
    first = tuple(group.channels for group in evaluator.space.groups)
    evaluator.evaluate(first)
    evaluator.evaluate((*first[:-1], first[-1] - 1))
    evaluator.evaluate(first)
    statistics = evaluator.statistics
    assert statistics["plans simulated"] == 2
    assert statistics["decisions in them"] == 2 * groups
    assert statistics["decisions simulated"] == groups + 1
    assert statistics[KERNEL] > 0


@pytest.mark.parametrize("scoring", ["plain", "recalibrated", "refit"])
def test_bfloat16_scoring_is_close_and_never_mistaken_for_the_other(
    tiny: Workload, scoring: Scoring
) -> None:
    usual = PlanEvaluator(tiny, scoring=scoring)
    half = PlanEvaluator(tiny, scoring=scoring, precision="bfloat16")
    assert usual.fingerprint() != half.fingerprint()
    assert "precision" not in usual.fingerprint(), "older fits stay valid"
    differing = 0
    for counts in itertools.product((3, 5), (4, 8), (2, 7)):
        one, other = usual.evaluate(counts), half.evaluate(counts)
        assert other.synops == pytest.approx(one.synops, rel=0.02)
        assert other.accuracy == pytest.approx(one.accuracy, abs=0.1)
        differing += one.synops != other.synops
    assert differing > 0, "products really are computed in bfloat16"
    assert usual.reference.synops == half.reference.synops


def test_unknown_precision(tiny: Workload) -> None:
    with pytest.raises(WorkloadError, match=r"unknown precision 'float16'; did you mean"):
        PlanEvaluator(tiny, precision="float16")  # type: ignore[arg-type]
