"""What is handed to the user: it runs in its own forward, and comes out of worker processes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
import toys
from gymnasium.vector import AsyncVectorEnv
from reference import run_plain
from rollouts import make_tiny
from snntorch import utils
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor, nn

import spear_gym
from spear_gym.env import make_env
from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.plan import PlanError
from spear_gym.snn.handover import hand_over
from spear_gym.workload import Workload

ACTION = np.array([0.5], np.float32)


def tiny_env() -> gym.Env[Any, Any]:
    return make_tiny(toys.tiny())


def answers(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(4, 1, 8, 8, generator=generator)
    return run_plain(network, [images] * 4).outputs


@pytest.fixture(scope="module")
def expected() -> Tensor:
    env = tiny_env()
    env.reset()
    while not env.step(ACTION)[2]:
        pass
    return answers(env.finetune())


def test_networks_come_out_of_gymnasiums_workers(expected: Tensor, tmp_path: Path) -> None:
    env = AsyncVectorEnv([tiny_env] * 2, context="fork")
    try:
        env.reset()
        while not env.step(np.stack([ACTION] * 2))[2].all():
            pass
        networks = env.call("finetune")
        tuned = env.call("finetuned")
        env.reset()  # the workers are still there, and so are their evaluations
        assert all(best is not None for best in env.get_attr("best"))
    finally:
        env.close()
    for network in (*networks, *(each.model for each in tuned)):
        assert torch.equal(answers(network), expected)
        pickle.dumps(network)
    spear_gym.save_network(tmp_path, networks[0])
    whole = toys.tiny().graph.model
    assert torch.equal(answers(spear_gym.load_network(tmp_path, model=whole)), expected)


def test_networks_come_out_of_sb3s_workers(expected: Tensor) -> None:
    env = SubprocVecEnv([tiny_env], start_method="fork")
    try:
        env.reset()
        while not env.step(ACTION[None])[2].all():
            pass
        (network,) = env.env_method("finetune")
        assert env.get_attr("best") != [None]
    finally:
        env.close()
    assert torch.equal(answers(network), expected)


# ------------------------------------------------------------------ its own forward


class Squeezing(nn.Module):
    """Pools to one value per channel and drops all axes of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.lif1 = snn.Leaky(beta=0.8, threshold=0.3, init_hidden=True)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.lif2 = snn.Leaky(beta=0.8, threshold=0.3, init_hidden=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif2(self.conv2(self.lif1(self.conv1(x))))
        current: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).squeeze())
        return current


@pytest.fixture(scope="module")
def squeezing() -> Workload:
    torch.manual_seed(0)
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    return Workload(model=Squeezing(), train=(x, y), search=(x, y), test=(x, y), num_steps=3)


def test_a_forward_that_fails_at_one_channel_is_refused_at_once(squeezing: Workload) -> None:
    settings: dict[str, Any] = {"target": 0.5, "lre": "none"}
    with pytest.raises(PlanError) as refused:
        make_env(squeezing, **settings)
    message = str(refused.value)
    for part in ("layer 'conv2' cut to 1 of its channels", "min_channels", "x.flatten(1)"):
        assert part in message
    env = make_env(squeezing, **settings, min_channels=2)
    env.reset()
    for _ in range(2):
        env.step(np.array([0.9], np.float32))
    assert env.finetune().conv2.out_channels == 2


def test_it_is_run_before_it_is_fine_tuned(
    squeezing: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = PlanEvaluator(squeezing)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr("spear_gym.evaluation.train", never)
    with pytest.raises(PlanError, match=r"forward fails with \(4, 1\) channels kept, given 2"):
        evaluator.finetune((4, 1))
    with pytest.raises(AssertionError, match="it was trained"):
        evaluator.finetune((1, 2))


def test_what_the_whole_network_cannot_do_is_not_asked_of_pruned_ones() -> None:
    class TakesTwo(Squeezing):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 1:
                raise ValueError("give me more")
            x = self.lif2(self.conv2(self.lif1(self.conv1(x))))
            current: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
            return current

    torch.manual_seed(0)
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    workload = Workload(model=TakesTwo(), train=(x, y), search=(x, y), test=(x, y), num_steps=3)
    evaluator = PlanEvaluator(workload)
    evaluator.check_narrowest()
    assert evaluator.space.fewest_counts() == (1, 1)


class ResetsItself(nn.Module):
    """A loop whose forward resets by snnTorch's list of constructed neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.lif = snn.Leaky(beta=0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self)
        return torch.stack([self.lif(self.fc(x)) for _ in range(3)])


def test_a_copy_is_reset_once_it_is_handed_over() -> None:
    copied = hand_over(copy.deepcopy(ResetsItself()))
    images = 3 * torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copied(images), copied(images))
