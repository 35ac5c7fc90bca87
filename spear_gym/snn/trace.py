"""From a trained snnTorch network to its :class:`SpikingGraph`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import snntorch as snn
from torch import Tensor, nn

from spear_gym.snn.channels import assign_channels, prunable_groups
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import CONNECTIONS, Idiom, Kind, Node, Readout, SpikingGraph
from spear_gym.snn.leaves import check_layers
from spear_gym.snn.meanings import Series, Step
from spear_gym.snn.neurons.own import clear
from spear_gym.snn.record import Recorder
from spear_gym.snn.replay import compare_with_forward

READOUTS: tuple[Readout, ...] = ("current", "spikes", "membrane")


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    varying: bool = False,
    events: bool = False,
    readout: Readout | None = None,
    check: Tensor | None = None,
    batch_first: bool | None = None,
) -> SpikingGraph:
    """Traces a spiking network into a graph of one time step.

    Both of snnTorch's idioms are understood: a module that computes one step with
    ``init_hidden=True``, and the tutorial's loop over time with explicit membrane potentials. The
    module is left as it was; the graph holds a copy. The trace is replayed step by step against
    the module's real forward on a second batch.

    Args:
        model: the trained network.
        example: inputs, ``(batch, channel, ...)``, or ``(time, batch, channel, ...)`` when
            ``varying``; at least two samples, so that a second batch can be taken from it.
        varying: the input is a frame per time step.
        events: the input is declared as events: its non-zero entries count as spikes.
        readout: ``"current"``, ``"spikes"`` or ``"membrane"``; inferred when ``None``.
        check: inputs for the check, shaped like ``example``; defaults to ``example`` reversed and
            one sample shorter.
        batch_first: a module that loops over frames takes them as ``(batch, time, ...)``, not as
            ``(time, batch, ...)``; found out when ``None``.

    Returns:
        The graph, its model in eval mode with all neurons reset.

    Raises:
        TraceError: when the network has something that is not supported; the message names it.
    """
    if readout is not None and readout not in READOUTS:
        raise TraceError(f"readout is '{readout}'; choose one of {', '.join(READOUTS)}")
    batch_axis = 1 if varying else 0
    if example.dim() < batch_axis + 2 or example.shape[batch_axis] < 2:
        raise TraceError(
            f"example inputs have shape {tuple(example.shape)}; at least 2 samples are needed, as "
            + ("(time, batch, channel, ...)" if varying else "(batch, channel, ...)")
        )
    if check is None:
        count = example.shape[batch_axis]
        check = example.flip(batch_axis).narrow(batch_axis, 0, count - 1)
    check_layers(model)
    with preserved_states():
        private = _copied(model)
        graph, series = _record(
            private,
            example,
            varying=varying,
            events=events,
            readout=readout,
            batch_first=batch_first,
        )
        compare_with_forward(graph, check, series)
    reset_neurons(private)
    return graph


def _copied(model: nn.Module) -> nn.Module:
    try:
        return private_copy(model)
    except (RuntimeError, TypeError) as error:
        raise TraceError(
            f"the network cannot be copied: {error}; tensors and other state that a forward pass "
            "leaves in its modules must not stay there"
        ) from error


class _Recorded(NamedTuple):
    """A graph, and how the module's own output shows its readout node over time."""

    graph: SpikingGraph
    series: Series


def _record(
    model: nn.Module,
    example: Tensor,
    *,
    varying: bool,
    events: bool,
    readout: Readout | None,
    batch_first: bool | None,
) -> _Recorded:
    if not varying:
        return _record_as(model, example, varying, events, readout, time=None)
    tried = []
    for time in (0, 1) if batch_first is None else (int(batch_first),):
        frames = example if time == 0 else example.transpose(0, 1)
        try:
            return _record_as(model, frames, varying, events, readout, time=time)
        except (TraceError, RuntimeError, IndexError, ValueError) as error:
            reset_neurons(model)
            order = ("(time, batch, ...)", "(batch, time, ...)")[time]
            tried.append(f"as a loop over time, given {order} ({error})")
    try:
        return _record_as(model, example[0], varying, events, readout, time=None)
    except TraceError as step_error:
        tried.append(f"as a single time step, given (batch, ...) ({step_error})")
        raise TraceError(f"the network traces neither {', nor '.join(tried)}") from step_error


def _record_as(
    model: nn.Module,
    inputs: Tensor,
    varying: bool,
    events: bool,
    readout: Readout | None,
    *,
    time: int | None,
) -> _Recorded:
    reset_neurons(model)
    recorder = Recorder(model, time=time, varying=varying, events=events)
    # A clone, so that an in-place operation of the network cannot reach the caller's data.
    try:
        output = recorder.run(inputs.clone())
    except (RuntimeError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(
            f"the network's forward failed on inputs of shape {tuple(inputs.shape)}: {error}; it "
            "must accept one tensor: (batch, channel, ...) or (time, batch, channel, ...)"
        ) from error
    reset_neurons(model)
    steps = set(recorder.calls.values())
    if not steps:
        raise TraceError("no spiking neuron was called; at least one of snnTorch's is needed")
    if len(steps) > 1:
        calls = {recorder.drafts[i].name: n for i, n in recorder.calls.items()}
        raise TraceError(f"neurons are called a different number of times: {calls}")
    num_steps = steps.pop()
    # A network that hands a neuron its state holds the loop over time, be it one step long.
    hidden = not any(recorder.given.values())
    idiom: Idiom = "step" if num_steps == 1 and hidden and time is None else "loop"
    series = _output_series(recorder, output, num_steps, idiom)
    source = recorder.drafts[series.draft]
    found = _readout(source.kind, series, readout)
    node = source.inputs[0] if source.kind is Kind.NEURON and found == "current" else series.draft
    if len(recorder.drafts[node].shape) != 1:
        raise TraceError(
            f"the output '{source.name}' has shape {source.shape} per sample; class outputs must "
            "be a vector (batch, classes): flatten and end in a linear layer"
        )
    drafts = tuple(recorder.drafts)
    nodes, fixed = assign_channels(drafts, model, series.draft, recorder.at_once)
    _check_sharing(nodes, model)
    _check_uses(recorder, nodes, num_steps)
    graph = SpikingGraph(
        model,
        nodes,
        prunable_groups(nodes, fixed),
        node,
        found,
        varying,
        idiom,
        num_steps,
        batch_first=time == 1,
    )
    return _Recorded(graph, series)


def _check_sharing(nodes: tuple[Node, ...], model: nn.Module) -> None:
    modules: set[str] = set()
    owners: dict[int, str] = {}
    for node in nodes:
        if node.module is None or node.kind not in CONNECTIONS | {Kind.NORM, Kind.NEURON}:
            continue
        if node.module in modules:
            raise TraceError(
                f"module '{node.module}' is used more than once in a time step on different "
                "inputs; layers with weights or state cannot be shared: give each use its own"
            )
        modules.add(node.module)
        for parameter in model.get_submodule(node.module).parameters():
            owner = owners.setdefault(id(parameter), node.module)
            if owner != node.module:
                raise TraceError(
                    f"modules '{owner}' and '{node.module}' share a parameter; layers that are "
                    "pruned each in their own way cannot: give each its own"
                )


def _check_uses(recorder: Recorder, nodes: tuple[Node, ...], num_steps: int) -> None:
    """Every layer with weights is computed once in a time step, or its SynOps would be more."""
    for index, times in recorder.uses.items():
        node = nodes[index]
        once = node.at_once is not None or times == 1
        if times > 1 if node.at_once is not None else not once and times != num_steps:
            raise TraceError(
                f"layer '{node.name}' is called {times} times on the same input within "
                f"{num_steps} time step{'s' if num_steps > 1 else ''}; call it once in a step and "
                "use the result again"
            )


def _output_series(recorder: Recorder, output: Any, num_steps: int, idiom: Idiom) -> Series:
    """The first returned tensor, as a series over all time steps."""
    first = output
    while isinstance(first, list | tuple | dict) and len(first):
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    if not isinstance(first, Tensor):
        raise TraceError(f"forward returns {type(output).__name__}; return the output tensor first")
    meaning = recorder.term(first)
    if isinstance(output, list) and len(output) == num_steps > 1:
        meaning = recorder.listed(output)
    if isinstance(meaning, Step) and idiom == "step":
        return Series(meaning.draft, meaning.port, 1, 0)
    if isinstance(meaning, Step) and num_steps == 1:
        return Series(meaning.draft, meaning.port, 1, None)
    if isinstance(meaning, Series) and meaning.steps == num_steps:
        return meaning
    if isinstance(meaning, Step):
        raise TraceError(
            f"forward returns only step {meaning.step} of '{recorder.drafts[meaning.draft].name}'; "
            "return the recording over all time steps (torch.stack), its sum or its mean"
        )
    reason = getattr(meaning, "reason", "something that is no recording over time steps")
    raise TraceError(
        f"forward's first output comes from {reason}; return the output neuron's spikes or "
        "membrane, or the output layer's current, stacked, summed or averaged over time"
    )


def _readout(kind: Kind, series: Series, wanted: Readout | None) -> Readout:
    if kind is Kind.NEURON and series.port not in READOUTS:
        raise TraceError(
            f"the network returns a neuron's state {series.port}; return its spikes or its "
            "membrane potential, or the output layer's current"
        )
    inferred: Readout = cast(Readout, series.port) if kind is Kind.NEURON else "current"
    if wanted is None:
        return inferred
    if wanted != "current" and kind is not Kind.NEURON:
        raise TraceError(
            f"readout '{wanted}' needs an output neuron, but the network returns the current of a "
            f"{kind} layer; use readout='current'"
        )
    return wanted


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode with its neurons reset, the original untouched.

    A network that has run holds non-leaf membranes, which ``copy.deepcopy`` refuses, so they are
    set aside during the copy.
    """
    neurons = [m for m in model.modules() if isinstance(m, snn.SpikingNeuron)]
    held = [(n, dict(n._buffers), dict(n.__dict__)) for n in neurons]
    try:
        for neuron in neurons:
            for name, value in neuron._buffers.items():
                if value is not None and value.grad_fn is not None:
                    neuron._buffers[name] = value.detach()
            for name, value in list(neuron.__dict__.items()):
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    neuron.__dict__[name] = value.detach()
        duplicate = copy.deepcopy(model)
    finally:
        for neuron, buffers, attributes in held:
            neuron._buffers.update(buffers)
            neuron.__dict__.update(attributes)
    reset_neurons(duplicate)
    return duplicate.eval()


def reset_neurons(model: nn.Module) -> None:
    """Brings the module's own neurons to rest."""
    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):
            clear(module)


@contextmanager
def preserved_states() -> Iterator[None]:
    """Keeps every registered neuron's state, since a forward may call ``utils.reset``."""
    instances = list(snn.SpikingNeuron.instances)
    held = [(neuron, dict(neuron._buffers)) for neuron in instances]
    try:
        yield
    finally:
        for neuron, buffers in held:
            neuron._buffers.update(buffers)
        snn.SpikingNeuron.instances[:] = instances


def register_neurons(model: nn.Module) -> nn.Module:
    """Registers a network's neurons with snnTorch, so that ``snntorch.utils.reset`` reaches them.

    snnTorch resets by a global list that only constructors fill; copies made here are left out of
    it on purpose (it is never emptied) until a network is handed to the user.
    """
    known = {id(neuron) for neuron in snn.SpikingNeuron.instances}
    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron) and id(module) not in known:
            snn.SpikingNeuron.instances.append(module)
    return model
