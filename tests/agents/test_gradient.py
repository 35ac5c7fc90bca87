"""The gates: drawn fairly, trained to the target, rounded along one knob."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from spear_gym.agents import AgentError, make_agent, run_search
from spear_gym.agents.base import SearchSession
from spear_gym.agents.gradient import TEMPERATURE, GateSearch, drawn_gates, predicted, scaled
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, make_judge
from spear_gym.lre import LinearEstimator, NoEstimator, Quality
from spear_gym.reward import TargetAwareReward
from spear_gym.simulation.gated import GatedNetwork
from spear_gym.simulation.simulate import Scoring
from spear_gym.workload import Workload


def judge_of(evaluator: PlanEvaluator, target: float) -> Judge:
    return make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=target)


def test_gates_are_drawn_with_their_probability() -> None:
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0]).repeat(20_000, 1)
    gates = drawn_gates(logits, torch.Generator().manual_seed(0))
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    expected = torch.sigmoid(logits[0])
    spread = (expected * (1 - expected) / 20_000).sqrt()
    assert bool(((gates.mean(0) - expected).abs() < 4 * spread).all())


def test_gradient_of_drawn_gates_is_the_concretes() -> None:
    logits = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_(True)
    drawn_gates(logits, torch.Generator().manual_seed(5)).sum().backward()
    uniform = torch.rand(9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise = np.log(uniform.numpy() / (1 - uniform.numpy()))

    def concrete(at: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(at + noise) / TEMPERATURE))

    at = logits.detach().numpy()
    slope = (concrete(at + 1e-5) - concrete(at - 1e-5)) / 2e-5
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), slope, rtol=1e-6)


def test_prediction_follows_the_line() -> None:
    line = LinearEstimator(0.8, 0.05, {}, Quality(1.0, 0.0, 0.0, 2))
    scored = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    value = predicted(line, scored)
    value.backward()
    assert value.item() == pytest.approx(0.8 * 0.6 + 0.05)
    assert scored.grad is not None
    assert scored.grad.item() == pytest.approx(0.8)
    # Clipped to 1, but not without a way down.
    over = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    value = predicted(NoEstimator(), over)
    value.backward()
    assert value.item() == 1.0
    assert over.grad is not None
    assert over.grad.item() == pytest.approx(1.0)


@pytest.mark.parametrize("scoring", ["plain", "recalibrated"])
@pytest.mark.parametrize("target", [0.5, 0.2])
def test_training_brings_the_expected_synops_to_the_target(
    tiny: Workload, scoring: Scoring, target: float
) -> None:
    evaluator = PlanEvaluator(tiny, scoring=scoring)
    session = SearchSession(evaluator, judge_of(evaluator, target), 500)
    logits = GateSearch()._trained(session, 120, seed=0)
    shares = {space: torch.sigmoid(value) for space, value in logits.items()}
    gates = {space: drawn_gates(v, torch.Generator().manual_seed(9)) for space, v in logits.items()}
    network = GatedNetwork(tiny.graph, tiny.num_steps)
    inputs = tiny.splits.search.inputs
    with torch.no_grad():
        _, synops = network.forward(inputs, gates, training=False, counted=shares)
    assert synops.item() / evaluator.reference.synops == pytest.approx(target, rel=0.3)
    assert float(torch.cat(list(shares.values())).std()) > 0.05, "the gates differ"


def test_the_seed_decides(tiny: Workload) -> None:
    def logits(seed: int) -> torch.Tensor:
        evaluator = PlanEvaluator(tiny)
        session = SearchSession(evaluator, judge_of(evaluator, 0.4), 100)
        return torch.cat(list(GateSearch()._trained(session, 6, seed).values()))

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_scaled_counts(tiny: Workload) -> None:
    space = PlanEvaluator(tiny).space
    ratios_at = scaled(np.array([3.0, 8.0, 2.0]), space)
    assert space.counts(ratios_at(0.0)) == (6, 8, 8)
    assert space.counts(ratios_at(1.0)) == space.smallest_counts() == (1, 1, 1)
    # The factor falls from 8 / 2 to 1 / 8; at log 4 / log 32 of the way it is 1.
    assert space.counts(ratios_at(np.log(4) / np.log(32))) == (3, 8, 2)
    path = [space.counts(ratios_at(x)) for x in np.linspace(0, 1, 400)]
    for larger, smaller in pairwise(path):
        assert all(a >= b for a, b in zip(larger, smaller, strict=True))


def test_bisection_lands_on_the_largest_plan_under_the_target(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    judge = judge_of(evaluator, 0.4)
    seen: dict[str, Any] = {}

    class Watched(GateSearch):
        def _trained(self, session: SearchSession, batches: int, seed: int) -> Any:
            seen["logits"] = super()._trained(session, batches, seed)
            return seen["logits"]

    result = run_search(Watched(), evaluator, judge, budget=60)
    sums = np.array([float(torch.sigmoid(v).sum()) for v in seen["logits"].values()])
    ratios_at = scaled(sums, evaluator.space)
    path = [evaluator.space.counts(ratios_at(x)) for x in np.linspace(0, 1, 4097)]
    plans = list(dict.fromkeys(path))
    feasible = [judge(evaluator.evaluate(counts)).feasible for counts in plans]
    assert feasible == sorted(feasible), "SynOps fall along this knob"
    paid = {c.evaluation.counts for c in result.candidates}
    assert {plans[feasible.index(True)], plans[feasible.index(True) - 1]} <= paid
    assert paid <= set(plans)


def test_charges_by_hand(tiny: Workload) -> None:
    """Six epochs of 4 batches of 64 samples: 1,536, 4,608 passes; 184 samples an evaluation."""
    evaluator = PlanEvaluator(tiny)
    result = run_search(make_agent("gates"), evaluator, judge_of(evaluator, 0.4), budget=60)
    assert result.charged == 26
    assert result.charged_for.startswith("1536 training samples, each 3 forward passes")
    assert result.updated


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": -1}, "'epochs' of agent 'gates' is -1; it must be a whole number in 0.."),
        (
            {"learning_rate": 0.0},
            "'learning_rate' of .* is 0.0; it must be a number above 0",
        ),
        ({"logit": float("nan")}, "'logit' of agent 'gates' is nan; it must be a number"),
        ({"learning_rat": 1.0}, "setting of agent 'gates' 'learning_rat'.* 'learning_rate'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], said: str) -> None:
    with pytest.raises(AgentError, match=said):
        make_agent("gates", settings)
