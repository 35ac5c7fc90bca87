"""The environment: what an agent sees, does and is told."""

from .arguments import OptionError
from .prune import (
    ARGUMENTS,
    Action,
    ActionError,
    Observation,
    SpearPruneEnv,
    make_env,
    unexpected,
)

__all__ = [
    "ARGUMENTS",
    "Action",
    "ActionError",
    "Observation",
    "OptionError",
    "SpearPruneEnv",
    "make_env",
    "unexpected",
]
