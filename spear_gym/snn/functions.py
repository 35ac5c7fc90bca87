"""What the functions mean that a network calls on values of one time step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_gym.snn.graph import Kind
from spear_gym.snn.leaves import POOL_FUNCTIONS
from spear_gym.snn.meanings import Buffer, Opaque, Series, Step, accumulate, is_zero, tensors_in
from spear_gym.snn.operations import Expression, Input, Operation, Owned, function_name
from spear_gym.snn.probing import DRAWS, Probe, UnfitError, close
from spear_gym.snn.products import adds_up_products

if TYPE_CHECKING:
    from spear_gym.snn.recording import Recording

ALIASES = frozenset({"contiguous", "detach", "clone", "float", "to", "requires_grad", "data"})
RESHAPES = frozenset({"view", "reshape", "flatten", "squeeze"})
ADDITIONS = frozenset({"add", "radd", "iadd"})
CONCATS = frozenset({"cat", "concat", "concatenate"})
SHUFFLES = frozenset({"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "T",
                      "mT", "t"})  # fmt: skip
DROPOUTS = {"dropout": F.dropout, "dropout1d": F.dropout1d, "dropout2d": F.dropout2d}
PRODUCTS = frozenset({"matmul", "rmatmul", "bmm", "mm"})
SCALINGS = frozenset({"mul", "rmul", "imul", "multiply"})


@dataclass(frozen=True)
class Called:
    """A function call that the tracer sees.

    Attributes:
        name: of the function.
        function: itself.
        args: its arguments, as they were before the call.
        kwargs: likewise, by name.
        output: what it gave.
        in_place: it wrote over its first argument.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    in_place: bool

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """An argument by its name, or its position."""
        return self.kwargs.get(name, self.args[position] if len(self.args) > position else default)


def interpret(recorder: Recording, called: Called) -> bool:
    """Gives the output of a call its meaning; ``False`` when its function is not known."""
    name = called.name
    if name in ADDITIONS:
        return _add(recorder, called)
    if name in ALIASES:
        return _alias(recorder, called)
    if name in RESHAPES:
        return _reshape(recorder, called)
    if name in POOL_FUNCTIONS:
        return _pool(recorder, called)
    if name in DROPOUTS:
        return _dropout(recorder, called)
    if name in CONCATS:
        return _concat(recorder, called)
    return name in SHUFFLES and _shuffle(recorder, called)


def _alias(recorder: Recording, called: Called) -> bool:
    meaning = recorder.meaning(called.args[0])
    if meaning is None or not isinstance(called.output, Tensor):
        return False
    if called.args[0].dtype != called.output.dtype:
        return False  # a number where there was a truth value, or fewer digits
    recorder.set(called.output, meaning)
    return True


def _add(recorder: Recording, called: Called) -> bool:
    args, output = called.args, called.output
    if called.kwargs.get("alpha", 1) != 1 or len(args) != 2:
        return False
    meanings = [recorder.term(term) for term in args]
    if None in meanings:
        other = meanings[0] if meanings[1] is None else meanings[1]
        zero = all(is_zero(t) for t, m in zip(args, meanings, strict=True) if m is None)
        whole = max(t.numel() for t in args if isinstance(t, Tensor) and recorder.meaning(t))
        if isinstance(other, Step | Series) and zero and output.numel() == whole:
            recorder.set(output, other)
            return True
        return False
    left, right = meanings
    accumulated = accumulate(left, right)
    if accumulated is not None:
        recorder.set(output, accumulated)
        return True
    if args[0].shape != args[1].shape:
        return False
    if isinstance(left, Series) and isinstance(right, Series):
        if (left.steps, left.axis, left.moved) != (right.steps, right.axis, right.moved):
            return False
        if left.axis is None or left.static != right.static:
            return False
        pair = [Step(each.draft, each.port, None, each.moved) for each in (left, right)]
        found = recorder.add_node(output, Kind.ADD, recorder.function_name("add"), None, None, pair)
        recorder.set(output, left.of(found))
        return True
    if not (isinstance(left, Step) and isinstance(right, Step)) or left.moved != right.moved:
        return False
    recorder.add_node(output, Kind.ADD, recorder.function_name("add"), None, None, [left, right])
    return True


def _reshape(recorder: Recording, called: Called) -> bool:
    step = recorder.meaning(called.args[0])
    return isinstance(step, Step) and flatten(recorder, called.args[0], called.output, step)


def flatten(recorder: Recording, source: Tensor, output: Tensor, step: Step) -> bool:
    """A reshape that keeps the shape, or leaves one axis behind the samples."""
    if output.shape == source.shape:
        recorder.set(output, step)
        return True
    if output.dim() != 2 or output.shape[0] != source.shape[0]:
        return False
    plain = recorder.plain(source, step)
    recorder.add_node(output, Kind.FLATTEN, recorder.function_name("flatten"), None, None, [plain])
    return True


def _pool(recorder: Recording, called: Called) -> bool:
    name, args = called.name, called.args
    step = recorder.meaning(args[0])
    folded = isinstance(step, Series) and step.folded
    if not isinstance(step, Step) and not folded:
        return False
    names = ("kernel_size", "stride", "padding") if "adaptive" not in name else ("output_size",)
    extra = ("ceil_mode", "count_include_pad") if "avg" in name else ("dilation", "ceil_mode")
    options = dict(zip((*names, *extra), args[1:], strict=False)) | dict(called.kwargs)
    options.pop("input", None)
    if "stride" in options and options["stride"] in (None, [], ()):
        del options["stride"]
    function = partial(POOL_FUNCTIONS[name], **options)
    recorder.check_rank(f"function '{name}'{recorder.where()}", args[0], name)
    own = recorder.function_name(name)
    recorder.add_reader(args[0], called.output, Kind.POOL, own, None, function)
    return True


def _dropout(recorder: Recording, called: Called) -> bool:
    step = recorder.meaning(called.args[0])
    training = called.kwargs.get("training", called.args[2:3] != (False,))
    if not isinstance(step, Step | Series) or training:
        return False
    function = partial(DROPOUTS[called.name], p=called.option("p", 1, 0.5))
    name = recorder.function_name(called.name)
    recorder.add_reader(called.args[0], called.output, Kind.DROPOUT, name, None, function)
    return True


def _concat(recorder: Recording, called: Called) -> bool:
    tensors = called.option("tensors", 0)
    dim = called.option("dim", 1, 0)
    steps = [recorder.meaning(t) for t in tensors]
    if not all(isinstance(s, Step) for s in steps):
        return False
    moved = {step.moved for step in steps}  # type: ignore[union-attr]
    axis = called.output.dim() - 1 if moved == {True} else 1
    if len(moved) > 1 or dim not in (axis, axis - called.output.dim()):
        return False
    name = recorder.function_name("concat")
    recorder.add_node(called.output, Kind.CONCAT, name, None, None, steps)  # type: ignore[arg-type]
    return True


def _shuffle(recorder: Recording, called: Called) -> bool:
    """Axes in another order; the channels may become the last, or the second again."""
    source, output = called.args[0], called.output
    step = recorder.meaning(source)
    if not isinstance(step, Step) or output.dim() < 3:
        return False
    order = order_of(called)
    plain = list(range(output.dim()))
    last = [0, *plain[2:], 1]
    now = [(last if step.moved else plain)[axis] for axis in order]
    if now not in (plain, last):
        return False
    if output is source:
        return False
    recorder.set(output, Step(step.draft, step.port, step.step, now == last))
    return True


def order_of(called: Called) -> list[int]:
    """The axes of the source in the order of the output, found by their strides."""
    dims = called.output.dim()
    marks = called.args[0].new_empty(tuple(range(2, 2 + dims)))
    result = called.function(marks, *called.args[1:], **called.kwargs)
    return [size - 2 for size in result.shape]


# -------------------------------------------------------------------- anything else


def operate(recorder: Recording, called: Called) -> None:
    """Records a function that is not known as what it is.

    Its output is opaque, with the reason, when it is no operation of a time step.
    """
    sources = _distinct(tensors_in((called.args, dict(called.kwargs))))
    known = [(t, recorder.meaning(t)) for t in sources]
    where = f"function '{called.name}'{recorder.where()}"
    for _, meaning in known:
        if isinstance(meaning, Opaque):  # the first that is to blame
            _blame(recorder, called.output, meaning.reason)
            return
    try:
        _record(recorder, called, known)
    except UnfitError as unfit:
        _blame(recorder, called.output, f"{where}, which {unfit}")


def _blame(recorder: Recording, output: Any, reason: str) -> None:
    for tensor in tensors_in(output):
        recorder.set(tensor, Opaque(reason))


def _record(recorder: Recording, called: Called, known: list[Any]) -> None:
    read = [(tensor, m) for tensor, m in known if isinstance(m, Step | Series | Buffer)]
    steps = [m for _, m in read if isinstance(m, Step)]
    series = [m for _, m in read if not isinstance(m, Step)]
    if series:
        _record_series(recorder, called, read)
        return
    inputs = [tensor for tensor, _ in read]
    _refuse_synapses(recorder, called, expression_of(recorder, called, inputs, None), inputs)
    for pick, output in enumerate(_results(called.output)):
        several = not isinstance(called.output, Tensor)
        expression = expression_of(recorder, called, inputs, pick if several else None)
        operation = settle(recorder, called, expression, inputs, steps)
        recorder.add_operation(output, called.name, operation, steps)


def _record_series(recorder: Recording, called: Called, read: list[Any]) -> None:
    """An operation on a whole recording: on one that is folded, or the same at every step."""
    meanings = [recorder.term(tensor) for tensor, _ in read]
    first = meanings[0]
    if any(isinstance(m, Series) and m.scale != 1.0 for m in meanings):
        raise UnfitError("reads a recording that was scaled as a whole; scale every time step")
    if not all(isinstance(m, Series) for m in meanings) or not isinstance(called.output, Tensor):
        raise UnfitError("mixes values of one time step with a recording over time")
    assert isinstance(first, Series)
    layouts = {(m.steps, m.axis, m.static) for m in meanings}  # type: ignore[union-attr]
    if len(layouts) > 1 or first.axis is None:
        raise UnfitError("reads a sum over time, or recordings that differ in their time axes")
    inputs = [tensor for tensor, _ in read]
    steps = [Step(m.draft, m.port, None, m.moved) for m in meanings]  # type: ignore[union-attr]
    expression = expression_of(recorder, called, inputs, None)
    _refuse_synapses(recorder, called, expression, inputs)
    output = called.output
    if isinstance(first.axis, int):
        axis = first.axis
        if output.dim() <= axis or output.shape[axis] != inputs[0].shape[axis]:
            raise UnfitError("looks along time; call it at every time step")
        whole, inputs = output, [t.select(axis, 0) for t in inputs]
        output = whole.select(axis, 0)
        _same_at_every_step(recorder, called, expression, read, axis)
    operation = settle(recorder, called, expression, inputs, steps)
    found = recorder.add_operation(output, called.name, operation, steps)
    recorder.set(called.output, first.of(found))


def _same_at_every_step(
    recorder: Recording, called: Called, expression: Expression, read: list[Any], axis: int
) -> None:
    before = torch.get_rng_state()
    for t in range(called.output.shape[axis]):
        one = [tensor.select(axis, t) for tensor, _ in read]
        try:
            alone = expression.value(one, recorder.owned)
        except Exception:  # whatever a function raises that is given fewer axes
            alone = None
        if not torch.equal(before, torch.get_rng_state()):
            raise UnfitError(DRAWS)
        whole = called.output.select(axis, t)
        if not (isinstance(alone, Tensor) and close(alone, whole)):
            raise UnfitError(
                "is called on all time steps at once and names their axes; call it at every time "
                "step, or fold time into the batch (x.flatten(0, 1))"
            )


def settle(
    recorder: Recording,
    called: Called,
    expression: Expression,
    inputs: Sequence[Tensor],
    steps: Sequence[Step],
) -> Operation:
    """The operation that a call amounts to.

    Raises:
        UnfitError: when it is none.
    """
    moved = tuple(step.moved for step in steps)
    paths = expression.owned()
    owned = {path: recorder.owned[path] for path in paths}
    probe = Probe(called.name, expression, inputs, moved, owned, called.in_place)
    found = probe.settled()
    if called.name in PRODUCTS:
        made = expression.value(inputs, recorder.owned).numel()
        columns = made * inputs[0].shape[-1] // inputs[0].numel()
        found = replace(found, columns=columns)
    return found


def _refuse_synapses(
    recorder: Recording, called: Called, expression: Expression, inputs: Sequence[Tensor]
) -> None:
    """Refuses what would add up products that nobody counts."""
    if called.name in PRODUCTS:
        if len(inputs) != 2:
            raise UnfitError(
                "multiplies by a matrix that is no layer, whose synapses would go uncounted; use "
                "nn.Linear"
            )
        return
    given = [value.clone() for value in inputs]
    if adds_up_products(lambda: expression.value(given, recorder.owned)):
        raise UnfitError(
            "adds up products that are not counted as synaptic operations; those of Conv1d/2d and "
            "Linear modules are, and those of `a @ b` on two activations"
        )
    if called.name in SCALINGS and called.output.numel() > max(x.numel() for x in inputs):
        raise UnfitError(
            "multiplies every value by several numbers, products that are not counted as synaptic "
            "operations; use Conv1d/2d or Linear modules, or `a @ b` on two activations"
        )


def _distinct(tensors: Any) -> list[Tensor]:
    return list({id(t): t for t in tensors}.values())


def _results(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    found = list(output) if isinstance(output, list | tuple) else []
    if not found or not all(isinstance(each, Tensor) for each in found):
        raise UnfitError("gives something that is no tensor")
    return found


def expression_of(
    recorder: Recording, called: Called, inputs: Sequence[Tensor], pick: int | None
) -> Expression:
    """The call with its tensors replaced by what they stand for."""
    places = {id(tensor): index for index, tensor in enumerate(inputs)}

    def marked(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Input(places[id(value)]) if id(value) in places else recorder.constant(value)
        if isinstance(value, slice):
            return slice(marked(value.start), marked(value.stop), marked(value.step))
        if isinstance(value, tuple | list):
            items = [marked(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return value

    keywords = tuple((key, marked(value)) for key, value in called.kwargs.items())
    return Expression(called.function, tuple(map(marked, called.args)), keywords, pick)


__all__ = ["Called", "Owned", "function_name", "interpret", "operate"]
