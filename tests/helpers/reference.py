"""Networks run by plain snnTorch, one time step after the other: what everything must equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spear_gym.pruning.criteria import rank_channels
from spear_gym.pruning.plan import Plan, PlanSpace
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import Axis, Kind, Node, SpikingGraph


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
                spikes[name].append(first(output).clone())  # `spikes += x` writes over them
            else:
                inputs[name].append(args[0].clone())
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


def own_calls(graph: SpikingGraph, inputs: Tensor, steps: int) -> list[Tensor]:
    """What a network's own forward is given, call after call, from ``(batch, [time,] ...)``."""
    if graph.idiom == "step":
        return frames_of(inputs, steps, graph.varying)
    return [inputs.transpose(0, 1) if graph.varying and not graph.batch_first else inputs]


def run_own(graph: SpikingGraph, model: nn.Module, inputs: Tensor, steps: int) -> PlainRun:
    """Runs a (pruned) network's own forward; every tensor ``(time, batch, channels, ...)``."""
    plain = run_plain(model, own_calls(graph, inputs, steps))
    for node in graph.nodes:
        name = str(node.module)
        if name in plain.inputs:
            value = in_steps(plain.inputs[name], node.at_once, steps)
            plain.inputs[name] = value.movedim(-1, 2) if node.moved else value
        elif name in plain.spikes and node.moved:
            plain.spikes[name] = plain.spikes[name].movedim(-1, 2)
    return plain


def in_steps(called: Tensor, at_once: Axis, steps: int) -> Tensor:
    """What a layer saw in its calls, as ``(time, batch, ...)``.

    Args:
        called: ``(calls, ...)``.
        at_once: where time is in a single call for all time steps.
        steps: time steps T.
    """
    if at_once is None:  # what is the same at every step may be computed once
        return called.expand(steps, *called.shape[1:]) if len(called) == 1 else called
    (value,) = called
    if isinstance(at_once, int):
        return value.movedim(at_once, 0)
    if at_once == "time-batch":
        return value.unflatten(0, (steps, -1))
    return value.unflatten(0, (-1, steps)).transpose(0, 1)


def own_readout(graph: SpikingGraph, model: nn.Module, inputs: Tensor, steps: int) -> Tensor:
    """The readout by the network's own forward, ``(batch, classes)``, differentiable."""
    node = graph.nodes[graph.output]
    seen: list[Tensor] = []

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        seen.append((module.mem if graph.readout == "membrane" else first(output)).clone())

    hook = model.get_submodule(str(node.module)).register_forward_hook(keep)
    reset_own(model)
    try:
        for x in own_calls(graph, inputs, steps):
            model(x.clone())
    finally:
        hook.remove()
        reset_own(model)
    values = in_steps(torch.stack(seen), node.at_once, steps)
    if graph.decision.rule == "last":
        return values[-1]
    return values.sum(0) if graph.readout == "spikes" else values.mean(0)


class Products(TorchFunctionMode):
    """Counts what products of two activations do, spike by spike.

    Attributes:
        count: synaptic operations of all calls, samples and time steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("matmul", "__matmul__", "bmm"):
            left, right = args
            batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            shown = left.expand(*batch, *left.shape[-2:])
            self.count += int((shown != 0).sum()) * right.shape[-1]
        return func(*args, **(kwargs or {}))


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


# ------------------------------------------------------------------ spikes


def assert_same_spikes(
    graph: SpikingGraph,
    plan: Plan | None,
    inputs: Tensor,
    tolerance: float = 0.0,
    steps: int = 5,
) -> dict[str, Tensor]:
    """Compares all spikes of all layers, and returns those of plain snnTorch.

    Args:
        graph: the unpruned network.
        plan: ``None`` for all channels.
        inputs: ``(batch, channel, ...)``.
        tolerance: share of spikes that may differ.
        steps: time steps; a network that loops over them by itself does so.
    """
    simulator = SpikeRecorder(graph, inputs, steps)
    walk = simulator.run(plan)
    keep_all = tuple(tuple(range(group.channels)) for group in graph.groups)
    names = tuple(group.name for group in graph.groups)
    whole = Plan(names, tuple(group.channels for group in graph.groups), keep_all)
    model = prune_network(graph, whole if plan is None else plan)
    if inputs.dtype == torch.float64:
        in_float64(model)
    loop = graph.idiom == "loop"
    plain = run_plain(model, [inputs] if loop else frames_of(inputs, steps, varying=False))
    assert set(plain.spikes) == set(simulator.spikes)
    for name, expected in plain.spikes.items():
        differing = (simulator.spikes[name] != expected).double().mean()
        assert float(differing) <= tolerance, name
        assert walk.neurons[name].updates == expected.numel()
        if tolerance == 0:
            assert walk.neurons[name].spikes == int((expected != 0).sum())
    return plain.spikes


# ------------------------------------------------------------------ the slow count


def _before(module: nn.Module) -> tuple[int, ...]:
    """Zeros added in front of each axis."""
    if module.padding == "same":
        sizes = zip(module.kernel_size, module.dilation, strict=True)
        return tuple(dilation * (kernel - 1) // 2 for kernel, dilation in sizes)
    return tuple(module.padding)


def walk_synapses(module: nn.Module, out: tuple[int, ...], source: tuple[int, ...]) -> int:
    """Visits the weights that carry one input to some output, one by one.

    Args:
        module: a convolution or linear layer.
        out: shape of its output for one sample.
        source: the input's index, (feature,) or (channel, position...).
    """
    if isinstance(module, nn.Linear):
        return sum(1 for _ in range(len(module.weight)))
    outputs, inputs_per_group = module.weight.shape[:2]
    channel, *position = source
    visited = 0
    for target in range(outputs):
        if target // (outputs // module.groups) != channel // inputs_per_group:
            continue
        for tap in product(*map(range, module.weight.shape[2:])):
            reached = True
            for axis, before in enumerate(_before(module)):
                offset = position[axis] + before - tap[axis] * module.dilation[axis]
                place, rest = divmod(offset, module.stride[axis])
                reached = reached and rest == 0 and 0 <= place < out[1 + axis]
            visited += reached
    return visited


def slow_count(module: nn.Module, out: tuple[int, ...], inputs: Tensor, every: bool) -> int:
    """Synapses visited by every spike (or by every input, spike or not), all steps and samples."""
    events = inputs.numpy()
    where = np.ndindex(events.shape) if every else zip(*np.nonzero(events), strict=True)
    known: dict[tuple[int, ...], int] = {}
    total = 0
    for _, _, *source in where:
        key = tuple(map(int, source))
        if key not in known:
            known[key] = walk_synapses(module, out, key)
        total += known[key]
    return total
