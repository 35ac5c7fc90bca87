"""The environment: checkers, determinism, copies, and numbers measured independently."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import snntorch as snn
import torch
import toys
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import RescaleAction
from rollouts import make_tiny, random_actions, rollout, same
from snntorch import utils
from stable_baselines3 import DDPG
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import nn

import spear_gym
from spear_gym.env import ActionError, SpearPruneEnv, make_env
from spear_gym.env.observation import FEATURES, HIGH
from spear_gym.envs_registry import ENTRIES, ENTRY_POINT, register_envs
from spear_gym.envs_registry.fits import SHIPPED
from spear_gym.evaluation import EvaluationFailed, PlanEvaluator
from spear_gym.lre import LREError, NoEstimator
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import SCORINGS, Scoring, Simulator
from spear_gym.workload import Workload, WorkloadError, measure

IDS = sorted(name for name, spec in gym.registry.items() if spec.entry_point == ENTRY_POINT)
WORKLOADS = {entry.environment: entry.name for entry in ENTRIES.values()}


def lre_of(workload: str) -> str:
    """`auto` where a fit ships, `none` where it does not."""
    return "auto" if list(SHIPPED.glob(f"{workload}.*.json")) else "none"


def options_of(name: str) -> dict[str, Any]:
    return {"lre": lre_of(WORKLOADS.get(name, "digits"))}


by_id = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if "Cluttered" in name else []) for name in IDS],
)


# Checkers, over every registered id.


def test_every_workload_has_its_id() -> None:
    assert set(IDS) == {"SpearPrune-v0", *WORKLOADS}
    assert len(IDS) == len(ENTRIES) + 1


@by_id
def test_gymnasiums_checker_gives_no_warning(name: str) -> None:
    env = gym.make(name, **options_of(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@by_id
def test_sb3s_checker_gives_its_normalisation_warning_only(name: str) -> None:
    env = gym.make(name, **options_of(name)).unwrapped
    with warnings.catch_warnings(record=True) as raw:
        warnings.simplefilter("always")
        sb3_check_env(env, warn=True)
    assert len(raw) == 1
    assert "symmetric and normalized Box action space" in str(raw[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(RescaleAction(env, np.float32(-1.0), np.float32(1.0)), warn=True)


@by_id
def test_twin_rollouts_are_identical(name: str) -> None:
    twins = [gym.make(name, **options_of(name)) for _ in range(2)]
    assert twins[0].unwrapped.evaluator is not twins[1].unwrapped.evaluator
    actions = random_actions(twins[0], episodes=2)
    first, second = (rollout(env, actions, seed=7) for env in twins)
    assert same(first, second)
    assert not np.array_equal(first[1][0], first[2][0])


def test_id_stands_for_its_workload() -> None:
    for name, workload in WORKLOADS.items():
        assert gym.spec(name).kwargs["workload"] == workload
    assert gym.spec("SpearPrune-v0").kwargs.get("workload", "digits") == "digits"


def test_registering_twice_is_harmless() -> None:
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
        spear_gym.register_envs()
    assert dict(gym.registry) == before


@pytest.mark.slow
def test_make_without_import(tmp_path: Path) -> None:
    code = (
        "import gymnasium as gym, sys\n"
        "assert 'spear_gym' not in sys.modules\n"
        "env = gym.make('spear_gym:SpearPrune-v0', target=0.4, lre='none')\n"
        "print(env.spec.id, env.reset()[0].shape, env.unwrapped.judge.target)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "SpearPrune-v0 (15,) 0.4"


# Vectors.


@pytest.mark.parametrize(
    "kind", ["sync", pytest.param("spawn", marks=pytest.mark.slow)], ids=["sync", "async-spawn"]
)
def test_vector_environments_equal_single_ones(tiny: Workload, kind: str) -> None:
    make = partial(
        gym.make, "spear_gym:SpearPrune-v0", workload=tiny, target=0.3, lre="none", scoring="plain"
    )
    singles = [make() for _ in range(2)]
    vector = (
        SyncVectorEnv([make] * 2) if kind == "sync" else AsyncVectorEnv([make] * 2, context="spawn")
    )
    try:
        for episode in range(2):
            observations, _ = vector.reset(seed=episode)
            expected = [env.reset(seed=episode + i) for i, env in enumerate(singles)]
            assert np.array_equal(observations, np.stack([obs for obs, _ in expected]))
            actions = [random_actions(env, 1, 10 * episode + i) for i, env in enumerate(singles)]
            for pair in zip(*actions, strict=True):
                steps = [env.step(action) for env, action in zip(singles, pair, strict=True)]
                observations, rewards, terminated, truncated, infos = vector.step(np.stack(pair))
                assert np.array_equal(observations, np.stack([step[0] for step in steps]))
                assert rewards.tolist() == [step[1] for step in steps]
                assert terminated.tolist() == [step[2] for step in steps]
                assert not truncated.any()
            for i, step in enumerate(steps):
                assert terminated[i]
                assert infos["accuracy"][i] == step[4]["accuracy"]
                assert infos["synops"][i] == step[4]["synops"]
    finally:
        vector.close()


# Spaces, actions, episodes.


def test_observation_space_is_as_declared(tiny: Workload) -> None:
    env = make_tiny(tiny)
    assert env.observation_names == tuple(name for name, _ in FEATURES)
    assert env.observation_space.dtype == np.float32
    assert env.observation_space.low.tolist() == [0.0] * len(FEATURES)
    assert env.observation_space.high.tolist() == [high for _, high in FEATURES]
    for item in rollout(env, random_actions(env, episodes=20)):
        assert item[0] in env.observation_space


def test_docstring_table_is_what_is_declared() -> None:
    assert SpearPruneEnv.__doc__ is not None
    rows = re.findall(
        r"^ *\| (\d+) \| (\w+) \|.*\| ([\d.]+) \| ([\d.]+) \|$", SpearPruneEnv.__doc__, re.MULTILINE
    )
    declared = [(i, name, 0.0, high) for i, (name, high) in enumerate(FEATURES)]
    assert [(int(i), n, float(low), float(high)) for i, n, low, high in rows] == declared
    assert f"``Box(0, high, ({len(FEATURES)},), float32)``" in SpearPruneEnv.__doc__


def test_action_space_is_as_documented(tiny: Workload) -> None:
    space = make_tiny(tiny, max_ratio=0.7).action_space
    assert isinstance(space, gym.spaces.Box)
    assert (space.shape, space.dtype) == ((1,), np.float32)
    assert (space.low.item(), space.high.item()) == (0.0, float(np.float32(0.7)))


def test_exactly_one_step_per_group(tiny: Workload) -> None:
    env = make_tiny(tiny)
    groups = tiny.graph.groups
    assert len(groups) == 3
    for _ in range(3):
        env.reset()
        for index, group in enumerate(groups):
            _, reward, terminated, truncated, info = env.step(np.array([0.4], np.float32))
            assert env.group_names[info["group"]] == group.name
            assert info["channels_kept"] == env.evaluator.space.count(index, 0.4)
            assert terminated == (index == len(groups) - 1)
            assert not truncated
            assert terminated or reward == 0.0
        with pytest.raises(ActionError, match=r"call reset\(\)"):
            env.step(np.array([0.4], np.float32))


@pytest.mark.parametrize(
    ("given", "applied"), [(5.0, 0.9), (-0.3, 0.0), (0.9, 0.9), (0.25, 0.25), (0.0, 0.0)]
)
def test_actions_are_clipped_and_reported(tiny: Workload, given: float, applied: float) -> None:
    env = make_tiny(tiny)
    env.reset()
    observation, _, _, _, info = env.step(np.array([given], np.float32))
    assert info["applied_action"].tolist() == [float(np.float32(applied))]
    assert info["applied_action"].dtype == np.float32
    assert observation[env.observation_names.index("previous_action")] == np.float32(applied)
    assert info["channels_kept"] == int(np.floor((1 - applied) * 6 + 0.5))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([np.nan], np.float32), r"action is nan; .*\[0, 0.9\]"),
        (np.array([np.inf], np.float32), "action is inf"),
        (np.array([0.1, 0.2], np.float32), r"shape \(2,\); it must be \(1,\)"),
        (np.array(0.1, np.float32), r"shape \(\)"),
        (np.array([[0.1]], np.float32), r"shape \(1, 1\)"),
    ],
)
def test_bad_actions_are_errors(tiny: Workload, action: np.ndarray, message: str) -> None:
    env = make_tiny(tiny)
    env.reset()
    with pytest.raises(ActionError, match=message):
        env.step(action)
    _, _, terminated, _, info = env.step(np.array([0.1], np.float32))
    assert not terminated
    assert info["group"] == 0, "a refused action decides nothing"


def test_no_fit_is_said_before_any_episode(tiny: Workload) -> None:
    with pytest.raises(LREError, match="no LRE fit for workload 'tiny'"):
        make_tiny(tiny, lre="auto")


def test_reward_bounds_hold(tiny: Workload) -> None:
    env = make_tiny(tiny, target=0.05, reward_settings={"lam": 7.0})
    low, high = env.judge.reward_bounds
    assert low == pytest.approx(-7.0 * (1 / 0.05 - 1))
    assert high == 1.0
    last = [item for item in rollout(env, random_actions(env, episodes=20)) if len(item) == 5]
    rewards = [item[1] for item in last if item[2]]
    assert len(rewards) == 20
    assert all(low <= reward <= high for reward in rewards)
    assert min(rewards) < 0 < env.judge.max_ratio


# A plan that cannot be evaluated.


def test_failed_evaluation_ends_the_episode_with_the_lowest_reward() -> None:
    workload = toys.overflowing()
    env = make_env(workload, target=0.3, lre="none", scoring="plain")
    assert np.isinf(measure_readout(workload)).any()
    env.reset()
    env.step(np.array([0.0], np.float32))
    observation, reward, terminated, truncated, info = env.step(np.array([0.0], np.float32))
    assert (terminated, truncated) == (True, False)
    assert reward == env.judge.reward_bounds[0] < 0
    assert env.failure_names[info["failure"]] == "output not finite"
    assert "not finite" in (env.last_failure or "")
    assert info["accuracy"] == -1
    assert info["plan"].tolist() == [12, 12]
    assert observation in env.observation_space
    assert env.best is None
    with pytest.raises(EvaluationFailed):
        env.evaluator.evaluate((12, 12))
    env.reset()
    env.step(np.array([0.0], np.float32))
    _, _, terminated, _, info = env.step(np.array([0.5], np.float32))
    assert terminated
    assert info["failure"] == 0
    assert env.last_failure is not None, "kept, for vectors reset at once"
    assert env.best is not None


def measure_readout(workload: Workload) -> np.ndarray:
    walk = Simulator(workload.graph, workload.splits.search.inputs, workload.num_steps).run()
    assert walk.readout is not None
    return walk.readout.numpy()


# Numbers.


@pytest.mark.parametrize("scoring", SCORINGS)
def test_final_info_equals_the_pruned_network_measured_by_itself(
    tiny: Workload, scoring: Scoring
) -> None:
    env = make_tiny(tiny, scoring=scoring, target=0.4)
    unpruned = measure(tiny, tiny.graph.model, "search")
    steps = [s for s in rollout(env, random_actions(env, episodes=6, seed=3)) if len(s) == 5]
    for _, reward, terminated, _, info in steps:
        if not terminated:
            assert reward == 0.0
            continue
        plan = env.evaluator.space.plan(info["plan"])
        # One whole pass instead of the walk, then surgery, then the small network measured.
        updates = env.evaluator.simulator.run(plan).updates
        figures = measure(tiny, prune_network(tiny.graph, plan, updates), "search")
        assert info["accuracy"] == figures.accuracy
        assert info["synops"] == figures.synops
        assert info["synops_fraction"] == figures.synops / unpruned.synops
        assert info["params_fraction"] == figures.parameters / unpruned.parameters
        predicted = min(figures.synops / unpruned.synops, 1.0)
        assert info["predicted_synops_fraction"] == predicted
        assert info["target"] == 0.4
        assert info["cost"] == max(0.0, predicted / 0.4 - 1)
        terms = dict(zip(env.reward_term_names, info["reward_terms"].tolist(), strict=True))
        assert terms == {"accuracy": figures.accuracy, "synops_penalty": -5.0 * info["cost"]}
        assert reward == sum(terms.values())
        assert info["cached"] == 0
    plans = {s[4]["evaluation_id"]: tuple(s[4]["plan"]) for s in steps if s[2]}
    assert list(plans) == list(range(len(plans)))
    assert len(set(plans.values())) == len(plans) > 3


def test_measured_features_are_those_of_the_network_under_plain_snntorch(tiny: Workload) -> None:
    """Input rate, committed and open SynOps, with nothing of the simulator in between."""
    env = make_tiny(tiny, scoring="plain")
    names = env.observation_names
    reference = measure(tiny, tiny.graph.model, "search")
    space = env.evaluator.space
    counts: list[int] = []
    observation, _ = env.reset()
    for index, ratio in enumerate((0.5, 0.25, 0.0)):
        conv = f"conv{index + 1}"
        widths = counts + [group.channels for group in space.groups[index:]]
        inputs = layer_inputs(prune_network(tiny.graph, space.plan(widths)), tiny)
        settled = [f"conv{i + 1}" for i in range(index)]
        settled_synops = sum(env.evaluator.simulator.run(space.plan(widths)).layers[name].synops
                             for name in settled) / len(tiny.splits.search)  # fmt: skip
        still_open = reference.synops - sum(reference.layer_synops[name] for name in settled)
        expected = {
            "position": index / 3,
            "input_rate": float((inputs[conv] != 0).double().mean()),
            "synops_committed": settled_synops / reference.synops,
            "synops_open": still_open / reference.synops,
            "kept_inputs": 1.0 if index == 0 else counts[-1] / space.groups[index - 1].channels,
            "target": 0.3,
        }
        for name, value in expected.items():
            assert observation[names.index(name)] == pytest.approx(value, abs=1e-5), (conv, name)
        observation, *_, info = env.step(np.array([ratio], np.float32))
        counts.append(info["channels_kept"])
    committed = observation[names.index("synops_committed")]
    assert committed == pytest.approx(info["synops_fraction"], abs=1e-6)
    assert observation[names.index("synops_open")] == 0.0


def layer_inputs(model: nn.Module, workload: Workload) -> dict[str, torch.Tensor]:
    """Inputs of the convolutions, all time steps, under plain snnTorch."""
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            store = seen.setdefault(name, [])
            module.register_forward_pre_hook(lambda _, args, store=store: store.append(args[0]))
        if isinstance(module, snn.Leaky):
            module.reset_mem()
    with torch.no_grad():
        for _ in range(workload.num_steps):
            model(workload.splits.search.inputs)
    return {name: torch.stack(values) for name, values in seen.items()}


def test_a_plan_asked_for_again_is_cached(tiny: Workload) -> None:
    env = make_tiny(tiny)
    actions = random_actions(env, episodes=1)
    once, again = (rollout(env, actions)[len(actions)] for _ in range(2))
    assert (once[4]["cached"], again[4]["cached"]) == (False, True)
    assert once[1] == again[1]
    assert np.array_equal(once[0], again[0])


def test_best_follows_the_rule_for_best_plans(tiny: Workload) -> None:
    env = make_tiny(tiny, target=0.2)
    assert env.best is None
    seen: list[dict[str, Any]] = []
    env.reset()
    for action in random_actions(env, episodes=15):
        _, _, terminated, _, info = env.step(action)
        if not terminated:
            continue
        env.reset()
        seen.append(info)
        feasible = [i for i in seen if i["predicted_synops_fraction"] / 0.2 <= 1]
        if feasible:
            best = max(feasible, key=lambda i: (i["accuracy"], -i["synops"]))
        else:
            best = min(seen, key=lambda i: i["predicted_synops_fraction"])
        assert env.best is not None
        assert env.best.accuracy == best["accuracy"]
        assert env.best.evaluation.synops == best["synops"]
    assert len(seen) == 15


# Rendering.


def test_renders_text(tiny: Workload) -> None:
    env = make_tiny(tiny, render_mode="ansi")
    env.reset()
    text = env.render()
    assert text.count("undecided") == 3
    env.step(np.array([0.5], np.float32))
    text = env.render()
    assert text.count("undecided") == 2
    assert "3/6" in text
    assert all(group.name in text for group in tiny.graph.groups)
    for _ in range(2):
        *_, info = env.step(np.array([0.5], np.float32))
    text = env.render()
    assert "undecided" not in text
    assert f"accuracy {info['accuracy']:.3f}" in text


def test_renders_a_picture(tiny: Workload) -> None:
    env = make_tiny(tiny, render_mode="rgb_array")
    env.reset()
    before = env.render()
    assert (before.dtype, before.ndim, before.shape[2]) == (np.uint8, 3, 3)
    assert before.shape[0] > 200
    assert before.shape[1] > 400
    env.step(np.array([0.5], np.float32))
    after = env.render()
    assert after.shape == before.shape
    assert not np.array_equal(after, before)


def test_renders_nothing_unless_asked(tiny: Workload) -> None:
    env = make_tiny(tiny)
    env.reset()
    assert env.render() is None


# Fine-tuning, and the example of the README.


def test_nothing_to_finetune_before_an_episode(tiny: Workload) -> None:
    with pytest.raises(ValueError, match="run at least one episode"):
        make_tiny(tiny).finetune()


def assert_runs_under_plain_snntorch(net: nn.Module, workload: Workload) -> None:
    images = workload.splits.search.inputs[:16]
    neurons = [m for m in net.modules() if isinstance(m, snn.Leaky)]
    assert neurons

    def run() -> torch.Tensor:
        with torch.no_grad():
            return sum(net(images) for _ in range(workload.num_steps)) / workload.num_steps

    utils.reset(net)
    first = run()
    assert any(bool((neuron.mem != 0).any()) for neuron in neurons)
    assert not torch.equal(run(), first), "membranes go on without a reset"
    utils.reset(net)
    assert all(not bool((neuron.mem != 0).any()) for neuron in neurons)
    assert torch.equal(run(), first)


def test_finetune_gives_a_smaller_network(tiny: Workload) -> None:
    env = make_tiny(tiny)
    rollout(env, random_actions(env, episodes=2))
    assert env.best is not None
    tuned = env.finetuned(env.best, seed=1)
    net = env.finetune(env.best, seed=1)
    assert type(net) is type(tiny.graph.model)
    assert tuple(net.get_submodule(g.name).out_channels for g in tiny.graph.groups) == (
        env.best.evaluation.counts
    )
    for key, value in tuned.model.state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key
    assert tuned.search == measure(tiny, net, "search")
    assert_runs_under_plain_snntorch(net, tiny)


@pytest.mark.slow
def test_python_example() -> None:
    env = gym.make("SpearPrune-v0", workload="digits", target=0.3, lre=lre_of("digits"))
    model = DDPG("MlpPolicy", env, learning_starts=20, seed=0)
    model.learn(60)
    best = env.unwrapped.best
    assert len(best.evaluation.counts) == 4
    assert 0.0 < best.accuracy <= 1.0
    assert best.evaluation.synops > 0
    net = env.unwrapped.finetune(best)
    widths = tuple(m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d))
    assert widths == best.evaluation.counts
    assert_runs_under_plain_snntorch(net, env.unwrapped.evaluator.workload)


# What the arguments mean.


def test_target_in_synops(tiny: Workload) -> None:
    unpruned = measure(tiny, tiny.graph.model, "search").synops
    env = make_tiny(tiny, target=None, target_synops=0.25 * unpruned)
    assert env.judge.target == pytest.approx(0.25)
    assert isinstance(env.judge.estimator, NoEstimator)


def test_shared_evaluator_pays_once(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    envs = [make_env(evaluator=evaluator, target=t, lre="none") for t in (0.3, 0.5)]
    actions = random_actions(envs[0], episodes=4)
    first = rollout(envs[0], actions)
    runs = evaluator.runs
    second = rollout(envs[1], actions)
    assert evaluator.runs == runs
    figures = [
        [item[4]["accuracy"] for item in items if len(item) == 5 and item[2]]
        for items in (first, second)
    ]
    assert figures[0] == figures[1]


def test_high_bounds_are_float32() -> None:
    assert HIGH.dtype == np.float32


def test_a_workload_of_the_users_by_its_path() -> None:
    """As the commands take it: ``module:function``, looked up where Python finds modules."""
    env = gym.make("SpearPrune-v0", workload="toys:tiny", target=0.5, lre="none")
    inner = env.unwrapped
    assert isinstance(inner, SpearPruneEnv)
    assert inner.evaluator.workload.name == "tiny"
    assert gym.make(env.spec).unwrapped.evaluator.workload.name == "tiny"  # type: ignore[arg-type,attr-defined]
    envs = gym.make_vec("SpearPrune-v0", 2, workload="toys:tiny", target=0.5, lre="none")
    assert envs.reset(seed=0)[0].shape[0] == 2
    with pytest.raises(WorkloadError, match="cannot import the workload 'toyz:tiny': there is no"):
        gym.make("SpearPrune-v0", workload="toyz:tiny")
