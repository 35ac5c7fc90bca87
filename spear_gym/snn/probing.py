"""How an unknown function treats samples and channels, found by running it.

Nothing is taken from its name. On values of the network's own and on random ones it must give the
same twice, give for some samples alone what it gives for them among others, and, where channels
are to be pruned behind it, give for some channels alone what it gives for them among others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from spear_gym.snn.operations import Expression, Extent, Operation

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Rounding that is allowed between two ways to compute the same value."""

Values = Sequence[Tensor]


DRAWS = (
    "draws at random; draw before the network is called, and give it frames (samples, time, "
    "channel, ...)"
)


class UnfitError(Exception):
    """A function that is no operation of a time step; the message says why."""


@dataclass(frozen=True)
class Probe:
    """A function as it was called, and what it was called with.

    Attributes:
        name: of the function.
        expression: the call.
        inputs: its values as they lie in the network, ``(batch, ...)``.
        moved: for every input, whether its channels are the last axis.
        owned: the network's tensors by path.
        in_place: it overwrites its first input.
    """

    name: str
    expression: Expression
    inputs: Values
    moved: tuple[bool, ...]
    owned: Mapping[str, Tensor]
    in_place: bool

    def settled(self) -> Operation:
        """The operation, its treatment of samples proven, that of channels found out.

        Raises:
            UnfitError: when it is none.
        """
        expression = self._of_samples()
        result = self._run(expression, self.inputs)
        plain = Operation(
            self.name,
            expression,
            self.moved,
            moved_output=all(self.moved) and result.dim() > 2,
            owned=dict.fromkeys(expression.owned()),
            in_place=self.in_place,
            follows=False,
        )
        return self._of_channels(plain, result.dim()) or plain

    def _run(self, expression: Expression, inputs: Values) -> Tensor:
        given = [inputs[0].clone(), *inputs[1:]] if self.in_place else inputs
        result = expression.value(given, self.owned)
        if not isinstance(result, Tensor):
            raise UnfitError("gives no tensor")
        return result

    # ---------------------------------------------------------------- samples

    def _of_samples(self) -> Expression:
        """The call, no longer bound to the number of samples that it was seen with."""
        state = torch.get_rng_state()
        first = self._run(self.expression, self.inputs)
        drawn = not torch.equal(state, torch.get_rng_state())  # two draws can be alike by chance
        for values in _drawn(self.inputs):
            pair = [self._run(self.expression, values) for _ in range(2)]
            if drawn or not _equal(*pair):
                raise UnfitError(DRAWS)
        batch = len(self.inputs[0])
        if first.dim() == 0:
            raise UnfitError("gives one number for all samples")
        if any(len(value) != batch for value in self.inputs) or len(first) != batch:
            raise UnfitError("does not give one value for every sample")
        if first.dim() < 2:
            raise UnfitError("gives a single number for every sample; keep an axis of channels")
        for expression in _with_extents(self.expression, batch, 0):
            if all(_attempt(self._is_per_sample, expression, x) for x in _drawn(self.inputs)):
                return expression
        if any(isinstance(x, Tensor) and x.shape[:1] == (batch,) for x in self.expression.leaves()):
            raise UnfitError(
                f"uses a tensor that was made for {batch} samples, as noise that is drawn in "
                "forward is; draw before the network is called, or make it for one sample"
            )
        raise UnfitError("mixes the samples of a batch")

    def _is_per_sample(self, expression: Expression, inputs: Values) -> bool:
        whole = self._run(expression, inputs)
        batch = len(whole)
        more = [*range(batch), *range(batch)]  # a number of samples may be written into the call
        parts = [range(batch - 1), range(1), range(batch - 1, -1, -1), more]
        return all(
            close(self._run(expression, [x[list(part)] for x in inputs]), whole[list(part)])
            for part in parts
        )

    # ---------------------------------------------------------------- channels

    def _of_channels(self, plain: Operation, dims: int) -> Operation | None:
        """The operation by which channels pass, ``None`` when they do not."""
        given = [_front(x, moved) for x, moved in zip(self.inputs, self.moved, strict=True)]
        channels = given[0].shape[1]
        if channels < 2 or any(x.shape[1] != channels for x in given):
            return None
        axis = self.inputs[0].dim() - 1 if self.moved[0] else 1
        expressions = list(_with_extents(plain.expression, channels, axis))
        axes = [_axes_of(self.owned[path], channels) for path in plain.owned]
        ends = [True, False] if dims > 2 and all(self.moved) else [False]
        if dims > 2 and not any(self.moved):
            ends = [False, True]
        for expression, moved, chosen in product(expressions, ends, product(*axes)):
            tried = replace(
                plain,
                expression=expression,
                moved_output=moved,
                owned=dict(zip(plain.owned, chosen, strict=True)),
                follows=True,
            )
            if all(_attempt(self._is_per_channel, tried, x) for x in _drawn(given)):
                return tried
        return None

    def _is_per_channel(self, tried: Operation, given: Values) -> bool:
        whole = tried(given, self.owned)
        channels = given[0].shape[1]
        if whole.shape[1] != channels:
            return False
        for kept in _subsets(channels):
            cut = {
                path: self.owned[path].index_select(axis, kept)
                for path, axis in tried.owned.items()
                if axis is not None
            }
            part = tried([x[:, kept] for x in given], {**self.owned, **cut})
            if not close(part, whole[:, kept]):
                return False
        return True


def _attempt(test: Callable[[Any, Values], bool], what: Any, values: Values) -> bool:
    """Whether a test passes; a function that refuses the values does not pass it."""
    try:
        return test(what, values)
    except UnfitError:
        raise
    except Exception:  # whatever a function raises that is given other sizes
        return False


def _front(value: Tensor, moved: bool) -> Tensor:
    return value.movedim(-1, 1) if moved else value


def _axes_of(owned: Tensor, channels: int) -> list[int | None]:
    """Axes of a network's tensor that may be the channels, then none."""
    return [*(axis for axis, size in enumerate(owned.shape) if size == channels), None]


def _with_extents(expression: Expression, size: int, axis: int) -> Iterator[Expression]:
    """The call as it is, then with the first, then with every such number taken for the axis."""
    yield expression
    seen = sum(_is_size(leaf, size) for leaf in expression.leaves())
    for most in dict.fromkeys((1, seen)) if seen else ():
        left = most

        def change(leaf: Any) -> Any:
            nonlocal left
            if _is_size(leaf, size) and left:
                left -= 1
                return Extent(axis)
            return leaf

        yield expression.replaced(change)


def _is_size(leaf: Any, size: int) -> bool:
    return isinstance(leaf, int) and not isinstance(leaf, bool) and leaf == size


def _subsets(channels: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(channels)
    for size in sorted({1, channels // 2, channels - 1} - {0}):
        yield torch.randperm(channels, generator=generator)[:size].sort().values


def _drawn(inputs: Values) -> Iterator[list[Tensor]]:
    """The values themselves, and others of the same shapes: signed, binary, large."""
    yield list(inputs)
    generator = torch.Generator().manual_seed(len(inputs))
    for kind in range(3):
        drawn = []
        for value in inputs:
            noise = torch.randn(value.shape, generator=generator).to(value.device)
            ones = (noise > 0.5).to(value)
            drawn.append((noise, ones, 30 * noise)[kind] if value.is_floating_point() else ones)
        yield drawn


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two values are equal but for rounding, and of one shape."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    finite = other[other.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE * scale, equal_nan=True)


__all__ = ["Probe", "UnfitError", "close"]
