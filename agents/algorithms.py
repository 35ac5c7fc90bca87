"""The algorithms of Stable-Baselines3 and sb3-contrib by name, and their tuned settings.

The files of settings have the form that rl-baselines3-zoo reads, but no text in them is ever
evaluated. Nothing heavy is imported before it is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .base import AgentError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

ENVIRONMENT = "SpearPrune-v0"
"""The entry that is read from a file of hyperparameters."""

WRAPPERS: list[dict[str, dict[str, float]]] = [
    {"gymnasium.wrappers.RescaleAction": {"min_action": -1.0, "max_action": 1.0}}
]
"""How rl-baselines3-zoo wraps the environment as a search does; written into the files."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Where an algorithm comes from.

    Attributes:
        module: that it is imported from.
        cls: name of its class.
        policy: of its networks.
    """

    module: str
    cls: str
    policy: str = "MlpPolicy"

    def load(self) -> Any:
        """The class, a subclass of Stable-Baselines3's ``BaseAlgorithm``.

        Raises:
            AgentError: when its library is not installed.
        """
        try:
            return getattr(import_module(self.module), self.cls)
        except ImportError as error:
            raise AgentError(
                f"{self.cls} needs {self.module.replace('_', '-')}: install it with "
                "`pip install 'spear-gym[contrib]'`"
            ) from error


ALGORITHMS: dict[str, Algorithm] = {
    "ddpg": Algorithm("stable_baselines3", "DDPG"),
    "td3": Algorithm("stable_baselines3", "TD3"),
    "sac": Algorithm("stable_baselines3", "SAC"),
    "ppo": Algorithm("stable_baselines3", "PPO"),
    "a2c": Algorithm("stable_baselines3", "A2C"),
    "tqc": Algorithm("sb3_contrib", "TQC"),
    "crossq": Algorithm("sb3_contrib", "CrossQ"),
    "trpo": Algorithm("sb3_contrib", "TRPO"),
    "ars": Algorithm("sb3_contrib", "ARS", "LinearPolicy"),
    "recurrent-ppo": Algorithm("sb3_contrib", "RecurrentPPO", "MlpLstmPolicy"),
}
"""Algorithms by name; each is an agent ``<name>-default``, and ``<name>`` once it is tuned."""


def hyperparameters(name: str) -> dict[str, Any]:
    """The tuned settings of an algorithm.

    Raises:
        AgentError: when they are missing or damaged.
    """
    import yaml

    path = hyperparameters_file(name)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings: dict[str, Any] = dict(found[ENVIRONMENT])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise AgentError(f"cannot read the tuned settings '{path}': {error!r}") from error
    return settings


def hyperparameters_file(name: str) -> Traversable:
    """Where the tuned settings of an algorithm stand; it need not exist."""
    return files(__package__) / "hyperparameters" / f"{name}.yml"


def tuning_record(agent: str) -> dict[str, Any] | None:
    """How an agent's settings were tuned, ``None`` when there is no record of it.

    Raises:
        AgentError: when the record is damaged.
    """
    if agent not in (*ALGORITHMS, "spear-ddpg"):
        return None
    path = files(__package__) / "hyperparameters" / f"{agent}.tuning.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AgentError(f"cannot read the tuning record '{path}': {error}") from error
    return found
