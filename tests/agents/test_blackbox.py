"""Optuna's samplers and regularised evolution as agents."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import toys
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning

from spear_gym.agents import AgentError, SearchResult, make_agent, run_search
from spear_gym.agents.blackbox import SAMPLERS
from spear_gym.agents.evolution import RegularizedEvolutionSampler
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, best_of, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.workload import Workload


def judge_of(evaluator: PlanEvaluator) -> Judge:
    return make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)


def search(workload: Workload, name: str, budget: int, seed: int, **settings: Any) -> SearchResult:
    evaluator = PlanEvaluator(workload)
    agent = make_agent(name, settings)
    return run_search(agent, evaluator, judge_of(evaluator), budget=budget, seed=seed)


def trail(result: SearchResult) -> list[tuple[tuple[int, ...], float]]:
    return [(c.evaluation.counts, c.reward) for c in result.candidates]


QUICK: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 5},
    "gp": {"n_startup_trials": 10},
    "nsga-ii": {"population_size": 5},
    "nsga-ii-2": {"population_size": 5},
    "evolution": {"population": 6, "sample": 3},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_budget_and_repetition_are_exact(tiny: Workload, name: str) -> None:
    settings = QUICK.get(name, {})
    python, pytorch = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    first, other = (search(tiny, name, 14, seed, **settings) for seed in (1, 2))
    assert random.getstate() == python
    assert bool((torch.get_rng_state() == pytorch).all())
    assert (np.random.get_state()[1] == numpy).all()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert trail(search(tiny, name, 14, 1, **settings)) == trail(first)
    assert trail(other) != trail(first)
    assert first.paid == len({plan for plan, _ in trail(first)}) == 14
    assert first.best == best_of(first.candidates)
    assert first.updated


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_is_told_the_rewards(tiny: Workload, name: str) -> None:
    """The same plans as from Optuna's own loop around an objective worked out here."""
    settings = QUICK.get(name, {})
    found = search(tiny, name, 14, 3, **settings)
    evaluator, kind = PlanEvaluator(tiny), SAMPLERS[name]
    space, plans = evaluator.space, dict[tuple[int, ...], None]()

    def objective(trial: optuna.Trial) -> float | tuple[float, float]:
        ratios = [trial.suggest_float(f"{i} {g.name}", 0, 0.9) for i, g in enumerate(space.groups)]
        counts = tuple(
            max(1, int(np.floor((1 - float(np.float32(a))) * g.channels + 0.5)))
            for a, g in zip(ratios, space.groups, strict=True)
        )
        plans[counts] = None
        if len(plans) == 14:
            trial.study.stop()
        measured = evaluator.evaluate(counts)
        if kind.objectives == 2:
            return measured.accuracy, measured.synops_fraction
        return measured.accuracy - 5 * max(0.0, measured.synops_fraction / 0.4 - 1)

    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        sampler = kind.sampler(seed=3, **kind.fixed, **settings)
    directions = ["maximize", "minimize"][: kind.objectives]
    study = optuna.create_study(sampler=sampler, directions=directions)
    study.optimize(objective, n_trials=140)
    assert [c.evaluation.counts for c in found.candidates] == list(plans)


@pytest.mark.parametrize("name", ["tpe", "nsga-ii-2", "evolution"])
def test_failed_evaluations_do_not_end_a_search(name: str) -> None:
    """Every plan that keeps the last group whole overflows."""
    evaluator = PlanEvaluator(toys.overflowing(), scoring="plain", min_channels=10)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=1.0)
    result = run_search(make_agent(name), evaluator, judge, budget=5, seed=0)
    assert result.paid >= 1
    assert all(c.evaluation.counts[1] < 12 for c in result.candidates)
    assert result.episodes > result.paid, "a failed plan was asked for"


def test_settings() -> None:
    with pytest.raises(AgentError, match=r"setting of agent 'tpe' 'n_startup_trial'.*'n_startup"):
        make_agent("tpe", {"n_startup_trial": 3})
    with pytest.raises(AgentError, match=r"unknown setting of agent 'cma-es' 'seed'"):
        make_agent("cma-es", {"seed": 3})
    with pytest.raises(AgentError, match=r"'population_size' of .* is 1; .* in 2..10,000"):
        make_agent("nsga-ii", {"population_size": 1})
    with pytest.raises(AgentError, match=r"'population' of agent 'evolution' is 0"):
        make_agent("evolution", {"sample": 9, "population": 0})
    with pytest.raises(AgentError, match=r"'step' of agent 'evolution' is 0; .* above 0"):
        make_agent("evolution", {"step": 0})


# Regularised evolution.


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_children_and_ages(direction: str) -> None:
    """Each child is one of the living with one value moved, and the best of every full sample."""
    sampler = RegularizedEvolutionSampler(population=8, sample=40, seed=2)
    study = optuna.create_study(sampler=sampler, direction=direction)
    limits = {name: FloatDistribution(-1.0, 3.0) for name in "abc"}
    sign = 1.0 if direction == "maximize" else -1.0
    members: list[tuple[dict[str, float], float]] = []
    moved_by = []
    for number in range(60):
        trial = study.ask(limits)
        child = dict(trial.params)
        assert all(-1.0 <= value <= 3.0 for value in child.values())
        if number >= 8:
            # A sample of 40 with replacement from 8 holds the best but for one time in 200.
            parents = [
                (rank, parent)
                for rank, (parent, _) in enumerate(
                    sorted(members[-8:], key=lambda member: -sign * member[1])
                )
                if sum(parent[key] != child[key] for key in limits) == 1
            ]
            assert parents, "no living member differs in one value only"
            moved_by.append(parents[0][0])
        value = -((child["a"] - 1) ** 2) - child["b"] ** 2 + 0.1 * number
        members.append((child, sign * value))
        study.tell(trial, sign * value)
    assert moved_by.count(0) >= 48
    assert study.best_trial.number > 8


def test_oldest_dies_even_when_it_is_the_best() -> None:
    sampler = RegularizedEvolutionSampler(population=4, sample=4, seed=0)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    limits = {"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.0, 1.0)}
    first = study.ask(limits)
    study.tell(first, 100.0)
    for _ in range(30):
        trial = study.ask(limits)
        study.tell(trial, 0.0)
    late = study.ask(limits).params
    assert late["a"] != first.params["a"]
    assert late["b"] != first.params["b"]


def test_floats_only() -> None:
    study = optuna.create_study(sampler=RegularizedEvolutionSampler(2, 1, seed=0))
    for _ in range(2):
        study.tell(study.ask({"n": IntDistribution(0, 9)}), 0.0)
    with pytest.raises(ValueError, match="floats only"):
        study.ask({"n": IntDistribution(0, 9)})
