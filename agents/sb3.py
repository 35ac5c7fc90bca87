"""Reinforcement learning agents by name: Stable-Baselines3's and sb3-contrib's algorithms.

``ddpg-default`` is an algorithm with its library's default settings, ``ddpg`` the same with the
settings of ``hyperparameters/ddpg.yml``; how those were found stands beside them in
``hyperparameters/ddpg.tuning.json``.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import RescaleAction
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

from .algorithms import ALGORITHMS, hyperparameters
from .base import AgentError, BudgetSpent, SearchSession, check_settings

OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")
"""Arguments of an algorithm that a search sets itself, ``policy`` excepted."""

ZOO_ONLY = ("n_timesteps", "n_envs", "env_wrapper", "noise_type", "noise_std")
"""Entries of rl-baselines3-zoo that are no arguments of the algorithm; a search wraps by itself."""

NOISES = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}


class SB3Agent:
    """An algorithm of Stable-Baselines3 or sb3-contrib, on the environment of a search.

    Actions are rescaled to [-1, 1]. The algorithm is stopped when the budget is spent; one whose
    first update would come later is run all the same, and the result says so.

    Args:
        name: that the agent goes by.
        algorithm: the class.
        policy: name of its policy.
        settings: its arguments, and rl-baselines3-zoo's ``noise_type`` and ``noise_std``.

    Raises:
        AgentError: for an unknown setting, with near matches, and for an algorithm that cannot
            act in a Box.
    """

    trains = True

    def __init__(
        self,
        name: str,
        algorithm: type[BaseAlgorithm],
        policy: str = "MlpPolicy",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.settings = dict(settings or {})
        self._algorithm = algorithm
        self._policy = str(self.settings.pop("policy", policy))
        accepted = [p for p in inspect.signature(algorithm).parameters if p not in OURS]
        check_settings(name, self.settings, (*accepted, *ZOO_ONLY))
        _check_noise(name, self.settings)

    def search(self, session: SearchSession, seed: int) -> None:
        """Trains on episodes until the budget is spent.

        Raises:
            AgentError: when the library refuses a setting, or the algorithm a Box of actions.
        """
        with untouched_generators():
            env = rescaled(session)
            try:
                model = self._model(env, seed)
            except (AssertionError, TypeError, ValueError) as error:
                raise AgentError(self._refusal(error)) from error
            learn(model, session, StopWhenDone(session))

    def _model(self, env: gym.Env[Any, Any], seed: int) -> BaseAlgorithm:
        # Copied, because algorithms write into their policy_kwargs.
        arguments = deepcopy({k: v for k, v in self.settings.items() if k not in ZOO_ONLY})
        if "noise_type" in self.settings:
            noise = NOISES[self.settings["noise_type"]]
            spread = float(self.settings["noise_std"]) * np.ones(1)
            arguments["action_noise"] = noise(mean=np.zeros(1), sigma=spread)
        algorithm: Any = self._algorithm
        model: BaseAlgorithm = algorithm(
            self._policy, env, seed=seed, device="cpu", verbose=0, **arguments
        )
        return model

    def _refusal(self, error: Exception) -> str:
        text = str(error)
        if "only supports" in text and "Box" in text:
            return (
                f"agent '{self.name}' cannot choose prune ratios: it takes discrete actions only; "
                "write an agent of your own that wraps session.make_env() in "
                "gymnasium.wrappers.DiscretizeAction, and give it as module:attribute"
            )
        return f"agent '{self.name}' refuses its settings {self.settings}: {error}"


class StopWhenDone(BaseCallback):
    """Ends training when the session is done, and tells the session of updates."""

    def __init__(self, session: SearchSession) -> None:
        super().__init__()
        self.session = session

    def _on_step(self) -> bool:
        self.session.updates = int(getattr(self.model, "_n_updates", 0))
        return not self.session.done


def named_agent(name: str, *, tuned: bool, **settings: Any) -> SB3Agent:
    """An algorithm of :data:`~spear_gym.agents.algorithms.ALGORITHMS` as an agent.

    Args:
        name: of the algorithm.
        tuned: begin with the settings of its file instead of the library's.
        settings: change these.
    """
    algorithm = ALGORITHMS[name]
    stored = hyperparameters(name) if tuned else {}
    return SB3Agent(
        name if tuned else f"{name}-default",
        algorithm.load(),
        algorithm.policy,
        stored | settings,
    )


def rescaled(session: SearchSession) -> gym.Env[Any, Any]:
    """The environment of a search with actions in [-1, 1]."""
    return RescaleAction(session.make_env(), np.float32(-1.0), np.float32(1.0))


def learn(model: BaseAlgorithm, session: SearchSession, callback: BaseCallback) -> None:
    """Trains until the callback stops it or the budget is spent."""
    steps = session.max_episodes * len(session.evaluator.space)
    # SB3's own logger makes a folder in the system's temporary one for every search.
    model.set_logger(Logger(folder=None, output_formats=[]))
    try:
        model.learn(steps, callback=callback, log_interval=10**9)
    except BudgetSpent:
        return


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Gives the global random generators back as they were: SB3 seeds and draws from them."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - SB3 draws from the global state
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _check_noise(name: str, settings: Mapping[str, Any]) -> None:
    if ("noise_type" in settings) != ("noise_std" in settings):
        raise AgentError(f"agent '{name}' needs noise_type and noise_std together, or neither")
    kind = settings.get("noise_type", "normal")
    if kind not in NOISES:
        raise AgentError(f"noise_type is '{kind}'; it must be one of {', '.join(NOISES)}")
