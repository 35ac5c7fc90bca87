"""Design-based agents: scores against slow computations, bisection, charges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
import toys
from torch import nn

from spear_gym.agents import AGENTS, AgentError, SearchResult, SearchSession, make_agent, run_search
from spear_gym.agents.design import (
    GlobalL1,
    NetworkSlimming,
    affordable_epochs,
    membrane_activity,
    samples_per_evaluation,
)
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.snn.trace import private_copy
from spear_gym.target import Judge, make_judge
from spear_gym.workload import Workload

RANKED = ("global-l1", "network-slimming", "sca")


def judge_of(evaluator: PlanEvaluator) -> Judge:
    return make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)


def search(workload: Workload, name: str, budget: int = 60, seed: int = 0) -> SearchResult:
    evaluator = PlanEvaluator(workload)
    return run_search(make_agent(name), evaluator, judge_of(evaluator), budget=budget, seed=seed)


@pytest.mark.parametrize("name", RANKED)
def test_largest_plan_under_the_target(tiny: Workload, name: str) -> None:
    """Along the knob, the plan that is found keeps the target and the next larger one does not."""
    evaluator = PlanEvaluator(tiny)
    judge = judge_of(evaluator)
    agent: Any = make_agent(name)
    session = SearchSession(evaluator, judge, 60)
    scores = agent.scores(session, 0)
    order = np.sort(np.concatenate(scores))
    along: dict[tuple[int, ...], bool] = {}
    for gone in range(len(order) + 1):
        bar = order[gone] if gone < len(order) else math.inf
        kept = [int((group >= bar).sum()) for group in scores]
        counts = tuple(max(n, evaluator.space.count(i, 0.9)) for i, n in enumerate(kept))
        along[counts] = judge(evaluator.evaluate(counts)).feasible
    expected = next(counts for counts, keeps in along.items() if keeps)
    result = search(tiny, name)
    feasible = [c for c in result.candidates if c.feasible]
    largest = max(feasible, key=lambda c: c.evaluation.synops)
    assert largest.evaluation.counts == expected
    assert all(c.evaluation.counts in along for c in result.candidates)
    assert result.paid <= 14


@pytest.mark.parametrize("name", RANKED)
def test_repeats_and_leaves_everything_alone(tiny: Workload, name: str) -> None:
    before = {k: v.clone() for k, v in tiny.graph.model.state_dict().items()}
    generator = torch.get_rng_state()
    first = search(tiny, name, seed=1)
    again = search(tiny, name, seed=1)
    assert [c.evaluation for c in first.candidates] == [
        c.evaluation.__class__(**{**vars_of(c.evaluation), "seconds": f.evaluation.seconds})
        for c, f in zip(again.candidates, first.candidates, strict=True)
    ]
    assert bool((torch.get_rng_state() == generator).all())
    after = tiny.graph.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def vars_of(evaluation: Any) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in evaluation.__dataclass_fields__}


def test_l1_scores_by_hand(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    scores = GlobalL1().scores(SearchSession(evaluator, judge_of(evaluator), 9), 0)
    for number, found in enumerate(scores, start=1):
        weight = tiny.graph.model.get_submodule(f"conv{number}").weight
        norms = [sum(abs(w) for w in row.flatten().tolist()) for row in weight]
        mean = sum(norms) / len(norms)
        assert found.tolist() == pytest.approx([n / mean for n in norms])


def test_membrane_activity_against_a_plain_loop(tiny: Workload) -> None:
    model = private_copy(tiny.graph.model)
    inputs = tiny.calibration.inputs[:16]
    seen: dict[str, list[torch.Tensor]] = {}

    def record(name: str) -> Any:
        def hook(module: snn.Leaky, *_: Any) -> None:
            seen.setdefault(name, []).append(module.mem.detach().clone())

        return hook

    neurons = [n for n, m in model.named_modules() if isinstance(m, snn.Leaky)]
    for name in neurons:
        model.get_submodule(name).register_forward_hook(record(name))
        model.get_submodule(name).reset_mem()
    with torch.no_grad():
        for _ in range(tiny.num_steps):
            model(inputs)
    found = membrane_activity(tiny.graph, inputs, tiny.num_steps)
    for scores, name in zip(found, neurons, strict=False):
        membranes = torch.stack(seen[name]).double().abs()
        expected = [float(membranes[:, :, c].mean()) for c in range(membranes.shape[2])]
        assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert len(found) == 3


def test_slimming_shrinks_the_scales(tiny: Workload) -> None:
    def scales(penalty: float) -> float:
        evaluator = PlanEvaluator(tiny)
        session = SearchSession(evaluator, judge_of(evaluator), 60)
        found = NetworkSlimming(epochs=1, penalty=penalty).scores(session, 0)
        return float(sum(group.sum() for group in found))

    assert scales(10.0) < scales(0.0) * 0.997


def test_training_is_charged_by_counting(tiny: Workload) -> None:
    result = search(tiny, "network-slimming", budget=60)
    train, scored = len(tiny.splits.train), len(tiny.splits.search) + len(tiny.calibration)
    epochs = min(5, math.floor((60 - 13) * scored / (3 * train)))
    assert epochs >= 1
    assert result.charged == math.ceil(3 * epochs * train / scored)
    assert f"training on {epochs * train} samples ({epochs} of 5 epochs)" in result.charged_for
    assert result.paid + result.charged <= 60
    assert result.curve[0].spent == result.charged + 1
    poor = search(tiny, "network-slimming", budget=14)
    assert (poor.charged, poor.paid > 0) == (0, True)
    assert "(0 of 5 epochs)" in poor.charged_for
    assert search(tiny, "sca").charged == 1


def test_an_evaluation_in_samples(tiny: Workload) -> None:
    search_samples, calibration = len(tiny.splits.search), len(tiny.calibration)
    for scoring, expected in (("plain", 0), ("recalibrated", calibration), ("refit", calibration)):
        evaluator = PlanEvaluator(tiny, scoring=scoring)  # type: ignore[arg-type]
        assert samples_per_evaluation(evaluator) == search_samples + expected
        session = SearchSession(evaluator, judge_of(evaluator), 13)
        assert affordable_epochs(session, 10) == 0


def test_network_without_batchnorm_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 12),
        snn.Leaky(beta=0.5, init_hidden=True),
        nn.Linear(12, 10),
    )
    data = toys.few_digits()
    bare = Workload(
        model=model, train=data.train, search=data.search, test=data.test, num_steps=2, name="bare"
    )
    evaluator = PlanEvaluator(bare)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=1.0)
    with pytest.raises(AgentError, match=r"'network-slimming' cannot rank .*needs an affine Batch"):
        run_search(make_agent("network-slimming"), evaluator, judge, budget=60)
    for name in ("global-l1", "sca"):
        assert run_search(make_agent(name), evaluator, judge, budget=60).paid > 0


@pytest.mark.parametrize("name", ["uniform", "global-l1", "sca"])
def test_failed_evaluations_do_not_end_a_search(name: str) -> None:
    """The unpruned plan overflows; the bisection goes on below it."""
    evaluator = PlanEvaluator(toys.overflowing(), scoring="plain")
    result = run_search(make_agent(name), evaluator, judge_of(evaluator), budget=60, seed=0)
    assert result.paid >= 1
    assert result.episodes > result.paid


def test_settings() -> None:
    assert make_agent("network-slimming", {"epochs": 2}) == NetworkSlimming(epochs=2)
    with pytest.raises(AgentError, match="epochs is 0"):
        make_agent("network-slimming", {"epochs": 0})
    assert set(RANKED) <= set(AGENTS)
