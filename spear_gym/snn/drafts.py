"""What recording a forward pass leaves behind: nodes before their channels are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from spear_gym.snn.graph import Kind
from spear_gym.snn.neurons import Neuron
from spear_gym.snn.operations import Operation


@dataclass(frozen=True, slots=True)
class Draft:
    """A node before channels are known."""

    kind: Kind
    name: str
    inputs: tuple[int, ...]
    module: str | None
    function: Callable[[Tensor], Tensor] | None
    shape: tuple[int, ...]
    static: bool
    analog: bool
    neuron: Neuron | None = None
    operation: Operation | None = None
    moved: bool = False
    of_steps: tuple[str, ...] = ()
