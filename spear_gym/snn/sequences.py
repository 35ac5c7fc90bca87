"""What functions mean that a network calls on its frames, or on recordings over time.

Time may be the first or the second axis, or be folded with the samples into the first; what counts
is which step each entry belongs to.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spear_gym.snn.functions import CONCATS, RESHAPES, SHUFFLES, Called, expression_of, order_of
from spear_gym.snn.graph import Axis, Kind
from spear_gym.snn.meanings import Buffer, Opaque, Series, Step, series_of, time_index
from spear_gym.snn.probing import close

if TYPE_CHECKING:
    from spear_gym.snn.recording import Recording

INDEXING = frozenset({"unbind", "getitem", "select"})
SCALINGS = frozenset({"div", "truediv", "mul", "rmul", "idiv", "itruediv", "imul"})
REPEATS = frozenset({"repeat", "expand", "tile", "broadcast_to", "expand_as"})
ORDERED = frozenset({"softmax", "log_softmax", "sigmoid"})
"""Functions of the outputs that leave their order as it is."""
FOLDS: dict[int, Axis] = {0: "time-batch", 1: "batch-time"}


def interpret_series(recorder: Recording, called: Called) -> bool:
    """Gives the output of a call its meaning, when it is about time."""
    name = called.name
    if name in MAKERS:
        return MAKERS[name](recorder, called)
    if not called.args or not isinstance(called.args[0], Tensor):
        return False
    if id(called.args[0]) in recorder.inserted and _removed(recorder, called):
        return True
    series = recorder.term(called.args[0])
    if not isinstance(series, Series):
        return False
    if name in INDEXING:
        return _index(recorder, called, series)
    if name in SHUFFLES:
        return _shuffle(recorder, called, series)
    if name in {*RESHAPES, "unflatten"}:
        return _reshape(recorder, called, series)
    if name in {"sum", "mean"}:
        return _reduce(recorder, called, series)
    if name in ORDERED:
        return _after(recorder, called, series)
    return name in SCALINGS and _scale(recorder, called, series)


def _index(recorder: Recording, called: Called, series: Series) -> bool:
    source, axis = called.args[0], series.axis
    if called.name == "unbind" and series.scale == 1.0:
        if called.option("dim", 1, 0) % source.dim() != axis:
            return False
        for step, tensor in enumerate(called.output):
            recorder.set(tensor, series.at(step))
        return True
    if called.name == "select":
        position: Any = (called.option("dim", 1), called.option("index", 2))
    else:
        position = time_index(called.args[1])
        if position is None:
            return _slice(recorder, called, series)
    if series.scale != 1.0:  # what is scaled is the output
        return False
    if position is None or not isinstance(axis, int) or position[0] % source.dim() != axis:
        return False
    recorder.set(called.output, series.at(position[1] % source.shape[axis]))
    return True


def _slice(recorder: Recording, called: Called, series: Series) -> bool:
    """``x[t : t + 1]``, a time step that keeps its axis."""
    index, axis = called.args[1], series.axis
    items: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
    if not isinstance(axis, int) or len(items) <= axis or not isinstance(items[axis], slice):
        return False
    rest = [item for place, item in enumerate(items) if place != axis]
    steps = range(called.args[0].shape[axis])[items[axis]]
    if len(steps) != 1 or any(item not in (slice(None), Ellipsis) for item in rest):
        return False
    recorder.insert(called.output, axis, series.at(steps[0]))
    return True


def _removed(recorder: Recording, called: Called) -> bool:
    """Takes an axis of size 1 away again, which stood for one time step."""
    source, axis, step = recorder.inserted[id(called.args[0])]
    shape = [size for place, size in enumerate(source.shape) if place != axis]
    output = called.output
    if called.name not in {"squeeze", "select", "getitem", "flatten", "reshape", "view"}:
        return False
    if not isinstance(output, Tensor) or list(output.shape) != shape:
        return False
    recorder.set(output, step)
    return True


def _shuffle(recorder: Recording, called: Called, series: Series) -> bool:
    """Axes in another order, as long as samples stay before the rest, and the rest in order."""
    if not isinstance(series.axis, int):
        return False
    dims = called.output.dim()
    plain = [axis for axis in range(dims) if axis != series.axis]  # samples, channels, ...
    last = [plain[0], *plain[2:], plain[1]]
    now = last if series.moved else plain
    names: dict[int, int | str] = {series.axis: "time"}
    names |= {axis: now.index(axis) for axis in plain}
    order = [names[axis] for axis in order_of(called)]
    time = order.index("time")
    rest = [axis for axis in order if axis != "time"]
    straight = list(range(dims - 1))
    if rest == straight:
        moved = series.moved
    elif dims > 3 and rest == [0, *straight[2:], 1]:
        moved = not series.moved
    elif dims > 3 and rest == [0, straight[-1], *straight[1:-1]] and series.moved:
        moved = False
    else:
        return False
    recorder.set(called.output, replace(series, axis=time, moved=moved))
    return True


def _reshape(recorder: Recording, called: Called, series: Series) -> bool:
    source, output = called.args[0], called.output
    if output.shape == source.shape:
        recorder.set(output, series)
        return True
    if series.axis in (0, 1):
        whole = source.shape[0] * source.shape[1]
        if output.shape[0] == whole:
            folded = replace(series, axis=FOLDS[series.axis])
            return _flattened(recorder, source.flatten(0, 1), output, folded)
        return output.shape[:2] == source.shape[:2] and _flat_steps(recorder, called, series)
    if not series.folded:
        return False
    samples = source.shape[0] // series.steps
    ahead = (series.steps, samples) if series.axis == "time-batch" else (samples, series.steps)
    if tuple(output.shape[:2]) == ahead and _ends(output, source, 2):
        axis = 0 if series.axis == "time-batch" else 1
        stacked = replace(series, axis=axis)
        return _flattened(recorder, source.unflatten(0, ahead), output, stacked)
    if output.shape[0] == source.shape[0]:
        return _flattened(recorder, source, output, series)
    return False


def _ends(output: Tensor, source: Tensor, start: int) -> bool:
    """Whether the axes from ``start`` on are those of the source behind its first, or flat."""
    rest, own = tuple(output.shape[start:]), tuple(source.shape[1:])
    return rest == own or rest == (prod(own),)


def _flattened(recorder: Recording, before: Tensor, output: Tensor, series: Series) -> bool:
    """Takes a reshape whose axes of time and samples are right: the rest is as it was, or flat."""
    if before.shape == output.shape:
        recorder.set(output, series)
        return True
    lead = 1 if series.folded else 2
    if output.dim() != lead + 1 or series.moved:
        return False
    one = output if series.folded else output.select(int(series.axis or 0), 0)
    step = Step(series.draft, series.port, None)
    name = recorder.function_name("flatten")
    found = recorder.add_node(one, Kind.FLATTEN, name, None, None, [step])
    recorder.set(output, series.of(found))
    return True


def _flat_steps(recorder: Recording, called: Called, series: Series) -> bool:
    return _flattened(recorder, called.args[0], called.output, series)


def _unsqueeze(recorder: Recording, called: Called) -> bool:
    """Remembers that an axis of size 1 was put in: it may be filled up to time."""
    meaning = recorder.meaning(called.args[0])
    dim = int(called.option("dim", 1)) % called.output.dim()
    if isinstance(meaning, Step) and dim in (0, 1):
        recorder.insert(called.output, dim, meaning)
        # A second axis may be the channels' as well.
        return bool(dim == 0)
    return False


def _repeat(recorder: Recording, called: Called) -> bool:
    """A value shown at every time step: repeated along an axis of its own, or over the samples."""
    source, output = called.args[0], called.output
    known = recorder.inserted.get(id(source))
    if known is not None and known[2].step is None:
        _, axis, step = known
        rest = [size for i, size in enumerate(output.shape) if i != axis]
        if rest != [size for i, size in enumerate(source.shape) if i != axis]:
            return False
        steps = int(output.shape[axis])
        series = Series(step.draft, step.port, steps, axis, static=True, moved=step.moved)
        recorder.set(output, series)
        return True
    meaning = recorder.meaning(source)
    if not isinstance(meaning, Step) or meaning.step is not None:
        return False
    ahead = output.dim() - source.dim()
    if ahead == 1 and tuple(output.shape[1:]) == tuple(source.shape):
        axis_: Axis = 0
        steps = int(output.shape[0])
    elif ahead == 0 and called.name == "repeat" and output.shape[1:] == source.shape[1:]:
        axis_, steps = "time-batch", output.shape[0] // source.shape[0]
    else:
        return False
    series = Series(meaning.draft, meaning.port, steps, axis_, static=True, moved=meaning.moved)
    recorder.set(output, series)
    return True


def _stack(recorder: Recording, called: Called) -> bool:
    tensors = called.option("tensors", 0)
    dim = called.option("dim", 1, 0) % called.output.dim()
    return recorder.set_recording(called.output, tensors, dim)


def _concat(recorder: Recording, called: Called) -> bool:
    """Time steps with an axis of their own, put together along it."""
    tensors = called.option("tensors", 0)
    dim = called.option("dim", 1, 0) % called.output.dim()
    parts = [recorder.inserted.get(id(tensor)) for tensor in tensors]
    if any(part is None or part[1] != dim for part in parts):
        return False
    entries = {i: part[2] for i, part in enumerate(parts) if part is not None}
    series = series_of(Buffer(dim, entries))
    if series is None:
        return False
    recorder.set(called.output, series)
    return True


def _reduce(recorder: Recording, called: Called, series: Series) -> bool:
    dim = called.option("dim", 1, called.kwargs.get("axis"))
    dim = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
    if not isinstance(series.axis, int) or not isinstance(dim, int):
        return False
    if dim % called.args[0].dim() != series.axis or called.kwargs.get("keepdim"):
        return False
    scale = series.scale / series.steps if called.name == "mean" else series.scale
    recorder.set(called.output, replace(series, axis=None, scale=scale))
    return True


def _after(recorder: Recording, called: Called, series: Series) -> bool:
    if series.axis is not None:
        return False
    expression = expression_of(recorder, called, [called.args[0]], None)
    alone = expression.value([called.args[0][:1]], recorder.owned)
    if not close(alone, called.output[:1]):  # softmax over the samples
        return False
    recorder.set(called.output, replace(series, after=(*series.after, expression)))
    return True


def _scale(recorder: Recording, called: Called, series: Series) -> bool:
    factor = called.args[1]
    if not isinstance(factor, int | float) or factor <= 0:
        return False
    spikes = recorder.drafts[series.draft].kind is Kind.NEURON
    if series.axis is not None and not spikes:
        return False  # what is not the output of the network is multiplied step by step
    scale = series.scale * factor if "mul" in called.name else series.scale / factor
    recorder.set(called.output, replace(series, scale=scale))
    return True


def assign(recorder: Recording, target: Tensor, index: Any, value: Any) -> None:
    """``target[index] = value``: a recording being filled, or something unknown."""
    meaning = recorder.term(value) if isinstance(value, Tensor) else None
    current = recorder.meaning(target)
    position = time_index(index)
    if meaning is None and not isinstance(current, Step | Series):
        return
    if not isinstance(meaning, Step) or position is None or isinstance(current, Step | Series):
        recorder.set(target, Opaque(f"an assignment by index{recorder.where()}"))
        return
    axis, step = position
    buffer = current if isinstance(current, Buffer) else Buffer(axis)
    buffer.entries[step % target.shape[axis]] = meaning
    recorder.set(target, buffer)


MAKERS = {
    "unsqueeze": _unsqueeze,
    "stack": _stack,
    **dict.fromkeys(REPEATS, _repeat),
    **dict.fromkeys(CONCATS, _concat),
}
"""Functions that make recordings of values of one time step."""
