"""Numbers that a network takes out of its tensors: they may be looked at, and no more."""

from __future__ import annotations

from typing import Any, NoReturn

from spear_gym.snn.errors import TraceError


class Seen(float):
    """A tensor's value as a number, which may be kept or printed, but decides nothing."""

    where: str

    def __new__(cls, value: float, where: str) -> Seen:
        """The number, and the module that took it."""
        seen = super().__new__(cls, value)
        seen.where = where
        return seen

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        """A copy is a number like any other."""
        return float, (float.__add__(self, 0.0),)

    def __copy__(self) -> float:
        return float.__add__(self, 0.0)

    def __deepcopy__(self, _: object) -> float:
        return float.__add__(self, 0.0)

    def _refuse(self, *_: object) -> NoReturn:
        raise TraceError(
            f"forward{self.where} takes a decision on the values of a tensor (`tensor.item()`); a "
            "graph that depends on the data cannot be traced: decide on shapes or settings"
        )

    def _seen(self, operator: str, *others: Any) -> Seen:
        return Seen(getattr(float, operator)(self, *others), self.where)

    def __add__(self, other: Any) -> Seen:
        return self._seen("__add__", other)

    def __radd__(self, other: Any) -> Seen:
        return self._seen("__radd__", other)

    def __sub__(self, other: Any) -> Seen:
        return self._seen("__sub__", other)

    def __rsub__(self, other: Any) -> Seen:
        return self._seen("__rsub__", other)

    def __mul__(self, other: Any) -> Seen:
        return self._seen("__mul__", other)

    def __rmul__(self, other: Any) -> Seen:
        return self._seen("__rmul__", other)

    def __truediv__(self, other: Any) -> Seen:
        return self._seen("__truediv__", other)

    def __neg__(self) -> Seen:
        return self._seen("__neg__")

    def __abs__(self) -> Seen:
        return self._seen("__abs__")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __bool__ = __int__ = __index__ = __round__ = __floor__ = __ceil__ = _refuse
    __hash__ = float.__hash__


def mentions_seen(value: Any) -> bool:
    """Whether nested lists, tuples, dictionaries and slices hold such a number."""
    if isinstance(value, Seen):
        return True
    if isinstance(value, dict):
        return any(map(mentions_seen, value.values()))
    return isinstance(value, list | tuple) and any(map(mentions_seen, value))


__all__ = ["Seen", "mentions_seen"]
