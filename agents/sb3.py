"""Reinforcement learning agents by name: Stable-Baselines3's and sb3-contrib's algorithms.

``ddpg-default`` is an algorithm with its library's default settings, ``ddpg`` the same with the
settings of ``hyperparameters/ddpg.yml``; how those were found stands beside them in
``hyperparameters/ddpg.tuning.json``.
"""

from __future__ import annotations

import inspect
import random
import warnings
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

from spear_gym.boundary.text import shown
from spear_gym.env.observation import HIGH

from .algorithms import ALGORITHMS, hyperparameters
from .base import AgentError, BudgetSpent, SearchSession, check_settings
from .ranges import check_values
from .sb3_ranges import NOISES, POLICY, ranges_of

_NOISES = dict(zip(NOISES, (NormalActionNoise, OrnsteinUhlenbeckActionNoise), strict=True))

OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")
"""Arguments of an algorithm that a search sets itself, ``policy`` excepted."""

ZOO_ONLY = ("n_timesteps", "n_envs", "env_wrapper")
"""Entries of rl-baselines3-zoo's files that a search decides by itself."""

NOISE = ("noise_type", "noise_std")
"""Entries of such files that become the argument ``action_noise``."""


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
        AgentError: for an unknown setting, with near matches, for one that is out of range, for
            what the library refuses, and for an algorithm that cannot act in a Box.
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
        self._check()
        self._policy = self.settings.pop("policy", policy)
        self._rehearse()

    def search(self, session: SearchSession, seed: int) -> None:
        """Trains on episodes until the budget is spent."""
        with untouched_generators():
            model = self._model(rescaled(session), seed)
            learn(model, session, StopWhenDone(session))

    def _check(self) -> None:
        """Refuses unknown settings and values out of range."""
        name, settings = self.name, self.settings
        parameters = inspect.signature(self._algorithm).parameters
        defaults = {p: each.default for p, each in parameters.items() if p not in OURS}
        for entry in ZOO_ONLY:
            if entry in settings:
                raise AgentError(
                    f"setting '{entry}' of agent '{name}' has no meaning here: the budget, the "
                    "environment and its wrapper are the search's"
                )
        noise = NOISE if "action_noise" in defaults else ()
        check_settings(name, settings, ("policy", *defaults, *noise))
        self.settings = check_values(name, settings, ranges_of(defaults))
        check_values(name, settings.get("policy_kwargs") or {}, POLICY)
        if ("noise_type" in settings) != ("noise_std" in settings):
            raise AgentError(f"agent '{name}' needs noise_type and noise_std together, or neither")
        together = defaults | settings
        for size in ("n_steps", "batch_size"):
            if together.get("normalize_advantage") is True and together.get(size) == 1:
                raise AgentError(
                    f"setting '{size}' of agent '{name}' is 1; it must be at least 2 where "
                    "advantages are normalised, for one has no spread"
                )

    def _rehearse(self) -> None:
        """Makes the model on an environment of the same spaces, so that the library refuses now."""
        with untouched_generators(), warnings.catch_warnings(action="ignore"):
            try:
                model = self._model(_StandIn(), seed=0)
                model.predict(np.zeros_like(HIGH))
            # Whatever it is: nothing but the settings can be the reason.
            except Exception as error:
                raise AgentError(self._refusal(error)) from error
        normalised = any("Batch" in type(module).__name__ for module in model.policy.modules())
        if normalised and self.settings.get("batch_size") == 1:
            raise AgentError(
                f"setting 'batch_size' of agent '{self.name}' is 1; it must be at least 2, for its "
                "networks normalise batches"
            )
        dropped = getattr(model, "top_quantiles_to_drop_per_net", 0)
        quantiles = getattr(getattr(model, "critic", None), "n_quantiles", dropped + 1)
        if dropped >= quantiles:
            raise AgentError(
                f"setting 'top_quantiles_to_drop_per_net' of agent '{self.name}' is {dropped}; it "
                f"must be below the {quantiles} quantiles of a network"
            )

    def _model(self, env: gym.Env[Any, Any], seed: int) -> BaseAlgorithm:
        # Copied, because algorithms write into their policy_kwargs.
        arguments = deepcopy({k: v for k, v in self.settings.items() if k not in NOISE})
        if isinstance(arguments.get("train_freq"), list):
            arguments["train_freq"] = tuple(arguments["train_freq"])
        if "noise_type" in self.settings:
            noise = _NOISES[self.settings["noise_type"]]
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
        reason = text or type(error).__name__
        return f"agent '{self.name}' refuses its settings {shown(self.settings)}: {reason}"


class _StandIn(gym.Env[np.ndarray, np.ndarray]):
    """Has the spaces of :func:`rescaled`, and nothing behind them."""

    observation_space = gym.spaces.Box(np.zeros_like(HIGH), HIGH, dtype=np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


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
    # The caller's first, for they are what a message about them begins with.
    ours = (*ZOO_ONLY, *settings)
    all_settings = settings | {k: v for k, v in stored.items() if k not in ours}
    return SB3Agent(
        name if tuned else f"{name}-default",
        algorithm.load(),
        algorithm.policy,
        all_settings,
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
