"""Copies of environments in mid-episode go on as the original would."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import (
    RecordEpisodeStatistics,
    RescaleAction,
    TimeAwareObservation,
    TimeLimit,
)
from rollouts import going_on, infos_of, make_tiny, random_actions, rollout, same

from spear_gym.agents.base import BudgetSpent, SearchSession
from spear_gym.env import SpearPruneEnv, make_env
from spear_gym.env.sb3_vector import SB3VecEnv
from spear_gym.env.vector import SpearPruneVectorEnv
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import LagrangianReward
from spear_gym.workload import Workload

Way = Callable[[Any], Any]
WAYS: dict[str, Way] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
}
by_way = pytest.mark.parametrize("way", WAYS)


def wrapped(tiny: Workload, way: str) -> gym.Env[Any, Any]:
    """Pickle itself cannot take Gymnasium's wrappers that hold functions."""
    env = gym.make(
        "SpearPrune-v0", workload=tiny, target=0.2, lre="none", reward="lagrangian"
    )  # fmt: skip
    if way == "pickle":
        return TimeLimit(env, 4)
    return TimeAwareObservation(RescaleAction(env, *BOUNDS))


BOUNDS = np.float32(0.0), np.float32(0.9)


def best(env: SpearPruneEnv) -> Any:
    """All of the best plan but how long it took."""
    if env.best is None:
        return None
    return replace(env.best, evaluation=replace(env.best.evaluation, seconds=0.0))


def compared(way: str, infos: list[dict[str, Any]]) -> None:
    """Deep copies share the memory of plans, so what came first is known to what comes second."""
    if way == "deepcopy":
        for info in infos:
            info.pop("cached"), info.pop("_cached", None)


@by_way
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10], ids=lambda n: f"after {n}")
@pytest.mark.parametrize("form", ["plain", "wrapped"])
def test_goes_on_as_the_original(tiny: Workload, form: str, steps: int, way: str) -> None:
    plain = form == "plain"
    env = make_tiny(tiny, target=0.2, reward="lagrangian") if plain else wrapped(tiny, way)
    actions = random_actions(env, episodes=6)
    env.reset(seed=3)
    going_on(env, actions[:steps])
    copied = WAYS[way](env)
    one, other = env.unwrapped, copied.unwrapped
    assert other is not one
    assert other.judge == one.judge
    assert other.judge.reward is not one.judge.reward
    assert best(other) == best(one)
    assert (other.evaluator is one.evaluator) == (way == "deepcopy")
    ours, theirs = (going_on(e, actions[steps:]) for e in (env, copied))
    compared(way, infos_of(ours)), compared(way, infos_of(theirs))
    assert same(ours, theirs)
    assert best(other) == best(one) is not None
    assert other.judge == one.judge, "adaptive rewards moved alike"
    assert one.judge.reward.lam != LagrangianReward().lam
    assert same(one.np_random.random(3), other.np_random.random(3))


@by_way
@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("form", ["ours", "side by side", "limited", "sync", "sb3"])
def test_vectors_go_on_as_the_original(tiny: Workload, form: str, steps: int, way: str) -> None:
    settings: dict[str, Any] = {"workload": tiny, "target": 0.2, "lre": "none"}
    if form == "sync":
        if way == "pickle":
            pytest.skip("Gymnasium's own vector holds the functions that made it")
        vector: Any = SyncVectorEnv([lambda: gym.make("SpearPrune-v0", **settings)] * 2)
    else:
        limit = 2 if form == "limited" else None
        mode = "SameStep" if form == "sb3" else "NextStep"
        vector = SpearPruneVectorEnv(
            2, mode, side_by_side=form == "side by side", max_episode_steps=limit,
            reward="lagrangian", **settings,
        )  # fmt: skip
    vector = SB3VecEnv(vector) if form == "sb3" else vector
    rng = np.random.default_rng(0)
    actions = rng.uniform(0, 0.9, (14, 2, 1)).astype(np.float32)
    vector.reset() if form == "sb3" else vector.reset(seed=1)
    for action in actions[:steps]:
        vector.step(action)
    copied = WAYS[way](vector)
    for action in actions[steps:]:
        left, right = vector.step(action), copied.step(action)
        for side in (left, right):
            compared(way, list(side[-1]) if form == "sb3" else [side[-1]])
        if form == "side by side" and way != "deepcopy":
            # Activations are computed again, alone where they were computed together.
            np.testing.assert_allclose(left[0], right[0], atol=2e-3)
            continue
        assert same(left[:-1], right[:-1])
        assert form == "sb3" or same(*(without_final(side[-1]) for side in (left, right)))


def without_final(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in infos.items() if "final" not in key}


def test_vectors_share_one_evaluator_after_a_copy(tiny: Workload) -> None:
    vector = SpearPruneVectorEnv(3, workload=tiny, target=0.3, lre="none")
    for way in WAYS.values():
        copied = way(vector)
        assert {id(env.evaluator) for env in copied.episodes} == {id(copied.evaluator)}


def test_copies_part_from_there(tiny: Workload) -> None:
    """What one does is seen by none of the others: a tree search can hold many of them."""
    env = make_tiny(tiny, target=0.2, reward="lagrangian")
    going_on_from_reset = rollout(env, random_actions(env, episodes=1))
    assert going_on_from_reset
    env.step(np.array([0.5], np.float32))
    state = (env._counts, env.best, copy.deepcopy(env.judge.reward))
    branches = [copy.deepcopy(env) for _ in range(3)]
    for ratio, branch in zip((0.0, 0.45, 0.9), branches, strict=True):
        for _ in range(2):
            *_, info = branch.step(np.array([ratio], np.float32))
        assert info["plan"][0] == state[0][0]
    assert (env._counts, env.best, env.judge.reward) == state
    assert len({branch.best.evaluation.counts for branch in branches if branch.best}) > 1
    assert len({branch.judge.reward.lam for branch in branches}) == 3


def test_a_copy_of_a_catalogued_environment_is_small() -> None:
    env = gym.make("SpearPrune-Digits-v0", lre="none")
    rollout(env, random_actions(env, episodes=3))
    assert len(pickle.dumps(env)) < 60_000
    copied = pickle.loads(pickle.dumps(env))
    assert copied.unwrapped.evaluator.workload is env.unwrapped.evaluator.workload
    assert not copied.unwrapped.evaluator._walks


def test_a_deep_copy_costs_no_simulation(tiny: Workload) -> None:
    env = make_tiny(tiny)
    actions = random_actions(env, episodes=1)
    env.reset()
    env.step(actions[0])
    copied = copy.deepcopy(env)
    before = env.evaluator.statistics["decisions simulated"]
    env.step(actions[1]), copied.step(actions[1])
    assert env.evaluator.statistics["decisions simulated"] == before + 1


def test_statistics_of_wrappers_are_copied(tiny: Workload) -> None:
    env = RecordEpisodeStatistics(make_tiny(tiny))
    env.reset()
    going_on(env, random_actions(env, episodes=2)[:4])
    for way in ("deepcopy", "cloudpickle"):
        copied = WAYS[way](env)
        assert copied.episode_count == 1
        assert copied.episode_lengths == env.episode_lengths == 1


def test_environments_given_one_adaptive_reward_adapt_their_own(tiny: Workload) -> None:
    given = LagrangianReward(lam=2.0)
    envs = [make_tiny(tiny, target=0.2, reward=given) for _ in range(2)]
    rollout(envs[0], random_actions(envs[0], episodes=3))
    assert envs[0].judge.reward.lam != 2.0
    assert envs[1].judge.reward.lam == given.lam == 2.0


def session(tiny: Workload, budget: int) -> SearchSession:
    evaluator = PlanEvaluator(tiny)
    judge = make_judge(evaluator, NoEstimator(), LagrangianReward(), target=0.3)
    return SearchSession(evaluator, judge, budget)


def test_copies_of_a_sessions_environment_pay_from_one_budget(tiny: Workload) -> None:
    paying = session(tiny, budget=2)
    env = paying.make_env()
    assert env.judge is paying.judge
    env.reset()
    env.step(np.array([0.2], np.float32))
    for number, ratio in enumerate((0.1, 0.8), start=1):
        branch = copy.deepcopy(env)
        for _ in range(2):
            branch.step(np.array([ratio], np.float32))
        assert len(paying.paid) == number
    env.step(np.array([0.4], np.float32))
    with pytest.raises(BudgetSpent):
        env.step(np.array([0.4], np.float32))


def test_a_sessions_environment_is_not_pickled(tiny: Workload) -> None:
    env = session(tiny, budget=2).make_env()
    for dumps in (pickle.dumps, cloudpickle.dumps):
        with pytest.raises(TypeError, match="budget would be spent twice"):
            dumps(env)


@by_way
def test_workloads_are_copied_without_their_data(tiny: Workload, way: str) -> None:
    if way == "deepcopy":
        copied = copy.deepcopy(tiny)
        assert copied.splits is tiny.splits
        copied.name = "other"
        assert tiny.name == "tiny"
    env = WAYS[way](make_env(tiny, target=0.3, lre="none"))
    assert env.evaluator.workload.fingerprint() == tiny.fingerprint()
