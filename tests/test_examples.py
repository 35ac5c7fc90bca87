"""The examples of the documentation run, and find what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest

from spear_gym.workload import Workload

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("reward", ["tar", "hard"])
def test_tree_search_finds_the_best_plan_of_its_grid(toy: Workload, reward: str) -> None:
    tree = example("tree_search")
    settings = {"workload": toy, "target": 0.4, "lre": "none", "reward": reward}
    env = gym.make("SpearPrune-v0", **settings)
    found = tree.tree_search(env, episodes=120)
    rewards = {}
    for first in tree.RATIOS:
        for second in tree.RATIOS:
            env.reset()
            env.step(np.array([first], np.float32))
            _, rewards[first, second], *_ = env.step(np.array([second], np.float32))
    assert found.reward == max(rewards.values())
    assert found.predicted <= 0.4
    again = tree.tree_search(gym.make("SpearPrune-v0", **settings), episodes=120)
    assert again == found


def test_tree_search_simulates_a_prefix_once(tiny: Workload) -> None:
    tree = example("tree_search")
    env = gym.make("SpearPrune-v0", workload=tiny, target=0.4, lre="none")
    evaluator = env.unwrapped.evaluator
    tree.tree_search(env, episodes=30)
    counts = {key[:n] for key in evaluator.known for n in range(1, 4)}
    walked = {key for key in evaluator._prefixes if key}
    assert evaluator.statistics["decisions simulated"] == len(walked | counts)


def test_tree_search_as_a_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tree_search.py", "--episodes", "6", "--target", "0.5"])
    example("tree_search").main()
    assert "predicted SynOps" in capsys.readouterr().out
