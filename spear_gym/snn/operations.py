"""Stateless functions that are recorded as they are, with their arguments, and replayed.

The tracer knows what some functions do (an addition, a pooling). Any other becomes an
:class:`Operation`: what it is, and how it treats samples and channels, is found by running it
(:mod:`spear_gym.snn.probing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Input(NamedTuple):
    """Stands for an input of an operation in its arguments."""

    place: int


class Owned(NamedTuple):
    """Stands for a parameter or buffer of the network, by its path."""

    path: str


class Extent(NamedTuple):
    """Stands for the size of an axis of the first input."""

    axis: int


@dataclass(frozen=True)
class Expression:
    """A call of a function, its arguments perhaps calls themselves.

    Attributes:
        function: what is called.
        arguments: nested lists, tuples, dictionaries and slices, with :class:`Input`,
            :class:`Owned`, :class:`Extent` and expressions in the place of tensors and sizes.
        keywords: likewise, by name.
        pick: which of several results, ``None`` where there is one.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()
    pick: int | None = None

    def value(self, inputs: Sequence[Tensor], owned: Mapping[str, Tensor]) -> Any:
        """What the call gives for these inputs, with these tensors of the network."""
        arguments = _filled(self.arguments, inputs, owned)
        keywords = {name: _filled(value, inputs, owned) for name, value in self.keywords}
        result = self.function(*arguments, **keywords)
        return result if self.pick is None else result[self.pick]

    def leaves(self) -> Iterator[Any]:
        """Everything in the arguments that holds nothing else."""
        yield from _leaves(self.arguments)
        yield from _leaves([value for _, value in self.keywords])

    def owned(self) -> tuple[str, ...]:
        """Paths of the network's tensors in it, each once."""
        return tuple(dict.fromkeys(leaf.path for leaf in self.leaves() if isinstance(leaf, Owned)))

    def replaced(self, change: Callable[[Any], Any]) -> Expression:
        """The same call with every leaf of the arguments changed."""
        arguments = _mapped(self.arguments, change)
        keywords = tuple((name, _mapped(value, change)) for name, value in self.keywords)
        return Expression(self.function, arguments, keywords, self.pick)

    def describe(self) -> str:
        """What is called, in words that are the same in every process."""
        parts = [_described(value) for value in self.arguments]
        parts += [f"{name}={_described(value)}" for name, value in self.keywords]
        picked = "" if self.pick is None else f"[{self.pick}]"
        return f"{function_name(self.function)}({', '.join(parts)}){picked}"


@dataclass(frozen=True)
class Operation:
    """A stateless function of one or more values of a time step.

    Attributes:
        name: of the function.
        expression: how it is called; its inputs lie as in the network.
        moved: for every input, whether its channels are the last axis there, not the second.
        moved_output: the same of what it gives.
        owned: path of each parameter or buffer that it uses -> the axis that is cut with the
            channels, ``None`` for none.
        in_place: it overwrites its first input.
        follows: channel c of what it gives depends on channel c of what it reads alone.
        columns: for a product of two activations, how many entries each entry of the first
            reaches; 0 for all else.
    """

    name: str
    expression: Expression
    moved: tuple[bool, ...]
    moved_output: bool
    owned: Mapping[str, int | None]
    in_place: bool
    follows: bool
    columns: int = 0

    def __call__(self, values: Sequence[Tensor], owned: Mapping[str, Tensor]) -> Tensor:
        """Runs it.

        Args:
            values: its inputs, ``(batch, channels, ...)``.
            owned: the network's tensors (sliced, perhaps), by path.

        Returns:
            ``(batch, channels, ...)``.
        """
        given = [
            value.movedim(1, -1) if moved else value
            for value, moved in zip(values, self.moved, strict=True)
        ]
        if self.in_place:
            given[0] = given[0].clone()
        result = self.expression.value(given, owned)
        assert isinstance(result, Tensor)
        return result.movedim(-1, 1) if self.moved_output else result

    def describe(self) -> str:
        """What it does besides the values of the network's tensors."""
        layout = "".join("l" if moved else "s" for moved in (*self.moved, self.moved_output))
        return f"{self.expression.describe()} {layout}"


def function_name(function: Any) -> str:
    """A function's name as users know it: ``relu``, ``interpolate``, ``T`` for a property."""
    name = str(getattr(function, "__name__", function))
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(function, "__self__", None), "__name__", name))
    return name.strip("_")


def _filled(value: Any, inputs: Sequence[Tensor], owned: Mapping[str, Tensor]) -> Any:
    def fill(leaf: Any) -> Any:
        if isinstance(leaf, Input):
            return inputs[leaf.place]
        if isinstance(leaf, Owned):
            return owned[leaf.path]
        if isinstance(leaf, Extent):
            return int(inputs[0].shape[leaf.axis])
        if isinstance(leaf, Expression):
            return leaf.value(inputs, owned)
        return leaf

    return _mapped(value, fill, into=False)


_MARKS = (Input, Owned, Extent)


def _mapped(value: Any, change: Callable[[Any], Any], *, into: bool = True) -> Any:
    if into and isinstance(value, Expression):
        return value.replaced(change)
    if isinstance(value, _MARKS):
        return change(value)
    if isinstance(value, slice):
        start, stop, step = (
            _mapped(part, change, into=into) for part in (value.start, value.stop, value.step)
        )
        return slice(start, stop, step)
    if isinstance(value, tuple):
        return tuple(_mapped(item, change, into=into) for item in value)
    if isinstance(value, list):
        return [_mapped(item, change, into=into) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, change, into=into) for key, item in value.items()}
    return change(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Expression):
        yield from value.leaves()
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    elif isinstance(value, list | tuple) and not isinstance(value, _MARKS):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _described(value: Any) -> str:
    if isinstance(value, Expression):
        return value.describe()
    if isinstance(value, Tensor):
        return f"tensor {value.dtype} {value.detach().cpu().tolist()}"
    if isinstance(value, list | tuple) and not isinstance(value, _MARKS):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_described(v)}' for k, v in value.items())}}}"
    return repr(value)
