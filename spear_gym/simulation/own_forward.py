"""The simulation held against the network's own forward, before any figure is believed.

Tracing replays a network with its own layers for a few steps; here the simulator itself runs over
all time steps, on samples that are made larger until every neuron layer fires, and every spike,
the readout and the gradient of every parameter are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spear_gym import device
from spear_gym.simulation.differentiable import outputs_over_time
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.errors import TraceError
from spear_gym.snn.functions import DROPOUTS
from spear_gym.snn.graph import CONNECTIONS, Axis, Kind, Node, SpikingGraph
from spear_gym.snn.neurons.base import MEMBRANE
from spear_gym.snn.trace import preserved_states, private_copy, reset_neurons
from spear_gym.snn.watching import wrapped

GAINS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""By which the samples are multiplied, one after the other, until every layer fires."""

FEW, SHARE = 4, 0.01
"""Spikes, and the share of them, that may differ: reordered float32 sums move one now and then."""

GRADIENT_ERROR = 0.01
"""Norm of a gradient's error that is allowed, relative to the gradient's own."""

SAME = 1e-4
"""The same where both ran the same operations."""

NOISE = 1e-5
"""Norm, relative to the largest gradient's, below which a difference is rounding: that of a bias
before a normalisation that takes it out again is nothing else."""

TRAINED = 2
"""Samples whose gradients are compared; all time steps of them are kept in memory."""


def check_simulation(graph: SpikingGraph, inputs: Tensor, num_steps: int) -> None:
    """Checks that a traced network is simulated and trained as its own forward has it.

    Args:
        graph: the unpruned network.
        inputs: a few samples, ``(samples, channel, ...)``, or ``(samples, time, channel, ...)``
            when the graph's input varies.
        num_steps: time steps T.

    Raises:
        TraceError: when spikes, readout or gradients differ.
    """
    graph, gain = _read_at_a_layer(graph), GAINS[0]
    with device.exact_products(inputs.device):
        for gain in GAINS:
            own = _Own(graph, inputs * gain, num_steps, gradients=False)
            simulated = _simulated(graph, inputs * gain, num_steps)
            _check_spikes(graph, own.spikes, simulated, num_steps)
            if all(bool(fired.any()) for fired in simulated.values()):
                break
        with torch.enable_grad():
            _check_training(graph, inputs[:TRAINED] * gain, num_steps)


def _simulated(graph: SpikingGraph, inputs: Tensor, num_steps: int) -> dict[str, Tensor]:
    """Spikes of every neuron layer, ``(time, samples, ...)``."""
    spikes: dict[str, Tensor] = {}

    def watch(node: Node, value: Tensor) -> None:
        if node.kind is Kind.NEURON:
            spikes[node.name] = value.to(inputs.dtype)

    Simulator(graph, inputs, num_steps, watch=watch).run()
    return spikes


class _Own:
    """The network's own forward over all time steps.

    Attributes:
        spikes: of every neuron layer, ``(time, samples, ...)``.
        outputs: what is read out, ``(time, samples, outputs)``.
    """

    def __init__(
        self, graph: SpikingGraph, inputs: Tensor, num_steps: int, *, gradients: bool
    ) -> None:
        self._fired: dict[str, list[Tensor]] = {node.name: [] for node in graph.neurons}
        self._output: list[Tensor] = []
        reset_neurons(graph.model)
        with self._watched(graph), preserved_states(), torch.set_grad_enabled(gradients):
            if graph.idiom == "loop":
                graph.call(inputs.transpose(0, 1) if graph.varying else inputs)
            else:
                for step in range(num_steps):
                    graph.call(inputs[:, step] if graph.varying else inputs)
        reset_neurons(graph.model)
        self.spikes = {name: torch.stack(each).detach() for name, each in self._fired.items()}
        for node in graph.neurons:
            if node.moved:  # channels first, as in the simulation
                self.spikes[node.name] = self.spikes[node.name].movedim(-1, 2)
        node = graph.nodes[graph.output]
        self.outputs = torch.stack(self._output)
        if node.at_once is not None:
            self.outputs = _time_first(self._output[0], node.at_once, num_steps)
        if node.moved:
            self.outputs = self.outputs.movedim(-1, 2)

    @contextmanager
    def _watched(self, graph: SpikingGraph) -> Iterator[None]:
        with ExitStack() as stack:
            for node in graph.nodes:
                if node.kind is Kind.NEURON or node.index == graph.output:
                    module = graph.module(node)
                    stack.enter_context(wrapped(module, partial(self._call, graph, node, module)))
            yield

    def _call(
        self, graph: SpikingGraph, node: Node, module: nn.Module, forward: Any, *a: Any, **k: Any
    ) -> Any:
        output = forward(*a, **k)
        value = output[0] if isinstance(output, tuple) else output
        value = value.clone()  # the network may write over it (`spikes += x`)
        if node.kind is Kind.NEURON:
            self._fired[node.name].append(value)
        if node.index == graph.output:
            membrane = graph.reads_membrane(node)
            self._output.append(getattr(module, MEMBRANE) if membrane else value)
        return output


def _time_first(value: Tensor, axis: Axis, num_steps: int) -> Tensor:
    """A tensor over all time steps as ``(time, samples, ...)``."""
    if isinstance(axis, int):
        return value.movedim(axis, 0)
    samples = len(value) // num_steps
    if axis == "time-batch":
        return value.view(num_steps, samples, *value.shape[1:])
    return value.view(samples, num_steps, *value.shape[1:]).transpose(0, 1)


def _check_spikes(
    graph: SpikingGraph, own: dict[str, Tensor], simulated: dict[str, Tensor], num_steps: int
) -> None:
    for node in graph.neurons:
        theirs, ours = own[node.name], simulated[node.name]
        if theirs.shape != ours.shape:
            raise TraceError(
                f"neuron layer '{node.name}' is called {len(theirs)} times by the network's "
                f"forward, for {num_steps} time steps; every layer must be called once a step"
            )
        differing = int((theirs != ours).sum())
        fired = max(int((theirs != 0).sum()), int((ours != 0).sum()))
        if differing > FEW and differing > SHARE * fired:
            raise TraceError(
                f"neuron layer '{node.name}' fires otherwise in the simulation than in the "
                f"network's own forward: {differing} of its {fired} spikes over {num_steps} time "
                "steps differ; forward depends on values, on randomness, on the number of the "
                "step, or on state that is not a neuron's"
            )


def _check_training(graph: SpikingGraph, inputs: Tensor, num_steps: int) -> None:
    """Where all spikes are equal, what is read out and its gradients are, but for rounding."""
    named = _trainable(graph)
    own, expected = _trained(graph, inputs, num_steps)
    _check_training_mode(graph, inputs, num_steps, own, expected)
    simulated = _simulated(graph, inputs, num_steps)
    if any(not torch.equal(own.spikes[name], fired) for name, fired in simulated.items()):
        return
    ours = outputs_over_time(graph, inputs, num_steps, training=False)
    scale = float(own.outputs.detach().abs().max().clamp_min(1e-6))
    theirs = own.outputs.expand_as(ours)  # an output that is the same at every step is made once
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
        raise TraceError(
            "the readout of the simulation and of the network's own forward differ although their "
            "spikes do not; hooks that change a layer's output are not supported"
        )
    found = _gradients(ours, named)
    different = _differing(named, expected, found)
    if different is None:
        return
    if _differing(named, expected, _trained(graph, inputs, num_steps)[1]) is not None:
        return  # a surrogate gradient that is drawn at random
    raise TraceError(
        f"fine-tuning would not train '{different}' as the network's own forward does: the spikes "
        "are the same, but not its gradient; forward cuts tensors off from autograd (.detach(), "
        "torch.no_grad()), which is not supported: remove it, or freeze what is not to be trained "
        "with requires_grad_(False)"
    )


def _read_at_a_layer(graph: SpikingGraph) -> SpikingGraph:
    """The graph read out at the last module that leads to its output."""
    node = graph.nodes[graph.output]
    while node.kind not in CONNECTIONS | {Kind.NORM, Kind.NEURON}:
        node = graph.nodes[max(node.inputs)]
    if node.index == graph.output:
        return graph
    return replace(graph, output=node.index, readout="current")


def _trainable(graph: SpikingGraph) -> dict[str, nn.Parameter]:
    return {name: p for name, p in graph.model.named_parameters() if p.requires_grad}


def _trained(graph: SpikingGraph, inputs: Tensor, num_steps: int) -> tuple[_Own, list[Tensor]]:
    """The network's own forward, and the gradient of every parameter."""
    try:
        own = _Own(graph, inputs, num_steps, gradients=True)
        return own, _gradients(own.outputs, _trainable(graph))
    except RuntimeError as error:
        raise TraceError(
            f"the network's own forward cannot be differentiated, so it cannot be trained: {error}"
        ) from error


def _check_training_mode(
    graph: SpikingGraph,
    inputs: Tensor,
    num_steps: int,
    own: _Own,
    gradients: list[Tensor],
) -> None:
    """In training only BatchNorm and dropout may do something else than in evaluation.

    They are left in evaluation here, all other modules are put into training.
    """
    copied = graph.rebind(private_copy(graph.model).train())
    for node in graph.nodes:
        if node.module is not None and node.kind in (Kind.NORM, Kind.DROPOUT):
            for module in copied.modules_of_steps(node):
                module.eval()
    with _NoDropout():
        trained, found = _trained(copied, inputs, num_steps)
    same = all(torch.equal(own.spikes[name], fired) for name, fired in trained.spikes.items())
    if same and torch.allclose(own.outputs, trained.outputs, rtol=1e-5, equal_nan=True):
        named = _trainable(graph)
        if _differing(named, gradients, found, SAME) is None:
            return
        again = _trained(graph, inputs, num_steps)[1]
        if _differing(named, gradients, again, SAME) is not None:
            return  # a surrogate gradient that is drawn at random
    raise TraceError(
        "forward computes something else in training than in evaluation, besides BatchNorm1d/2d "
        "and dropout (module.training, BatchNorm3d, a subclass of BatchNorm with a forward of its "
        "own, InstanceNorm with running statistics, AlphaDropout, RReLU); fine-tuning would leave "
        "that out: take it out of the network, or use nn.BatchNorm1d/2d and nn.Dropout"
    )


class _NoDropout(TorchFunctionMode):
    """Functional dropout that drops nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


def _differing(
    named: dict[str, nn.Parameter],
    theirs: list[Tensor],
    found: list[Tensor],
    error: float = GRADIENT_ERROR,
) -> str | None:
    """The first parameter whose two gradients differ by more than rounding."""
    largest = max((float(each.norm()) for each in (*theirs, *found)), default=0.0)
    for name, one, other in zip(named, theirs, found, strict=True):
        allowed = max(error * float(one.norm()), error * float(other.norm()), NOISE * largest)
        if float((one - other).norm()) > allowed:
            return name
    return None


def _gradients(outputs: Tensor, named: dict[str, nn.Parameter]) -> list[Tensor]:
    """Gradients of something that depends on every output in its own way; NaN counts as 0."""
    if not (outputs.requires_grad and named):
        return [torch.zeros_like(p) for p in named.values()]
    weights = torch.linspace(-1, 2, outputs.numel(), device=outputs.device)
    total = (weights.view(outputs.shape) * outputs).sum()
    parameters = list(named.values())
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return [each.nan_to_num() for each in found]
