"""Values of a JSON mapping that nobody vouches for, each asked for by its type and range."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from spear_gym.boundary.files import FileError
from spear_gym.boundary.text import printable

LONGEST = 1000
"""Characters of a text, unless it is said otherwise."""

_Read = TypeVar("_Read")


class Fields:
    """The values of a mapping.

    Args:
        data: what was read.
        name: what it is called in messages, such as a file's name.

    Attributes:
        data: the mapping itself.
        name: as given.

    Raises:
        FileError: when it is no mapping; from the methods, when a value is missing, of another
            type, or out of range.
    """

    def __init__(self, data: Any, name: str) -> None:
        if not isinstance(data, dict):
            raise FileError(f"{name} is damaged: it holds {shown(data)}, not names with values")
        self.data: dict[str, Any] = data
        self.name = name

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def only(self, known: Collection[str]) -> None:
        """Refuses names that are not known."""
        for key in self.data:
            if key not in known:
                raise FileError(f"{self.name} is damaged: it has an unknown entry {shown(key)}")

    def value(self, key: str) -> Any:
        """Whatever stands there."""
        if key not in self.data:
            raise FileError(f"{self.name} is damaged: '{key}' is missing")
        return self.data[key]

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in [low, high]."""
        value = self.value(key)
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise self.wrong(key, f"a number{_between(low, high)}")
        return float(value)

    def whole(self, key: str, low: float = -math.inf, high: float = math.inf) -> int:
        """An integer in [low, high]."""
        value = self.value(key)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"a whole number{_between(low, high)}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.value(key)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, longest: int = LONGEST, *, lines: bool = False) -> str:
        """A text of limited length without control characters, of one line or of more."""
        value = self.value(key)
        if not _is_text(value, longest, lines=lines):
            raise self.wrong(key, f"a printable text of at most {longest} characters")
        return str(value)

    def choice(self, key: str, known: Collection[str]) -> str:
        """One of some texts."""
        value = self.value(key)
        if not isinstance(value, str) or value not in known:
            raise self.wrong(key, f"one of {', '.join(known)}")
        return value

    def items(self, key: str, length: int | None = None) -> list[Any]:
        """A list, of a given length if any."""
        value = self.value(key)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            raise self.wrong(key, "a list" if length is None else f"a list of {length} values")
        return list(value)

    def numbers(
        self,
        key: str,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        length: int | None = None,
    ) -> tuple[float, ...]:
        """A list of finite numbers in [low, high]."""
        found = self.items(key, length)
        if not set(map(type, found)) <= {int, float} or not all(map(math.isfinite, found)):
            raise self.wrong(key, "a list of numbers")
        if found and not (low <= min(found) and max(found) <= high):
            raise self.wrong(key, f"a list of numbers{_between(low, high)}")
        return tuple(map(float, found))

    def wholes(
        self,
        key: str,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        length: int | None = None,
    ) -> tuple[int, ...]:
        """A list of integers in [low, high]."""
        found = self.items(key, length)
        whole = set(map(type, found)) <= {int}
        if not whole or (found and not (low <= min(found) and max(found) <= high)):
            raise self.wrong(key, f"a list of whole numbers{_between(low, high)}")
        return tuple(found)

    def texts(self, key: str, longest: int = LONGEST) -> tuple[str, ...]:
        """A list of texts of limited length."""
        found = self.items(key)
        if not all(_is_text(value, longest) for value in found):
            raise self.wrong(key, f"a list of printable texts of at most {longest} characters")
        return tuple(found)

    def mapping(self, key: str) -> Fields:
        """A mapping in the mapping."""
        return Fields(self.value(key), f"{self.name}, '{key}'")

    def by_name(self, key: str, read: Callable[[Fields, str], _Read]) -> _Read | dict[str, _Read]:
        """A value, or a mapping from names to such values."""
        if not isinstance(self.value(key), dict):
            return read(self, key)
        inner = self.mapping(key)
        return {name: read(inner, name) for name in inner.names()}

    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self.data)

    def text_of_each(self, longest: int = LONGEST, *, lines: bool = False) -> dict[str, str]:
        """Texts by name, see :meth:`text`."""
        for key in self.data:
            if not _is_text(key, LONGEST):
                raise FileError(f"{self.name} is damaged: {shown(key)} cannot be a name")
        return {key: self.text(key, longest, lines=lines) for key in self.data}

    def wrong(self, key: str, wanted: str) -> FileError:
        """The error for a value that is not what it must be."""
        found = shown(self.data[key])
        return FileError(f"{self.name} is damaged: '{key}' is {found}; it must be {wanted}")


def shown(value: Any) -> str:
    """A value as it may stand in a message: short, on one line."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: Any, longest: int, *, lines: bool = False) -> bool:
    if not isinstance(value, str) or len(value) > longest:
        return False
    return value.isprintable() or (lines and printable(value, keep="\n\t\r") == value)


def _between(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f" of at least {low:g}"
    return f" in {low:g} to {high:g}"
