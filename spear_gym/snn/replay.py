"""A trace replayed with the network's own layers, step by step, and compared with its forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Axis, Kind, Node, SpikingGraph, owned_tensors
from spear_gym.snn.meanings import Series
from spear_gym.snn.neurons.own import clear, copied, steps_itself

FLIP_TOLERANCE = 0.01
"""Share of outputs that may differ; reordered float32 sums flip a spike now and then."""
CHECKED_STEPS = 3
"""Time steps for which a module that computes one step of a static input is checked."""


def replay(graph: SpikingGraph, inputs: Tensor, node: int, port: str) -> Tensor:
    """The value of one node at every time step.

    Args:
        graph: the trace.
        inputs: ``(batch, ...)``, or ``(time, batch, ...)`` when the graph's input varies.
        node: index of the node.
        port: ``"value"``, ``"spikes"`` or ``"membrane"``.

    Returns:
        ``(time, batch, ...)``.
    """
    steps = graph.traced_steps
    if graph.idiom == "step":
        steps = len(inputs) if graph.varying else CHECKED_STEPS
    neurons = {node.index: steps_itself(copied(graph.module(node), {})) for node in graph.neurons}
    membranes: dict[int, Tensor] = {}
    recorded = []
    with torch.no_grad():
        for step in range(steps):
            values: dict[int, Tensor] = {0: inputs[step] if graph.varying else inputs}
            for current in graph.nodes[1:]:
                sources = [values[i] for i in current.inputs]
                if current.kind is Kind.NEURON:
                    step_on = neurons[current.index]
                    values[current.index], membranes[current.index] = step_on(sources[0])
                elif current.of_steps:
                    norm = graph.modules_of_steps(current)[step]
                    values[current.index] = type(norm).forward(norm, sources[0])
                else:
                    values[current.index] = _apply(graph, current, sources)
            recorded.append(membranes[node] if port == "membrane" else values[node])
    return torch.stack(recorded)


def _apply(graph: SpikingGraph, node: Node, sources: list[Tensor]) -> Tensor:
    if node.kind is Kind.ADD:
        return sources[0] + sources[1]
    if node.kind is Kind.CONCAT:
        return torch.cat(sources, 1)
    if node.kind is Kind.FLATTEN:
        return sources[0].flatten(1)
    if node.kind is Kind.DROPOUT:
        return sources[0]
    if node.operation is not None:
        return node.operation(sources, owned_tensors(graph, node))
    if node.function is not None:
        return node.function(sources[0])
    module = graph.module(node)
    if node.kind is Kind.LINEAR and sources[0].dim() > 2:  # of every token
        return type(module).forward(module, sources[0].movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]
    # The class's forward, so that a hook which alters the output shows up as a difference.
    return type(module).forward(module, sources[0])  # type: ignore[no-any-return]


def compare_with_forward(graph: SpikingGraph, inputs: Tensor, series: Series) -> None:
    """Checks a trace against the module's own forward on another batch.

    Args:
        graph: the trace.
        inputs: ``(batch, ...)``, or ``(time, batch, ...)`` when the graph's input varies.
        series: how the module's first output shows its readout over time.

    Raises:
        TraceError: when more than 1 % of the outputs differ.
    """
    expected = replay(graph, inputs, series.draft, series.port)
    if graph.idiom == "loop":
        expected = _laid_out(expected, series.axis) * series.scale
        owned = dict(graph.model.named_parameters()) | dict(graph.model.named_buffers())
        for expression in series.after:
            expected = expression.value([expected], owned)
    try:
        actual = _own_output(graph, inputs)
    except (RuntimeError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise TraceError(
            f"the network's forward fails on a second batch, of shape {tuple(inputs.shape)}: "
            f"{error}; forward must treat every batch size alike"
        ) from error
    if actual.shape != expected.shape:
        raise TraceError(
            f"the network returns shape {tuple(actual.shape)} on a second batch, the trace "
            f"{tuple(expected.shape)}; forward must treat every batch size alike"
        )
    scale = float(actual.abs().max().clamp_min(1e-6))
    differing = float(((actual - expected).abs() > 1e-3 * scale).double().mean())
    if differing > FLIP_TOLERANCE:
        raise TraceError(
            f"the trace and the network's own forward differ in {differing:.0%} of the outputs on "
            "a second batch; forward depends on values, on randomness, on hooks or on state that "
            "is not a membrane potential"
        )


def _laid_out(recorded: Tensor, axis: Axis) -> Tensor:
    """``(time, batch, ...)`` with time where the network has it."""
    if axis is None:
        return recorded.sum(0)
    if isinstance(axis, int):
        return recorded.movedim(0, axis)
    return (recorded if axis == "time-batch" else recorded.transpose(0, 1)).flatten(0, 1)


@torch.no_grad()
def _own_output(graph: SpikingGraph, inputs: Tensor) -> Tensor:
    _reset(graph)
    if graph.idiom == "loop":
        return _first(graph.call(inputs))
    frames = inputs if graph.varying else inputs.expand(CHECKED_STEPS, *inputs.shape)
    return torch.stack([_first(graph.call(frame)) for frame in frames])


def _reset(graph: SpikingGraph) -> None:
    for node in graph.neurons:
        clear(graph.module(node))


def _first(output: Any) -> Tensor:
    if isinstance(output, list) and len(output) and isinstance(output[0], Tensor):
        return torch.stack(output)
    while isinstance(output, list | tuple | dict):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    assert isinstance(output, Tensor)
    return output
