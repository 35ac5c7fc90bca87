"""What RL clients reach on `digits` in 2,000 steps: the column of that name in docs/clients.md.

    python tests/benchmarks/clients.py random sb3-sac sb3-ppo tqc single-file-ppo

Name what is installed. One run of each, from one seed, with settings that nobody tuned. It shows
that a client learns here, and ranks none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RescaleAction
from gymnasium.wrappers import vector as vector_wrappers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

from benchmarks.common import Row, show

import spear_gym  # noqa: F401 - registers
from spear_gym.env import SpearPruneEnv

STEPS = 2_000
FEW = 50
"""Episodes in the means."""

Make = Callable[[], gym.Env[Any, Any]]


class Noted(gym.Wrapper[Any, Any, Any, Any]):
    """Notes the return of every episode, which is its last reward."""

    def __init__(self, env: gym.Env[Any, Any], returns: list[float]) -> None:
        super().__init__(env)
        self.returns = returns

    def step(self, action: Any) -> Any:
        taken = super().step(action)
        if taken[2]:
            self.returns.append(float(taken[1]))
        return taken


def maker(returns: list[float]) -> Make:
    """Makes environments on one evaluator; actions in [-1, 1], returns into one list."""
    first = gym.make("SpearPrune-Digits-v0", target=0.3).unwrapped
    assert isinstance(first, SpearPruneEnv)

    def make() -> gym.Env[Any, Any]:
        env = gym.make("SpearPrune-Digits-v0", target=0.3, evaluator=first.evaluator)
        return Noted(RescaleAction(env, np.float32(-1), np.float32(1)), returns)

    return make


def random(make: Make) -> None:
    env = make()
    env.action_space.seed(0)
    for step in range(STEPS):
        if step % 4 == 0:
            env.reset()
        env.step(env.action_space.sample())


def sb3(name: str, **settings: Any) -> Callable[[Make], None]:
    def run(make: Make) -> None:
        import sb3_contrib
        import stable_baselines3

        library = stable_baselines3 if hasattr(stable_baselines3, name) else sb3_contrib
        algorithm = getattr(library, name)
        algorithm("MlpPolicy", make(), seed=0, device="cpu", **settings).learn(STEPS)

    return run


def sbx_sac(make: Make) -> None:
    import sbx

    sbx.SAC("MlpPolicy", make(), learning_starts=100, seed=0).learn(STEPS)


def single_file_ppo(make: Make) -> None:
    import test_single_file_ppo as ppo

    ppo.ITERATIONS = STEPS // (ppo.ENVS * ppo.STEPS)
    vector = SyncVectorEnv([make] * ppo.ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    ppo.train(vector_wrappers.RecordEpisodeStatistics(vector_wrappers.ClipAction(vector)))


def tianshou_ddpg(make: Make) -> None:
    import test_tianshou
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.exploration import GaussianNoise
    from tianshou.utils.torch_utils import policy_within_training_step

    algorithm, buffer = test_tianshou.ddpg(make()), VectorReplayBuffer(STEPS, 2)
    algorithm.policy.exploration_noise = GaussianNoise(sigma=0.3)
    collector = Collector(algorithm, DummyVectorEnv([make] * 2), buffer, exploration_noise=True)
    collector.reset()
    for steps in range(0, STEPS, 8):
        with policy_within_training_step(algorithm.policy):
            collector.collect(n_step=8, random=steps < 100)
            for _ in range(8 if steps >= 100 else 0):
                algorithm.update(sample_size=64, buffer=buffer)


def skrl_ppo(make: Make) -> None:
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.trainers.torch import SequentialTrainer

    env = wrap_env(SyncVectorEnv([make] * 4))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}

    def body() -> torch.nn.Module:
        layers = torch.nn.Linear(15, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
        return torch.nn.Sequential(*layers)

    class Policy(GaussianMixin, Model):  # type: ignore[misc]
        def __init__(self) -> None:
            Model.__init__(self, state_space=None, device=env.device, **spaces)
            GaussianMixin.__init__(self, clip_actions=True)
            self.body, self.log_std = body(), torch.nn.Parameter(torch.full((1,), -0.5))

        def compute(self, inputs: Any, role: str = "") -> Any:
            return self.body(inputs["observations"]), {"log_std": self.log_std}

    class Value(DeterministicMixin, Model):  # type: ignore[misc]
        def __init__(self) -> None:
            Model.__init__(self, state_space=None, device=env.device, **spaces)
            DeterministicMixin.__init__(self)
            self.body = body()

        def compute(self, inputs: Any, role: str = "") -> Any:
            return self.body(inputs["observations"]), {}

    settings = PPO_CFG(rollouts=16, learning_epochs=8, mini_batches=2, learning_rate=1e-3)
    settings.experiment.write_interval = settings.experiment.checkpoint_interval = 0
    memory = RandomMemory(memory_size=16, num_envs=4, device=env.device)
    models = {"policy": Policy(), "value": Value()}
    agent = PPO(models=models, memory=memory, cfg=settings, device=env.device, **spaces)
    # Gymnasium's vectors spend every fifth step on a reset.
    trainer = {"timesteps": STEPS // 4 * 5 // 4, "headless": True}
    SequentialTrainer(cfg=trainer, env=env, agents=agent).train()


def d3rlpy_sac(make: Make) -> None:
    import d3rlpy

    d3rlpy.seed(0)
    env = make()
    buffer = d3rlpy.dataset.create_fifo_replay_buffer(limit=STEPS, env=env)
    d3rlpy.algos.SACConfig(batch_size=64).create(device="cpu:0").fit_online(
        env,
        buffer,
        n_steps=STEPS,
        n_steps_per_epoch=STEPS,
        update_start_step=100,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )


def agilerl_ddpg(make: Make) -> None:
    from agilerl.algorithms.ddpg import DDPG
    from agilerl.components.replay_buffer import ReplayBuffer
    from tensordict import TensorDict

    env = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = DDPG(env.single_observation_space, env.single_action_space, batch_size=64, learn_step=1)
    buffer = ReplayBuffer(max_size=STEPS)
    before, _ = env.reset()
    for step in range(STEPS // 2):
        action = np.asarray(agent.get_action(before), dtype=np.float32)
        after, reward, ended, cut, infos = env.step(action)
        reached = after.copy()
        for index in np.flatnonzero(ended | cut):
            reached[index] = infos["final_obs"][index]
        rows = {
            "obs": before,
            "action": action,
            "reward": reward[:, None].astype(np.float32),
            "next_obs": reached,
            "done": ended[:, None].astype(np.float32),
        }
        buffer.add(TensorDict({k: torch.as_tensor(v) for k, v in rows.items()}, batch_size=[2]))
        before = after
        for _ in range(2 if step > 50 else 0):
            agent.learn(buffer.sample(64))


CLIENTS: dict[str, Callable[[Make], None]] = {
    "random": random,
    "sb3-sac": sb3("SAC", learning_starts=100),
    "sb3-ppo": sb3("PPO", n_steps=64, batch_size=64),
    "tqc": sb3("TQC", learning_starts=100),
    "sbx-sac": sbx_sac,
    "single-file-ppo": single_file_ppo,
    "tianshou-ddpg": tianshou_ddpg,
    "skrl-ppo": skrl_ppo,
    "d3rlpy-sac": d3rlpy_sac,
    "agilerl-ddpg": agilerl_ddpg,
}


def main() -> None:
    """Runs the clients that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clients", nargs="+", choices=CLIENTS)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in parser.parse_args().clients:
        returns: list[float] = []
        make = maker(returns)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - some clients draw from the global generator
        CLIENTS[name](make)
        rows.append(
            {
                "client": name,
                "episodes": float(len(returns)),
                f"first {FEW}": float(np.mean(returns[:FEW])),
                f"last {FEW}": float(np.mean(returns[-FEW:])),
                "all": float(np.mean(returns)),
                "best": max(returns),
            }
        )
    show(f"{STEPS} steps of SpearPrune-Digits-v0", rows)


if __name__ == "__main__":
    main()
