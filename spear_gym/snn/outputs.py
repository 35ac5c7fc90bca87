"""Which tensor that forward returns is the output, and how it shows the output node over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from spear_gym.snn.decision import Asked, Recorded, Rule
from spear_gym.snn.drafts import Draft
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import CONNECTIONS, Kind, Port
from spear_gym.snn.meanings import Series, Step
from spear_gym.snn.recording import Recording

Place = tuple[int | str, ...]
"""Indices and keys that lead to a part of nested lists, tuples and dictionaries."""

SHOWN = 6
"""Outputs that an error names at most."""


@dataclass(frozen=True, slots=True)
class Output:
    """How forward's output shows a draft.

    Attributes:
        series: the draft over time, and how it is laid out.
        place: where in the output it stands.
        listed: a list of one tensor a time step stands there.
        last: only the last time step is returned.
    """

    series: Series
    place: Place
    listed: bool = False
    last: bool = False

    @property
    def draft(self) -> int:
        """The draft that is the output."""
        return self.series.draft

    @property
    def port(self) -> Port:
        """What of it is returned."""
        return self.series.port

    def taken(self, returned: Any) -> Tensor:
        """The tensor in what forward returned."""
        found = at(returned, self.place)
        return torch.stack(list(found)) if self.listed else cast(Tensor, found)


def as_place(outputs: int | str | Sequence[int | str]) -> Place:
    """The place that a user names.

    Raises:
        TraceError: when it is no index, key, or sequence of them.
    """
    place = tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)
    if not all(type(step) is int or isinstance(step, str) for step in place):
        raise TraceError(
            f"outputs is {outputs!r}; it must be an index, a key, or several of them, e.g. (0, -1)"
        )
    return place


def at(returned: Any, place: Place) -> Any:
    """What stands at a place.

    Raises:
        TraceError: when nothing does.
    """
    found = returned
    for step in place:
        fits = isinstance(found, dict) or (
            isinstance(found, list | tuple) and isinstance(step, int)
        )
        try:
            found = found[step] if fits else None
        except (IndexError, KeyError):
            found = None
        if found is None:
            raise TraceError(
                f"outputs={place} leads nowhere in what forward returns: {_structure(returned)}"
            )
    return found


def find_output(recorder: Recording, returned: Any, num_steps: int, asked: Place | None) -> Output:
    """The output, as a series over all time steps.

    Args:
        recorder: that watched forward.
        returned: what it returned.
        num_steps: time steps.
        asked: where the user says that it stands; the first tensor otherwise.

    Raises:
        TraceError: when it is none, or is not the last layer's and was not asked for.
    """
    start = at(returned, asked) if asked is not None else returned
    place, found = _first(recorder, start, asked or (), num_steps, given=asked is not None)
    output = _output(recorder, found, place, num_steps)
    if asked is None and _is_followed(recorder.drafts, output.draft):
        raise TraceError(_not_the_last(recorder, returned, output, num_steps))
    return output


def _first(
    recorder: Recording, found: Any, place: Place, num_steps: int, *, given: bool
) -> tuple[Place, Any]:
    """The first tensor, or list of one tensor a time step, and its place."""
    while not isinstance(found, Tensor):
        if _steps(recorder, found, num_steps) is not None:
            return place, found
        if not isinstance(found, list | tuple | dict) or not len(found):
            raise TraceError(
                f"forward returns {type(found).__name__}"
                f"{f' at {place}' if place else ''}; return the output tensor first"
            )
        if given:
            raise TraceError(
                f"outputs={place} leads to a {type(found).__name__} of {len(found)}; go on to one "
                "tensor, or to a list of one tensor a time step"
            )
        step: int | str = next(iter(found)) if isinstance(found, dict) else 0
        place, found = (*place, step), found[step]  # type: ignore[index]
    return place, found


def _steps(recorder: Recording, found: Any, num_steps: int) -> Series | None:
    """What a list of one tensor a time step amounts to."""
    if not (isinstance(found, list | tuple) and len(found) == num_steps > 1):
        return None
    if not all(isinstance(each, Tensor) for each in found):
        return None
    meaning = recorder.listed(found)
    return meaning if isinstance(meaning, Series) else None


def _output(recorder: Recording, found: Any, place: Place, num_steps: int) -> Output:
    listed = not isinstance(found, Tensor)
    meaning = _steps(recorder, found, num_steps) if listed else recorder.term(found)
    if isinstance(meaning, Step):
        once = num_steps == 1
        if once or meaning.step == num_steps - 1:
            shown = Series(meaning.draft, meaning.port, num_steps, None)
            return Output(shown, place, last=not once)
        raise TraceError(
            f"forward returns only step {meaning.step} of '{recorder.drafts[meaning.draft].name}', "
            f"of {num_steps}; return the recording over all time steps (torch.stack), its sum or "
            "its mean, or the last step"
        )
    if isinstance(meaning, Series) and meaning.steps == num_steps:
        return Output(meaning, place, listed)
    reason = getattr(meaning, "reason", "something that is no recording over time steps")
    which = f"output at {place}" if any(place) else "first output"
    raise TraceError(
        f"forward's {which} comes from {reason}; return the output neuron's spikes or membrane, or "
        "the output layer's current, stacked, summed or averaged over time"
    )


def _is_followed(drafts: Sequence[Draft], index: int) -> bool:
    """Whether a connection reads a draft, directly or through other nodes."""
    reached = {index}
    for later, draft in enumerate(drafts):
        if reached.intersection(draft.inputs):
            if draft.kind in CONNECTIONS:
                return True
            reached.add(later)
    return False


def _not_the_last(recorder: Recording, returned: Any, output: Output, num_steps: int) -> str:
    others = []
    for place, found in _places(recorder, returned, (), num_steps):
        try:
            other = _output(recorder, found, place, num_steps)
        except TraceError:
            continue
        if not _is_followed(recorder.drafts, other.draft):
            others.append(f"outputs={place} ({_described(recorder, other)})")
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return (
        f"forward's first output, {_described(recorder, output)}, is read by layers behind it, so "
        "it is hardly the class output; return that first, or say where it stands: "
        + (f"{', '.join(others[:SHOWN])}{more}" if others else "no other output can be read")
        + f"; outputs={output.place} takes the first all the same"
    )


def _described(recorder: Recording, output: Output) -> str:
    draft = recorder.drafts[output.draft]
    return f"the {output.port} of '{draft.name}', {' x '.join(map(str, draft.shape))} wide"


def _places(
    recorder: Recording, found: Any, place: Place, num_steps: int
) -> Iterator[tuple[Place, Any]]:
    """All tensors, and lists of one tensor a time step, with their places."""
    if isinstance(found, Tensor) or _steps(recorder, found, num_steps) is not None:
        yield place, found
    elif isinstance(found, list | tuple):
        for index, each in enumerate(found):
            yield from _places(recorder, each, (*place, index), num_steps)
    elif isinstance(found, dict):
        for key, each in found.items():
            yield from _places(recorder, each, (*place, key), num_steps)


def _structure(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f"one tensor of shape {tuple(returned.shape)}, outputs=()"
    if isinstance(returned, dict):
        return f"a dictionary with the keys {', '.join(map(repr, returned))}"
    if isinstance(returned, list | tuple):
        inner = ", ".join(_structure(each) for each in returned[:SHOWN])
        return f"a {type(returned).__name__} of {len(returned)} ({inner})"
    return type(returned).__name__


def what_is_recorded(kind: Kind, output: Output, asked: Asked) -> tuple[Recorded, Rule]:
    """What is recorded of the output node, and the rule that decides by it.

    Args:
        kind: of the output.
        output: what the network returns.
        asked: what the user's readout asks for.

    Raises:
        TraceError: when the two do not fit.
    """
    if kind is Kind.NEURON and output.port not in ("spikes", "membrane"):
        raise TraceError(
            f"the network returns a neuron's state {output.port}; return its spikes or its "
            "membrane potential, or the output layer's current"
        )
    inferred = cast(Recorded, output.port) if kind is Kind.NEURON else "current"
    recorded = inferred if asked.recorded is None else asked.recorded
    if recorded != "current" and kind is not Kind.NEURON:
        what = f"readout '{recorded}' needs an output neuron"
        if asked.rule == "latency":
            what = "readout 'latency' needs an output neuron's spikes"
        raise TraceError(
            f"{what}, but the network returns the current of a {kind} layer; use readout='current'"
        )
    if asked.rule is not None:
        return recorded, asked.rule
    return recorded, "last" if output.last else "total"
