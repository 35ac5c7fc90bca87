"""What is written down of a forward while it runs: the drafts of a step, and what tensors mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_gym.snn.drafts import Draft
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Axis, Kind, Port
from spear_gym.snn.meanings import Buffer, Made, Meaning, Opaque, Series, Step, series_of
from spear_gym.snn.neurons import Neuron
from spear_gym.snn.neurons.own import state_names
from spear_gym.snn.operations import Expression, Input, Operation, Owned

TRAVELLING = frozenset({"value", "spikes"})
"""Ports that another layer may read."""


class Recording:
    """The drafts of a time step, and what every tensor means.

    Args:
        model: a private copy of the user's module.

    Attributes:
        drafts: the operations of a time step.
        owned: the network's parameters and buffers by path.
        inserted: tensors with a new axis of size 1, the axis, and what was given one.
        at_once: drafts that the network computes for all time steps at once -> where time is in
            what they give.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.drafts: list[Draft] = []
        self.owned: dict[str, Tensor] = {}
        self.inserted: dict[int, tuple[Tensor, int, Step]] = {}
        self.at_once: dict[int, Axis] = {}
        self._paths = self._own_tensors()
        self._keys: dict[tuple[Any, ...], int] = {}
        self._meanings: dict[int, tuple[Tensor, Meaning]] = {}
        self._scope: list[str] = []

    def meaning(self, tensor: Tensor) -> Meaning | None:
        """What a tensor means, ``None`` for constants."""
        entry = self._meanings.get(id(tensor))
        return None if entry is None else entry[1]

    def set(self, tensor: Tensor, meaning: Meaning) -> None:
        """Says what a tensor means from now on."""
        # The tensor is kept beside its meaning so that its id is not given away again.
        self._meanings[id(tensor)] = (tensor, meaning)

    def constant(self, tensor: Tensor) -> Any:
        """What a tensor that does not depend on the input is in the arguments of an operation."""
        path = self._paths.get(id(tensor))
        if path is not None:
            return Owned(path)
        meaning = self.meaning(tensor)
        return meaning.expression if isinstance(meaning, Made) else tensor.detach().clone()

    def where(self) -> str:
        """The innermost module that is running, for messages."""
        return f" in module {self._scope[-1]}" if self._scope else ""

    def function_name(self, name: str) -> str:
        """A function's name with that of the module that calls it."""
        scope = self._scope[-1].split("'")[1] + "." if self._scope else ""
        return f"{scope}{name}"

    def listed(self, tensors: Sequence[Tensor]) -> Meaning | None:
        """The series that a Python list of one output per time step amounts to."""
        entries = {i: m for i, m in enumerate(map(self.meaning, tensors)) if isinstance(m, Step)}
        return series_of(Buffer(0, entries)) if len(entries) == len(tensors) else None

    def set_recording(self, output: Tensor, tensors: Sequence[Tensor], axis: int) -> bool:
        """Takes a tensor for the recording of a value per time step, if it is one."""
        found = self.listed(tensors)
        if not isinstance(found, Series):
            return False
        self.set(output, Series(**{**_fields(found), "axis": axis}))
        return True

    def insert(self, tensor: Tensor, axis: int, step: Step) -> None:
        """Remembers that a tensor is one time step with an axis for time."""
        self.inserted[id(tensor)] = (tensor, axis, step)
        if axis == 0:
            self.set(tensor, Buffer(0, {0: step}))

    def term(self, term: Any) -> Meaning | None:
        """What a tensor means, a filled recording taken as the series it holds."""
        meaning = self.meaning(term) if isinstance(term, Tensor) else None
        return series_of(meaning) if isinstance(meaning, Buffer) else meaning

    def read(self, tensor: Tensor, reader: str) -> Step | Series:
        """What a layer reads: a time step, or a recording that it may compute at once."""
        meaning = self.term(tensor) or self.meaning(tensor)
        if isinstance(meaning, Step) or (isinstance(meaning, Series) and meaning.axis is not None):
            if meaning.port not in TRAVELLING:
                raise TraceError(
                    f"{reader} reads {_state(meaning.port)} as its input; only spikes and currents "
                    "may travel between layers"
                )
            if isinstance(meaning, Series) and meaning.scale != 1.0:
                raise TraceError(
                    f"{reader} reads a recording that was scaled as a whole; scale the values of "
                    "every time step"
                )
            return meaning
        if isinstance(meaning, Opaque):
            raise TraceError(f"{reader} reads the result of {meaning.reason}")
        if meaning is None or isinstance(meaning, Made):
            raise TraceError(f"{reader} reads a tensor that does not depend on the input")
        raise TraceError(f"{reader} reads a recording over time; read it step by step")

    def read_step(self, tensor: Tensor, reader: str) -> Step:
        """What a layer reads that must be called at every time step."""
        meaning = self.read(tensor, reader)
        if isinstance(meaning, Step):
            return meaning
        what = "the whole input" if meaning.draft == 0 else "a recording over time"
        raise TraceError(
            f"{reader} reads {what} at once, time axis included; index it by time step (`x[t]`, or "
            "`x[:, t]` where samples come first)"
        )

    def add_reader(
        self,
        source: Tensor,
        output: Tensor,
        kind: Kind,
        name: str,
        module: str | None,
        function: Callable[[Tensor], Tensor] | None,
    ) -> Step:
        """A node that reads one tensor, a time step or a recording; what it gives is the same."""
        reader = f"'{name}'"
        meaning = self.read(source, reader)
        elementwise = kind is Kind.DROPOUT and (
            getattr(function, "func", None) is F.dropout
            if module is None
            else isinstance(self.model.get_submodule(module), nn.Dropout)
        )
        if isinstance(meaning, Step):
            keeps = elementwise or kind is Kind.LINEAR
            read = meaning if keeps else self.plain(source, meaning)
            return self.add_node(output, kind, name, module, function, [read], moved=read.moved)
        step = Step(meaning.draft, meaning.port, None, meaning.moved)
        if meaning.folded:
            read = step if elementwise else self.plain(source, step)
            found = self.add_node(output, kind, name, module, function, [read], moved=read.moved)
        elif elementwise or (kind is Kind.LINEAR and source.dim() == 3):
            axis = int(meaning.axis or 0)
            one = output.select(axis, 0)
            found = self.add_node(one, kind, name, module, function, [step], moved=step.moved)
        else:
            raise TraceError(
                f"{reader} reads a recording of shape {tuple(source.shape)}, all time steps at "
                "once; call it at every time step, or fold time into the batch (x.flatten(0, 1))"
            )
        self.at_once[found.draft] = meaning.axis
        self.set(output, meaning.of(found))
        return found

    def add_node(
        self,
        output: Tensor,
        kind: Kind,
        name: str,
        module: str | None,
        function: Callable[[Tensor], Tensor] | None,
        inputs: Sequence[Step],
        *,
        moved: bool | None = None,
        operation: Operation | None = None,
    ) -> Step:
        """A node of a time step, recorded once however often it is met.

        Args:
            output: what the network computed.
            kind: of the node.
            name: for messages and reports.
            module: path of its module, if it has one.
            function: what it computes otherwise.
            inputs: what it reads.
            moved: whether its channels are the last axis of ``output``; as in its first input by
                default.
            operation: what it computes if the tracer does not know it.
        """
        steps = {source.step for source in inputs if source.step is not None}
        if len(steps) > 1:
            raise TraceError(
                f"'{name}' combines values of different time steps {sorted(steps)}; connections "
                "that reach back or ahead in time are not supported"
            )
        for source in inputs:
            if source.port not in TRAVELLING:
                raise TraceError(
                    f"'{name}' reads {_state(source.port)}; only spikes and currents may travel on"
                )
        moved = inputs[0].moved if moved is None else moved
        spec = module or (repr(function) if function is not None else kind.value)
        spec = spec if operation is None else operation.describe()
        key = (kind, spec, tuple(source.draft for source in inputs))
        shape = sample_shape(output, moved)
        draft = self._draft(
            key, kind, name, module, function, inputs, shape, moved, operation=operation
        )
        found = Step(draft, "value", steps.pop() if steps else None, moved)
        self.set(output, found)
        return found

    def add_operation(
        self, output: Tensor, name: str, operation: Operation, inputs: Sequence[Step]
    ) -> Step:
        """A node of a function that the tracer does not know."""
        own = self.function_name(name)
        moved = operation.moved_output
        return self.add_node(
            output, Kind.OPERATION, own, None, None, inputs, moved=moved, operation=operation
        )

    def plain(self, tensor: Tensor, step: Step) -> Step:
        """The same value with its channels taken to be the second axis of the tensor."""
        return step if not step.moved else self._turned(tensor, step, moved_output=False)

    def features_last(self, tensor: Tensor, step: Step) -> Step:
        """The same value with its channels taken to be the last axis of the tensor."""
        return step if step.moved else self._turned(tensor, step, moved_output=True)

    def _turned(self, tensor: Tensor, step: Step, *, moved_output: bool) -> Step:
        """Nothing is computed, but another axis is the channels', so none can be pruned."""
        expression = Expression(torch.Tensor.view_as, (Input(0), Input(0)))
        operation = Operation(
            "axes", expression, (step.moved,), moved_output, {}, in_place=False, follows=False
        )
        return self.add_operation(tensor.view(tensor.shape), "axes", operation, [step])

    def _draft(
        self,
        key: tuple[Any, ...],
        kind: Kind,
        name: str,
        module: str | None,
        function: Callable[[Tensor], Tensor] | None,
        inputs: Sequence[Step],
        shape: tuple[int, ...],
        moved: bool,
        *,
        neuron: Neuron | None = None,
        operation: Operation | None = None,
    ) -> int:
        if key not in self._keys:
            sources = [self.drafts[source.draft] for source in inputs]
            self._keys[key] = len(self.drafts)
            self.drafts.append(
                Draft(
                    kind,
                    name,
                    tuple(source.draft for source in inputs),
                    module,
                    function,
                    shape,
                    neuron is None and all(source.static for source in sources),
                    neuron is None and any(source.analog for source in sources),
                    neuron,
                    operation,
                    moved,
                )
            )
        return self._keys[key]

    def check_rank(self, reader: str, source: Tensor, function: str) -> None:
        """Refuses tensors that torch would take for a single sample without a batch axis."""
        axes = 4 if function.endswith("2d") else 3
        if source.dim() != axes:
            raise TraceError(
                f"{reader} reads a tensor of shape {tuple(source.shape)}, which torch takes for a "
                f"single sample; it needs {axes} axes, (batch, channel, "
                f"{'height, width' if axes == 4 else 'length'})"
            )

    def _own_tensors(self) -> dict[int, str]:
        """Paths of the network's parameters and buffers, the states of its neurons aside."""
        states = {
            f"{name}.{state}"
            for name, module in self.model.named_modules()
            if isinstance(module, snn.SpikingNeuron)
            for state in state_names(module)
        }
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        self.owned = {name: tensor for name, tensor in named if name not in states}
        return {id(tensor): name for name, tensor in self.owned.items()}


def _state(port: Port) -> str:
    return "a membrane potential" if port == "membrane" else f"a neuron's state {port}"


def sample_shape(tensor: Tensor, moved: bool) -> tuple[int, ...]:
    """Shape of one sample, channels first."""
    return tuple((tensor.movedim(-1, 1) if moved else tensor).shape[1:])


def _fields(series: Series) -> dict[str, Any]:
    return {name: getattr(series, name) for name in Series.__slots__}
