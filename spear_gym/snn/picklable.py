"""Neurons that can be pickled: most surrogate gradients are closures, which pickle refuses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType
from typing import Any

import cloudpickle
from snntorch import SpikingNeuron, surrogate
from torch import Tensor, nn

SpikeFunction = Callable[[Tensor], Tensor]


class Surrogate:
    """A spike function that is a closure, so that it can be pickled; it calls that very closure.

    snnTorch's own are pickled as their maker's name and its arguments, so that another version of
    Python reads them; any other by value, as cloudpickle does.

    Args:
        function: the closure.
    """

    def __init__(self, function: FunctionType) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        """What the closure does."""
        spikes: Tensor = self._function(x)
        return spikes

    @property
    def __closure__(self) -> Any:
        """The closure's variables, by which its parameter is found."""
        return self._function.__closure__

    def __deepcopy__(self, memo: dict[int, Any]) -> Surrogate:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        made = _made_by(self._function)
        if made is not None:
            return _of_snntorch, made
        return _by_value, (cloudpickle.dumps(self._function),)


def make_picklable(model: nn.Module) -> nn.Module:
    """Replaces the closures that a network's neurons fire by; what they compute stays the same.

    Args:
        model: the network, which is changed.
    """
    for module in model.modules():
        if isinstance(module, SpikingNeuron) and _is_local(module.spike_grad):
            module.spike_grad = Surrogate(module.spike_grad)
    return model


def _is_local(function: object) -> bool:
    return isinstance(function, FunctionType) and (
        "<locals>" in function.__qualname__ or "<lambda>" in function.__qualname__
    )


def _made_by(function: FunctionType) -> tuple[str, dict[str, Any]] | None:
    """The function of ``snntorch.surrogate`` that made a closure, and what it was given."""
    name, _, inner = function.__qualname__.partition(".<locals>.")
    maker = getattr(surrogate, name, None)
    if function.__module__ != surrogate.__name__ or inner != "inner" or maker is None:
        return None
    given = inspect.getclosurevars(function).nonlocals
    plain = all(isinstance(value, int | float) for value in given.values())
    known = set(inspect.signature(maker).parameters)
    return (name, dict(given)) if plain and set(given) == known else None


def _of_snntorch(name: str, given: dict[str, Any]) -> Surrogate:
    return Surrogate(getattr(surrogate, name)(**given))


def _by_value(content: bytes) -> Surrogate:
    return Surrogate(cloudpickle.loads(content))
