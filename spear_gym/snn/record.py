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

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spear_gym.snn.calls import Call, call_of, port_of
from spear_gym.snn.drafts import Draft
from spear_gym.snn.errors import TraceError
from spear_gym.snn.functions import Called, flatten, interpret, operate
from spear_gym.snn.graph import Kind
from spear_gym.snn.leaves import POOL_MODULES, Conv, Norm, is_leaf, pool_function
from spear_gym.snn.meanings import (
    Made,
    Opaque,
    Series,
    Step,
    is_zero,
    tensors_in,
)
from spear_gym.snn.neurons import Neuron
from spear_gym.snn.neurons.general import examined
from spear_gym.snn.neurons.identify import model_of
from spear_gym.snn.neurons.own import on_cpu, state_names
from spear_gym.snn.operations import Expression, function_name
from spear_gym.snn.recording import Recording, sample_shape
from spear_gym.snn.sequences import assign, interpret_series
from spear_gym.snn.values import Seen, mentions_seen
from spear_gym.snn.watching import wrapped

CONSTANTS = frozenset(
    f"{what}_like" for what in ("zeros", "ones", "empty", "full", "rand", "randn")
) | frozenset(f"new_{what}" for what in ("zeros", "ones", "empty", "full"))
"""Functions whose result does not depend on the values of the tensor they are given."""
NUMBERS = frozenset({"item", "__float__", "__int__", "__index__"})
"""Functions that give a tensor's value as a number."""
VALUES = NUMBERS | {"tolist", "numpy", "__bool__"}
"""Functions that take a tensor's values out of sight."""


class Recorder(Recording, TorchFunctionMode):
    """Watches one forward pass of ``model`` and keeps the drafts of its time step.

    Args:
        model: a private copy of the user's module, in eval mode.
        time: the axis of time, 0 or 1, of a module that takes all frames at once; else ``None``.
        varying: whether the input differs from step to step.
        events: whether the input counts as spikes (not analog).

    Attributes:
        calls: neuron's draft -> its calls.
        given: neuron -> names of the states that the network hands to it, none where it keeps
            them itself.
        uses: how often the network called a layer with weights.
    """

    def __init__(self, model: nn.Module, *, time: int | None, varying: bool, events: bool) -> None:
        super().__init__(model)
        self.time = time
        self.varying = varying
        self.events = events
        self.calls: dict[int, int] = {}
        self.given: dict[str, tuple[str, ...]] = {}
        self.uses: Counter[int] = Counter()
        self._at_rest = {
            name: on_cpu(module)
            for name, module in model.named_modules()
            if name and isinstance(module, snn.SpikingNeuron)
        }
        self._neurons: dict[str, Neuron | str] = {
            name: model_of(name, neuron) for name, neuron in self._at_rest.items()
        }
        self._first_norms: dict[tuple[str, int], int] = {}
        self._paused = False

    # ---------------------------------------------------------------- running

    def run(self, inputs: Tensor) -> Any:
        """Runs the module on ``inputs`` and returns what its forward returned."""
        shape = tuple(inputs.shape[1:] if self.time is None else inputs.shape[2:])
        self.drafts.append(
            Draft(Kind.INPUT, "input", (), None, None, shape, not self.varying, not self.events)
        )
        if self.time is None:
            self.set(inputs, Step(0, "value", None))
        else:
            self.set(inputs, Series(0, "value", inputs.shape[self.time], self.time))
        with self._wrapped_modules(), torch.no_grad(), self:
            return self.model(inputs)

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
        if self._paused:  # a neuron's own layer
            return forward(*a, **k)
        self._paused = True
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
            self._paused = False

    def _stateless_call(self, name: str, module: nn.Module, source: Tensor, output: Tensor) -> None:
        reader = f"layer '{name}' ({type(module).__name__})"
        meaning = self.read(source, reader)
        if isinstance(module, nn.Identity):
            self.set(output, meaning)
        elif isinstance(module, nn.Flatten):
            called = Called("flatten", module.__call__, (source,), {}, output, False)
            known = flatten(self, source, output, meaning) if isinstance(meaning, Step) else False
            if not known and not interpret_series(self, called):
                self._apply(
                    Called(
                        "flatten",
                        partial(_flatten, module.start_dim, module.end_dim),
                        (source,),
                        {},
                        output,
                        False,
                    )
                )
        elif isinstance(module, POOL_MODULES):
            function = pool_function(module)
            self.check_rank(reader, source, function.func.__name__)
            self.add_reader(source, output, Kind.POOL, name, None, function)
        elif isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            self.add_reader(source, output, Kind.DROPOUT, name, name, None)
        elif isinstance(module, nn.Linear):
            self._linear_call(name, source, output, meaning)
            self._count_use(output)
        else:
            kind = Kind.NORM if isinstance(module, Norm) else Kind.CONV
            if isinstance(module, Conv):
                self.check_rank(
                    reader, source, "conv1d" if isinstance(module, nn.Conv1d) else "conv2d"
                )
            if kind is Kind.NORM and self._norm_of_step(name, meaning, output):
                return
            self.add_reader(source, output, kind, name, name, None)
            self._count_use(output)

    def _count_use(self, output: Tensor) -> None:
        meaning = self.meaning(output)
        assert isinstance(meaning, Step | Series)
        self.uses[meaning.draft] += 1

    def _norm_of_step(self, name: str, meaning: Step | Series, output: Tensor) -> bool:
        """Whether a BatchNorm is that of a later time step, in a list with one for each."""
        parent, _, own = name.rpartition(".")
        if not isinstance(meaning, Step) or not isinstance(
            self.model.get_submodule(parent), nn.ModuleList
        ):
            return False
        draft = self._first_norms.setdefault((parent, meaning.draft), len(self.drafts))
        if draft == len(self.drafts):
            return False  # the first of them
        first = self.drafts[draft]
        paths = first.of_steps or (str(first.module),)
        step = len(paths) if name not in paths else paths.index(name)
        if meaning.step not in (None, step) or own != str(int(paths[0].rpartition(".")[2]) + step):
            return False
        if name not in paths:
            self.drafts[draft] = replace(first, of_steps=(*paths, name), name=parent)
        self.set(output, Step(draft, "value", step))
        return True

    def _linear_call(
        self, name: str, source: Tensor, output: Tensor, meaning: Step | Series
    ) -> None:
        """A linear layer on the last axis: of samples, of tokens, of all time steps."""
        lead = 1 if isinstance(meaning, Step) or meaning.folded else 2
        if source.dim() == lead + 1:
            self.add_reader(source, output, Kind.LINEAR, name, name, None)
            return
        if source.dim() <= lead:
            raise TraceError(
                f"linear layer '{name}' reads a tensor of shape {tuple(source.shape)}; it needs "
                "(batch, features), or (batch, tokens, features)"
            )
        whole, step = output, meaning
        if isinstance(meaning, Series):
            step = Step(meaning.draft, meaning.port, None, meaning.moved)
            if isinstance(meaning.axis, int):
                source, output = source.select(meaning.axis, 0), output.select(meaning.axis, 0)
        assert isinstance(step, Step)
        read = self.features_last(source, step)
        found = self.add_node(output, Kind.LINEAR, name, name, None, [read], moved=True)
        if isinstance(meaning, Series):
            self.at_once[found.draft] = meaning.axis
            self.set(whole, meaning.of(found))

    def _neuron_call(self, name: str, module: nn.Module, forward: Any, *a: Any, **k: Any) -> Any:
        call = call_of(name, module, forward, a, k)
        source = self.read_step(call.input, f"neuron '{name}'")
        at_rest = self._at_rest[name]
        if source.moved and any(t.numel() > 1 for t in (*at_rest.parameters(), *at_rest.buffers())):
            source = self.plain(call.input, source)
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
        # Where spikes are a state, they are returned first, once.
        names = call.names[-len(returned) :] if returned else ()
        for key, state in (*zip(names, returned, strict=False), *states):
            if isinstance(state, Tensor):
                self.set(state, Step(draft, port_of(key), step, source.moved))
        self.set(spikes, Step(draft, "spikes", step, source.moved))
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
        shape = sample_shape(call.input, source.moved)
        neuron = self._neuron(name, shape)
        made = self._draft(
            key, Kind.NEURON, name, name, None, [source], shape, source.moved, neuron=neuron
        )
        return made, 0

    def _neuron(self, name: str, shape: tuple[int, ...]) -> Neuron:
        found = self._neurons[name]
        if isinstance(found, str):
            found = examined(name, self._at_rest[name], shape, self.given[name], found)
            self._neurons[name] = found
        problem = found.misfit(shape)
        if problem is not None:
            raise TraceError(f"neuron '{name}' ({found.name}) {problem}")
        return found

    # ---------------------------------------------------------------- functions

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        raw = getattr(func, "__name__", "")
        name = function_name(func)
        meanings = map(self.meaning, tensors_in((args, kwargs)))
        known = any(m is not None and not isinstance(m, Made) for m in meanings)
        if known and raw in VALUES:
            return self._value(func, raw, args, kwargs)
        if mentions_seen((args, kwargs)):
            raise TraceError(
                f"function '{name}'{self.where()} uses the value of a tensor as a number "
                "(`tensor.item()`); a graph that depends on the data cannot be traced: keep it a "
                "tensor"
            )
        in_place = known and _writes(raw, kwargs) and isinstance(args[0], Tensor)
        seen = (self._before(args[0]), *args[1:]) if in_place else args
        output = func(*args, **kwargs)
        if name == "setitem":
            assign(self, args[0], args[1], args[2])
        elif known and name not in CONSTANTS and any(True for _ in tensors_in(output)):
            if in_place:
                self._spoil_views(args[0])
            if isinstance(output, Tensor) and not in_place and any(output is a for a in args):
                output = output.view(output.shape)  # A tensor means one thing only.
            self._apply(Called(name, func, tuple(seen), kwargs, output, in_place))
        elif not known:
            self._make(func, args, kwargs, output)
        return output

    def _value(self, func: Any, raw: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A number that is taken out of a tensor may be shown, but nothing may depend on it."""
        if raw in NUMBERS and raw == "item":
            return Seen(func(*args, **kwargs), self.where())
        raise TraceError(
            f"forward{self.where()} takes a decision on the values of a tensor (`if tensor:`, "
            "`tensor.item()`); a graph that depends on the data cannot be traced: decide on "
            "shapes or settings"
        )

    def _before(self, tensor: Tensor) -> Tensor | int:
        """A tensor that is about to be overwritten, as it is now."""
        meaning = self.meaning(tensor)
        if meaning is None and is_zero(tensor):
            return 0  # `total += x` overwrites the zeros that it starts from.
        copied = tensor.clone()
        if meaning is not None:
            self.set(copied, meaning)
        return copied

    def _spoil_views(self, written: Tensor) -> None:
        """Tensors that share the memory of one that is written over are not what they were."""
        memory = written.untyped_storage().data_ptr()
        for tensor, meaning in list(self._meanings.values()):
            if tensor is not written and tensor.untyped_storage().data_ptr() == memory:
                reason = f"an in-place operation on a part or a view of it{self.where()}"
                if isinstance(meaning, Step | Series):
                    self.set(tensor, Opaque(reason))

    def _apply(self, called: Called) -> None:
        if not (interpret_series(self, called) or interpret(self, called)):
            operate(self, called)

    def _make(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> None:
        """Follows what the network makes of its own parameters."""
        if not isinstance(output, Tensor) or output is (args[0] if args else None):
            return
        sources = list(tensors_in((args, kwargs)))
        if any(id(t) in self._paths for t in sources) or any(
            isinstance(self.meaning(t), Made) for t in sources
        ):
            marked = [
                tuple(self.constant(a) if isinstance(a, Tensor) else a for a in args),
                tuple(
                    (k, self.constant(v) if isinstance(v, Tensor) else v) for k, v in kwargs.items()
                ),
            ]
            self.set(output, Made(Expression(func, marked[0], marked[1])))


def _flatten(start: int, end: int, value: Tensor) -> Tensor:
    return value.flatten(start, end)


def _writes(raw: str, kwargs: dict[str, Any]) -> bool:
    """Whether a function overwrites its first argument, by PyTorch's own naming."""
    if raw.startswith("__"):
        return raw.startswith("__i") and raw not in ("__index__", "__int__", "__invert__")
    return (raw.endswith("_") and not raw.endswith("__")) or bool(kwargs.get("inplace"))
