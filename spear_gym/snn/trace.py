"""From a trained snnTorch network to its :class:`SpikingGraph`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from traceback import walk_tb
from typing import NamedTuple

import snntorch as snn
from torch import Tensor, nn

from spear_gym.snn.channels import assign_channels, prunable_groups
from spear_gym.snn.decision import ScoreFunction, asked_for, decision_of
from spear_gym.snn.drafts import Draft
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import CONNECTIONS, Idiom, Kind, Node, SpikingGraph
from spear_gym.snn.leaves import check_layers
from spear_gym.snn.neurons.own import clear
from spear_gym.snn.outputs import Output, Place, as_place, find_output, what_is_recorded
from spear_gym.snn.record import Recorder
from spear_gym.snn.replay import compare_with_forward


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    varying: bool = False,
    events: bool = False,
    readout: str | ScoreFunction | None = None,
    num_classes: int | None = None,
    outputs: int | str | Sequence[int | str] | None = None,
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
        readout: a name in ``decision.READOUTS`` or a function of the outputs over time; inferred
            when ``None``.
        num_classes: of a population code.
        outputs: index, key, or several of them that lead to the class output in what forward
            returns; the first tensor when ``None``.
        check: inputs for the check, shaped like ``example``; defaults to ``example`` reversed and
            one sample shorter.
        batch_first: a module that loops over frames takes them as ``(batch, time, ...)``, not as
            ``(time, batch, ...)``; found out when ``None``.

    Returns:
        The graph, its model in eval mode with all neurons reset.

    Raises:
        TraceError: when the network has something that is not supported; the message names it.
    """
    wanted = _Wanted(readout, num_classes, None if outputs is None else as_place(outputs))
    asked_for(readout)
    batch_axis = 1 if varying else 0
    if example.dim() < batch_axis + 2 or example.shape[batch_axis] < 2:
        raise TraceError(
            f"example inputs have shape {tuple(example.shape)}; at least 2 samples are needed, as "
            + ("(time, batch, channel, ...)" if varying else "(batch, channel, ...)")
        )
    if check is None:
        count = example.shape[batch_axis]
        check = example.flip(batch_axis).narrow(batch_axis, 0, count - 1)
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    check_layers(model)
    with preserved_states():
        private = _copied(model)
        graph, output = _record(
            private, example, wanted, varying=varying, events=events, batch_first=batch_first
        )
        compare_with_forward(graph, check, output)
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


class _Wanted(NamedTuple):
    """What the user says of the output."""

    readout: str | ScoreFunction | None
    num_classes: int | None
    place: Place | None


class _Recorded(NamedTuple):
    """A graph, and how the module's own output shows its readout node over time."""

    graph: SpikingGraph
    output: Output


def _record(
    model: nn.Module,
    example: Tensor,
    wanted: _Wanted,
    *,
    varying: bool,
    events: bool,
    batch_first: bool | None,
) -> _Recorded:
    if not varying:
        return _record_as(model, example, varying, events, wanted, time=None)
    tried = []
    for time in (0, 1) if batch_first is None else (int(batch_first),):
        frames = example if time == 0 else example.transpose(0, 1)
        try:
            return _record_as(model, frames, varying, events, wanted, time=time)
        except (TraceError, RuntimeError, IndexError, ValueError) as error:
            reset_neurons(model)
            order = ("(time, batch, ...)", "(batch, time, ...)")[time]
            tried.append(f"as a loop over time, given {order} ({error})")
    try:
        return _record_as(model, example[0], varying, events, wanted, time=None)
    except TraceError as step_error:
        tried.append(f"as a single time step, given (batch, ...) ({step_error})")
        raise TraceError(f"the network traces neither {', nor '.join(tried)}") from step_error


def _record_as(
    model: nn.Module,
    inputs: Tensor,
    varying: bool,
    events: bool,
    wanted: _Wanted,
    *,
    time: int | None,
) -> _Recorded:
    reset_neurons(model)
    recorder = Recorder(model, time=time, varying=varying, events=events)
    # A clone, so that an in-place operation of the network cannot reach the caller's data.
    try:
        output = recorder.run(inputs.clone())
    except (RuntimeError, TypeError, IndexError, AttributeError, ValueError) as error:
        if _in_spikegen(error):
            raise TraceError(
                f"forward encodes its input by snntorch.spikegen: {error}; encode before the "
                "network is called, and give it frames (samples, time, channel, ...)"
            ) from error
        if isinstance(error, TraceError):
            raise
        raise TraceError(
            f"the network's forward failed on inputs of shape {tuple(inputs.shape)}: {error}; it "
            "must accept one tensor: (batch, channel, ...) or (time, batch, channel, ...), of any "
            "number of samples"
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
    found = find_output(recorder, output, num_steps, wanted.place)
    source = recorder.drafts[found.draft]
    recorded, rule = what_is_recorded(source.kind, found, asked_for(wanted.readout))
    node = source.inputs[0] if source.kind is Kind.NEURON and recorded == "current" else found.draft
    if len(recorder.drafts[node].shape) != 1:
        raise TraceError(
            f"the output '{source.name}' has shape {source.shape} per sample; class outputs must "
            "be a vector (batch, classes): flatten and end in a linear layer"
        )
    drafts = _settled(recorder.drafts, num_steps)
    nodes, spaces = assign_channels(drafts, model, found.draft, recorder.at_once)
    _check_sharing(nodes, model)
    _check_uses(recorder, nodes, num_steps)
    decision = decision_of(rule, wanted.readout, nodes[node].shape[0], wanted.num_classes)
    graph = SpikingGraph(
        model,
        nodes,
        prunable_groups(nodes, spaces),
        node,
        recorded,
        varying,
        idiom,
        num_steps,
        decision,
        batch_first=time == 1,
        place=found.place,
        fixed=dict(spaces.fixed),
    )
    return _Recorded(graph, found)


def _in_spikegen(error: BaseException) -> bool:
    frames = walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "snntorch.spikegen" for frame, _ in frames)


def _settled(drafts: list[Draft], num_steps: int) -> tuple[Draft, ...]:
    """The drafts, what reads a BatchNorm with one module a time step no longer static.

    Raises:
        TraceError: when it has another number of them.
    """
    found: list[Draft] = []
    for draft in drafts:
        if draft.of_steps and len(draft.of_steps) != num_steps:
            raise TraceError(
                f"'{draft.name}' has a BatchNorm for each of {len(draft.of_steps)} time steps, but "
                f"the network runs {num_steps}"
            )
        static = all(found[source].static for source in draft.inputs) if draft.inputs else True
        found.append(replace(draft, static=draft.static and static and not draft.of_steps))
    return tuple(found)


def _check_sharing(nodes: tuple[Node, ...], model: nn.Module) -> None:
    modules: set[str] = set()
    owners: dict[int, str] = {}
    for node in nodes:
        if node.module is None or node.kind not in CONNECTIONS | {Kind.NORM, Kind.NEURON}:
            continue
        if modules & {node.module, *node.of_steps}:
            raise TraceError(
                f"module '{node.module}' is used more than once in a time step on different "
                "inputs; layers with weights or state cannot be shared: give each use its own"
            )
        for path in node.of_steps or (node.module,):
            modules.add(path)
            for parameter in model.get_submodule(path).parameters():
                owner = owners.setdefault(id(parameter), path)
                if owner != path:
                    raise TraceError(
                        f"modules '{owner}' and '{path}' share a parameter; layers that are "
                        "pruned each in their own way cannot: give each its own"
                    )
    _check_operations(nodes, modules)


def _check_operations(nodes: tuple[Node, ...], modules: set[str]) -> None:
    """Refuses functions whose parameters would be cut in more than one way."""
    users: dict[str, Node] = {}
    for node in nodes:
        for path, axis in ({} if node.operation is None else node.operation.owned).items():
            if path.rpartition(".")[0] in modules:
                raise TraceError(
                    f"'{node.name}' reads '{path}', which belongs to a layer that may be pruned; "
                    "give it a parameter of its own"
                )
            other = users.setdefault(path, node)
            cut = axis is not None or other.operation.owned[path] is not None  # type: ignore[union-attr]
            if cut and other.channels != node.channels:
                raise TraceError(
                    f"'{other.name}' and '{node.name}' share '{path}', a value for each of their "
                    "channels, which are not the same; give each its own"
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
