"""Recording what a network's forward does, with concrete tensors.

The module is simply run once, on example values, while a :class:`torch.overrides.TorchFunctionMode`
watches every torch function and a wrapper stands before every layer. Because real tensors flow,
``range(x.size(0))``, ``torch.zeros(batch, n)``, ``if x.dim()`` and ``rec[t] = spikes`` just work;
what each tensor *means* is kept beside it, by identity.

Operations are hash-consed: the same layer on the same inputs is one draft however often the loop
over time comes by, so the recorded loop arrives already rolled up into one time step (see
:mod:`spear_gym.snn.calls` for how time passes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spear_gym.snn.calls import Call, call_of, port_of
from spear_gym.snn.drafts import Draft
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Kind, Port
from spear_gym.snn.leaves import (
    POOL_FUNCTIONS,
    POOL_MODULES,
    Conv,
    Norm,
    is_leaf,
    pool_function,
)
from spear_gym.snn.meanings import (
    Buffer,
    Frames,
    Meaning,
    Opaque,
    Series,
    Step,
    accumulate,
    is_zero,
    series_of,
    tensors_in,
    time_index,
)
from spear_gym.snn.neurons import Neuron
from spear_gym.snn.neurons.general import examined
from spear_gym.snn.neurons.identify import model_of
from spear_gym.snn.neurons.own import on_cpu, state_names
from spear_gym.snn.watching import wrapped

ALIASES = frozenset({"contiguous", "detach", "clone", "float", "to", "requires_grad"})
RESHAPES = frozenset({"view", "reshape", "flatten", "squeeze"})
ADDITIONS = frozenset({"add", "radd", "iadd"})
CONCATS = frozenset({"cat", "concat", "concatenate"})
INDEXING = frozenset({"unbind", "getitem", "select"})
SCALINGS = frozenset({"div", "truediv", "mul", "rmul", "idiv", "itruediv", "imul"})
CONSTANTS = frozenset(
    f"{what}_like" for what in ("zeros", "ones", "empty", "full", "rand", "randn")
) | frozenset(f"new_{what}" for what in ("zeros", "ones", "empty", "full"))
"""Functions whose result does not depend on the values of the tensor they are given."""
TRAVELLING = frozenset({"value", "spikes"})
"""Ports that another layer may read."""
VALUES = frozenset({"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"})
"""Functions that take a tensor's values out of sight."""


class Recorder(TorchFunctionMode):
    """Watches one forward pass of ``model`` and keeps the drafts of its time step.

    Args:
        model: a private copy of the user's module, in eval mode.
        sequence: whether the module takes all frames at once, time first.
        varying: whether the input differs from step to step.
        events: whether the input counts as spikes (not analog).

    Attributes:
        drafts: the operations of a time step.
        calls: neuron's draft -> its calls.
        given: neuron -> names of the states that the network hands to it, none where it keeps
            them itself.
    """

    def __init__(self, model: nn.Module, *, sequence: bool, varying: bool, events: bool) -> None:
        super().__init__()
        self.model = model
        self.sequence = sequence
        self.varying = varying
        self.events = events
        self.drafts: list[Draft] = []
        self.calls: dict[int, int] = {}
        self.given: dict[str, tuple[str, ...]] = {}
        self._at_rest = {
            name: on_cpu(module)
            for name, module in model.named_modules()
            if name and isinstance(module, snn.SpikingNeuron)
        }
        self._neurons: dict[str, Neuron | str] = {
            name: model_of(name, neuron) for name, neuron in self._at_rest.items()
        }
        self._keys: dict[tuple[Any, ...], int] = {}
        self._meanings: dict[int, tuple[Tensor, Meaning]] = {}
        self._scope: list[str] = []
        self._paused = False

    # ---------------------------------------------------------------- running

    def run(self, inputs: Tensor) -> Any:
        """Runs the module on ``inputs`` and returns what its forward returned."""
        shape = tuple(inputs.shape[2:] if self.sequence else inputs.shape[1:])
        self.drafts.append(
            Draft(Kind.INPUT, "input", (), None, None, shape, not self.varying, not self.events)
        )
        self._set(inputs, Frames() if self.sequence else Step(0, "value", None))
        with self._wrapped_modules(), torch.no_grad(), self:
            return self.model(inputs)

    def meaning(self, tensor: Tensor) -> Meaning | None:
        """What a tensor means, ``None`` for constants."""
        entry = self._meanings.get(id(tensor))
        return None if entry is None else entry[1]

    def _set(self, tensor: Tensor, meaning: Meaning) -> None:
        # The tensor is kept beside its meaning so that its id is not given away again.
        self._meanings[id(tensor)] = (tensor, meaning)

    @contextmanager
    def _wrapped_modules(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                if name:
                    call = self._leaf_call if is_leaf(name, module) else self._container_call
                    stack.enter_context(wrapped(module, partial(call, name, module)))
            yield

    def _container_call(self, name: str, module: nn.Module, forward: Any, *a: Any, **k: Any) -> Any:
        self._scope.append(f"'{name}' ({type(module).__name__})")
        try:
            return forward(*a, **k)
        finally:
            self._scope.pop()

    # ---------------------------------------------------------------- layers

    def _leaf_call(self, name: str, module: nn.Module, forward: Any, *a: Any, **k: Any) -> Any:
        paused, self._paused = self._paused, True
        try:
            if isinstance(module, snn.SpikingNeuron):
                return self._neuron_call(name, module, forward, *a, **k)
            output = forward(*a, **k)
            source = a[0] if a else next(iter(k.values()))
            if output is source and not isinstance(module, nn.Identity):
                output = output.view(output.shape)  # A tensor means one thing only.
            self._stateless_call(name, module, source, output)
            return output
        finally:
            self._paused = paused

    def _stateless_call(self, name: str, module: nn.Module, source: Tensor, output: Tensor) -> None:
        reader = f"layer '{name}' ({type(module).__name__})"
        step = self._read(source, reader)
        if isinstance(module, nn.Identity):
            self._set(output, step)
        elif isinstance(module, nn.Flatten):
            self._flatten(source, output, step, f"module '{name}' (Flatten)")
        elif isinstance(module, POOL_MODULES):
            function = pool_function(module)
            _check_rank(reader, source, function.func.__name__)
            self._push(output, Kind.POOL, name, None, function, [step])
        elif isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            self._push(output, Kind.DROPOUT, name, name, None, [step])
        else:
            kind = Kind.NORM if isinstance(module, Norm) else Kind.LINEAR
            kind = Kind.CONV if isinstance(module, Conv) else kind
            if isinstance(module, Conv):
                _check_rank(reader, source, "conv1d" if isinstance(module, nn.Conv1d) else "conv2d")
            if kind is Kind.LINEAR and source.dim() != 2:
                raise TraceError(
                    f"linear layer '{name}' reads a tensor of shape {tuple(source.shape)}; only "
                    "(batch, features) is supported: flatten before it, one time step at a time"
                )
            self._push(output, kind, name, name, None, [step])

    def _neuron_call(self, name: str, module: nn.Module, forward: Any, *a: Any, **k: Any) -> Any:
        call = call_of(name, module, forward, a, k)
        source = self._read(call.input, f"neuron '{name}'")
        draft, step = self._step_of(call, source)
        output = forward(*a, **k)
        if source.step is not None and source.step != step:
            raise TraceError(
                f"neuron '{name}' is at its time step {step} but its input is from step "
                f"{source.step}; connections that reach back or ahead in time are not supported"
            )
        self.calls[draft] = step + 1
        spikes, *returned = output if isinstance(output, tuple) else (output,)
        states = [(key, getattr(module, key)) for key in state_names(module)]
        # The states that it returns are those that it keeps, unless its forward is not snnTorch's.
        for key, state in (*zip(call.names, returned, strict=False), *states):
            if isinstance(state, Tensor):
                self._set(state, Step(draft, port_of(key), step))
        self._set(spikes, Step(draft, "spikes", step))
        return output

    def _step_of(self, call: Call, source: Step) -> tuple[int, int]:
        """A neuron's draft, and which time step it is at."""
        before = call.before(self.meaning, self.drafts, source)
        if before is not None:
            assert before.step is not None
            return before.draft, before.step + 1
        name = call.name
        self.given.setdefault(name, tuple(call.given))
        key = ("chain", name, source.draft, source.port, len(self.drafts))
        neuron = self._neuron(name, tuple(call.input.shape[1:]))
        return self._draft(key, Kind.NEURON, name, name, None, [source], call.input, neuron), 0

    def _neuron(self, name: str, shape: tuple[int, ...]) -> Neuron:
        found = self._neurons[name]
        if isinstance(found, str):
            found = examined(name, self._at_rest[name], shape, self.given[name], found)
            self._neurons[name] = found
        return found

    # ---------------------------------------------------------------- functions

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", func)).strip("_")
        if self._paused:
            return func(*args, **kwargs)
        known = [m for m in map(self.meaning, tensors_in((args, kwargs))) if m is not None]
        if known and getattr(func, "__name__", "") in VALUES:
            raise TraceError(
                f"forward{self._where()} takes a decision on the values of a tensor (`if tensor:`, "
                "`tensor.item()`); a graph that depends on the data cannot be traced: decide on "
                "shapes or settings"
            )
        seen = args
        if name in ADDITIONS and args and self.meaning(args[0]) is None and is_zero(args[0]):
            seen = (0, *args[1:])  # `total += x` overwrites the zeros that it starts from.
        output = func(*args, **kwargs)
        if name == "setitem":
            self._setitem(args[0], args[1], args[2])
        elif known and name not in CONSTANTS and any(True for _ in tensors_in(output)):
            if name == "dropout" and output is args[0]:
                output = output.view(output.shape)  # A tensor means one thing only.
            self._function(name, seen, kwargs, output)
        return output

    def _where(self) -> str:
        return f" in module {self._scope[-1]}" if self._scope else ""

    def _function(
        self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Any
    ) -> None:
        handled = self._interpret(name, args, kwargs, output)
        if not handled:
            reason = f"function '{name}'{self._where()}"
            for tensor in tensors_in(output):
                self._set(tensor, Opaque(reason))

    def _interpret(
        self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Any
    ) -> bool:
        if name in ADDITIONS:
            return self._add(args, kwargs, output)
        if name in ALIASES:
            return self._alias(args, output)
        if name in RESHAPES:
            return self._reshape(name, args, output)
        if name in POOL_FUNCTIONS:
            return self._pool(name, args, kwargs, output)
        if name == "dropout":
            return self._dropout(args, kwargs, output)
        if name in CONCATS:
            return self._concat(args, kwargs, output)
        if name == "stack":
            return self._stack(args, kwargs, output)
        if name in INDEXING:
            return self._index(name, args, kwargs, output)
        if name in {"sum", "mean"}:
            return self._reduce(name, args, kwargs, output)
        return name in SCALINGS and self._scale(name, args, output)

    def _alias(self, args: Sequence[Any], output: Any) -> bool:
        meaning = self.meaning(args[0])
        if meaning is None or not isinstance(output, Tensor):
            return False
        self._set(output, meaning)
        return True

    def _add(self, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> bool:
        if kwargs.get("alpha", 1) != 1 or len(args) != 2:
            return False
        meanings = [self.term(term) for term in args]
        if None in meanings:
            other = meanings[0] if meanings[1] is None else meanings[1]
            zero = all(is_zero(t) for t, m in zip(args, meanings, strict=True) if m is None)
            shaped = isinstance(other, Step | Series) and zero
            if shaped and other is not None and output.numel() == self._numel(args):
                self._set(output, other)
                return True
            return False
        left, right = meanings
        accumulated = accumulate(left, right)
        if accumulated is not None:
            self._set(output, accumulated)
            return True
        if not (isinstance(left, Step) and isinstance(right, Step)):
            return False
        if args[0].shape != args[1].shape:
            return False
        self._push(output, Kind.ADD, self._function_name("add"), None, None, [left, right])
        return True

    def listed(self, tensors: Sequence[Tensor]) -> Meaning | None:
        """The series that a Python list of one output per time step amounts to."""
        entries = {i: m for i, m in enumerate(map(self.meaning, tensors)) if isinstance(m, Step)}
        return series_of(Buffer(0, entries)) if len(entries) == len(tensors) else None

    def term(self, term: Any) -> Meaning | None:
        """What a tensor means, a filled recording taken as the series it holds."""
        meaning = self.meaning(term) if isinstance(term, Tensor) else None
        return series_of(meaning) if isinstance(meaning, Buffer) else meaning

    def _numel(self, args: Sequence[Any]) -> int:
        return max(t.numel() for t in args if isinstance(t, Tensor) and self.meaning(t) is not None)

    def _reshape(self, name: str, args: Sequence[Any], output: Tensor) -> bool:
        step = self.meaning(args[0])
        if not isinstance(step, Step):
            return False
        self._flatten(args[0], output, step, f"function '{name}'{self._where()}")
        return True

    def _flatten(self, source: Tensor, output: Tensor, step: Step, where: str) -> None:
        if output.shape == source.shape:
            self._set(output, step)
        elif output.dim() == 2 and output.shape[0] == source.shape[0]:
            self._push(output, Kind.FLATTEN, self._function_name("flatten"), None, None, [step])
        else:
            self._set(output, Opaque(where))

    def _pool(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> bool:
        step = self.meaning(args[0])
        if not isinstance(step, Step):
            return False
        names = ("kernel_size", "stride", "padding") if "adaptive" not in name else ("output_size",)
        extra = ("ceil_mode", "count_include_pad") if "avg" in name else ("dilation", "ceil_mode")
        options = dict(zip((*names, *extra), args[1:], strict=False)) | kwargs
        options.pop("input", None)
        if "stride" in options and options["stride"] in (None, [], ()):
            del options["stride"]
        function = partial(POOL_FUNCTIONS[name], **options)
        _check_rank(f"function '{name}'{self._where()}", args[0], name)
        self._push(output, Kind.POOL, self._function_name(name), None, function, [step])
        return True

    def _dropout(self, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> bool:
        step = self.meaning(args[0])
        if not isinstance(step, Step) or kwargs.get("training", args[2:3] != (False,)):
            return False
        rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        function = partial(F.dropout, p=rate)
        self._push(output, Kind.DROPOUT, self._function_name("dropout"), None, function, [step])
        return True

    def _concat(self, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> bool:
        tensors = args[0] if args else kwargs["tensors"]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        steps = [self.meaning(t) for t in tensors]
        if not all(isinstance(s, Step) for s in steps) or dim not in (1, 1 - output.dim()):
            return False
        self._push(output, Kind.CONCAT, self._function_name("concat"), None, None, steps)  # type: ignore[arg-type]
        return True

    def _stack(self, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> bool:
        tensors = args[0] if args else kwargs["tensors"]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        entries = {i: m for i, m in enumerate(map(self.meaning, tensors)) if isinstance(m, Step)}
        series = series_of(Buffer(dim % output.dim(), entries))
        if len(entries) != len(tensors) or series is None:
            return False
        self._set(output, series)
        return True

    def _index(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> bool:
        source = self.meaning(args[0])
        if not isinstance(source, Frames):
            return False
        if name == "unbind":
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            for step, tensor in enumerate(output):
                self._set(tensor, Step(0, "value", step))
            return bool(dim == 0)
        index = args[1] if name == "getitem" else (args[2] if args[1] == 0 else None)
        position = time_index(index)
        if position is None or position[0] != 0:
            return False
        self._set(output, Step(0, "value", position[1] % args[0].shape[0]))
        return True

    def _setitem(self, target: Tensor, index: Any, value: Any) -> None:
        meaning = self.term(value) if isinstance(value, Tensor) else None
        current = self.meaning(target)
        position = time_index(index)
        if meaning is None and not isinstance(current, Step | Series):
            return
        if not isinstance(meaning, Step) or position is None or isinstance(current, Step | Series):
            self._set(target, Opaque(f"an assignment by index{self._where()}"))
            return
        axis, step = position
        buffer = current if isinstance(current, Buffer) else Buffer(axis)
        buffer.entries[step % target.shape[axis]] = meaning
        self._set(target, buffer)

    def _reduce(
        self, name: str, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor
    ) -> bool:
        source = self.term(args[0])
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dim = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
        if not isinstance(source, Series) or source.axis is None or not isinstance(dim, int):
            return False
        if dim % args[0].dim() != source.axis or kwargs.get("keepdim"):
            return False
        scale = source.scale / source.steps if name == "mean" else source.scale
        self._set(output, replace(source, axis=None, scale=scale))
        return True

    def _scale(self, name: str, args: Sequence[Any], output: Tensor) -> bool:
        source = self.term(args[0])
        factor = args[1]
        if not isinstance(source, Series) or not isinstance(factor, int | float) or factor <= 0:
            return False
        scale = source.scale * factor if "mul" in name else source.scale / factor
        self._set(output, replace(source, scale=scale))
        return True

    # ---------------------------------------------------------------- drafts

    def _read(self, tensor: Tensor, reader: str) -> Step:
        meaning = self.meaning(tensor)
        if isinstance(meaning, Step):
            if meaning.port not in TRAVELLING:
                raise TraceError(
                    f"{reader} reads {_state(meaning.port)} as its input; only spikes and currents "
                    "may travel between layers"
                )
            return meaning
        if isinstance(meaning, Opaque):
            raise TraceError(
                f"{reader} reads the result of {meaning.reason}, which is not supported; supported "
                "are Conv1d/2d, Linear, BatchNorm1d/2d, average and max pooling, Flatten, Dropout, "
                "Identity, residual additions, channel concatenation and snnTorch's neurons"
            )
        if isinstance(meaning, Frames):
            raise TraceError(
                f"{reader} reads the whole input (time, batch, ...) at once; index it by time step "
                "(`x[t]`), or give a module that computes one time step"
            )
        if meaning is None:
            raise TraceError(f"{reader} reads a tensor that does not depend on the input")
        raise TraceError(f"{reader} reads a recording over time; read it step by step")

    def _push(
        self,
        output: Tensor,
        kind: Kind,
        name: str,
        module: str | None,
        function: Callable[[Tensor], Tensor] | None,
        inputs: Sequence[Step],
    ) -> None:
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
        spec = module or (repr(function) if function is not None else kind.value)
        key = (kind, spec, tuple(source.draft for source in inputs))
        draft = self._draft(key, kind, name, module, function, inputs, output)
        self._set(output, Step(draft, "value", steps.pop() if steps else None))

    def _draft(
        self,
        key: tuple[Any, ...],
        kind: Kind,
        name: str,
        module: str | None,
        function: Callable[[Tensor], Tensor] | None,
        inputs: Sequence[Step],
        output: Tensor,
        neuron: Neuron | None = None,
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
                    tuple(output.shape[1:]),
                    neuron is None and all(source.static for source in sources),
                    neuron is None and any(source.analog for source in sources),
                    neuron,
                )
            )
        return self._keys[key]

    def _function_name(self, name: str) -> str:
        scope = self._scope[-1].split("'")[1] + "." if self._scope else ""
        return f"{scope}{name}"


def _state(port: Port) -> str:
    return "a membrane potential" if port == "membrane" else f"a neuron's state {port}"


def _check_rank(reader: str, source: Tensor, function: str) -> None:
    """Refuses tensors that torch would take for a single sample without a batch axis."""
    axes = 4 if function.endswith("2d") else 3
    if source.dim() != axes:
        raise TraceError(
            f"{reader} reads a tensor of shape {tuple(source.shape)}, which torch takes for a "
            f"single sample; it needs {axes} axes, (batch, channel, "
            f"{'height, width' if axes == 4 else 'length'})"
        )
