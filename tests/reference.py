"""Networks run by plain snnTorch, one time step after the other: what everything must equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn

from spear_gym.pruning.criteria import rank_channels
from spear_gym.pruning.plan import Plan, PlanSpace
from spear_gym.simulation.simulate import Simulator
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import Kind, Node, SpikingGraph


@dataclass
class PlainRun:
    """What a module did under plain snnTorch.

    Attributes:
        inputs: connection layer -> its inputs, ``(time, batch, ...)``.
        shapes: connection layer -> shape of its output for one sample.
        spikes: neuron -> its spikes, ``(time, batch, ...)``.
        outputs: what every call of the module returned first, ``(calls, ...)``.
    """

    inputs: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    spikes: dict[str, Tensor]
    outputs: Tensor


def first(output: Any) -> Tensor:
    """The first tensor of an output."""
    return output[0] if isinstance(output, tuple) else output


def reset_own(model: nn.Module) -> None:
    """Resets this module's neurons; `snntorch.utils.reset` would reset all others instead."""
    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()


def frames_of(inputs: Tensor, num_steps: int, varying: bool) -> list[Tensor]:
    """What a one-step module is given at every time step, from ``(batch, [time,] ...)``."""
    return list(inputs.unbind(1)) if varying else [inputs] * num_steps


@torch.no_grad()
def run_plain(model: nn.Module, calls: Iterable[Tensor]) -> PlainRun:
    """Calls a module from reset neurons, watching its layers through hooks."""
    inputs: dict[str, list[Tensor]] = defaultdict(list)
    spikes: dict[str, list[Tensor]] = defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            if isinstance(module, snn.SpikingNeuron):
                spikes[name].append(first(output))
            else:
                inputs[name].append(args[0])
                shapes[name] = tuple(output.shape[1:])

        return hook

    watched = (snn.SpikingNeuron, nn.Conv1d, nn.Conv2d, nn.Linear)
    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, watched)
    ]
    reset_own(model)
    try:
        outputs = torch.stack([first(model(x)) for x in calls])
    finally:
        for hook in hooks:
            hook.remove()
        reset_own(model)
    stacked = {name: torch.stack(values) for name, values in inputs.items()}
    fired = {name: torch.stack(values) for name, values in spikes.items()}
    return PlainRun(stacked, shapes, fired, outputs)


def in_float64(model: nn.Module) -> nn.Module:
    """The module in float64; snnTorch's surrogates end in `.float()`, so spikes are cast back."""

    def cast(_: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(value.to(args[0].dtype) for value in output)
        return output.to(args[0].dtype)

    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.register_forward_hook(cast)
    return model.double()


class SpikeRecorder(Simulator):
    """A simulator that keeps the spikes of every neuron layer, ``(time, batch, ...)``."""

    spikes: dict[str, Tensor]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, watch=self._keep, **options)

    def run(self, plan: Plan | None = None) -> Walk:
        self.spikes = {}
        return super().run(plan)

    def _keep(self, node: Node, value: Tensor) -> None:
        if node.kind is Kind.NEURON:
            self.spikes[node.name] = value.to(self.prepared.inputs.dtype)


def random_plan(graph: SpikingGraph, seed: int, ratios: tuple[float, float] = (0.0, 0.8)) -> Plan:
    """A plan with a random ranking and random ratios."""
    space = PlanSpace(graph.groups, rank_channels(graph, "random", seed=seed))
    return space.from_ratios(np.random.default_rng(seed).uniform(*ratios, size=len(space)))
