"""Arguments of an environment, looked at before any work: a value of the wrong type is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from spear_gym.boundary.text import shown, unknown
from spear_gym.evaluation import PlanEvaluator
from spear_gym.workload import Workload


class OptionError(ValueError):
    """An option of ``reset`` that there is none of, or arguments that do not fit."""


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not _is_text(value) and all(map(_is_text, value))


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value fits, or every one of a mapping that is not empty."""

    def fit(value: Any) -> bool:
        values = list(value.values()) if isinstance(value, Mapping) else [value]
        return bool(values) and all(map(fits, values))

    return fit


_NUMBER = (_is_number, "a number")
_TEXT = (_is_text, "a name")
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "workload": (lambda v: isinstance(v, str | Workload), "a name, module:function or a Workload"),
    "target": _NUMBER,
    "target_synops": _NUMBER,
    "reward_settings": (lambda v: isinstance(v, Mapping), "a mapping, as {'lam': 10}"),
    "scoring": _TEXT,
    "precision": _TEXT,
    "criterion": _TEXT,
    "confidence": _NUMBER,
    "extrapolate": (lambda v: isinstance(v, bool | np.bool_), "True or False"),
    "channel_multiple": (_each(_is_whole), "a whole number, or one by the name of a layer"),
    "min_channels": (_each(_is_whole), "a whole number, or one by the name of a layer"),
    "max_ratio": (_each(_is_number), "a number, or one by the name of a layer"),
    "exclude": (_are_texts, "a list of names"),
    "hidden_features": (_are_texts, "a list of names"),
    "evaluator": (lambda v: isinstance(v, PlanEvaluator), "a PlanEvaluator"),
    "render_mode": _TEXT,
}


def check_types(arguments: Mapping[str, Any], render_modes: tuple[str, ...]) -> None:
    """Refuses arguments of a type that does not fit; their ranges are checked where they are used.

    Args:
        arguments: by name; None stands for what is not given.
        render_modes: those that there are.

    Raises:
        OptionError: naming the first one, its value and what it must be.
    """
    for name, (fits, what) in _TYPES.items():
        value = arguments.get(name)
        if value is not None and not fits(value):
            raise OptionError(f"{name} is {shown(value)}; it must be {what}")
    mode = arguments.get("render_mode")
    if mode is not None and mode not in render_modes:
        raise OptionError(unknown("render_mode", mode, render_modes))


def check_options(options: Any, arguments: Sequence[str]) -> None:
    """Refuses options of ``reset``: there are none.

    Args:
        options: what was given.
        arguments: names that ``gym.make`` takes.

    Raises:
        OptionError: naming the first one.
    """
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise OptionError(f"options is {shown(options)}; it must be a dictionary, and an empty one")
    for name in options:
        if name in arguments:
            raise OptionError(
                f"reset has no options; {name!r} is set once, by gym.make(..., {name}=...)"
            )
        raise OptionError(f"reset has no options, so {name!r} would change nothing; leave it out")
