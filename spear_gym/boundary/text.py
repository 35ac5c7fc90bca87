"""Names, values and texts that nobody vouches for, as messages, terminals and files show them.

HTML and SVG are escaped by the libraries that write them.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import Any

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what is not seen, but acts: escapes, changes of direction, line ends."""


def printable(text: str, keep: str = "\n") -> str:
    """A text without what a terminal or an XML reader would act upon, which is spelt out.

    Args:
        text: any text.
        keep: characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or unicodedata.category(char) not in _UNSAFE else ascii(char)[1:-1]
        for char in text
    )


def plain_markdown(text: str) -> str:
    r"""A text in Markdown in which nothing is markup.

    Escaped is what could begin something: HTML, links, pictures, code, emphasis, table cells, and
    at the start of a line headings, quotes and lists. ``[0.1, 0.2]`` and ``snake_case`` stay.
    """
    text = " ".join(printable(text, keep="\n\t").split())
    text = re.sub(r"[\\`*<|~]", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    return re.sub(r"^([#>=]|[+-](?=[\s-]|$)|\d+(?=[.)](\s|$)))", _escaped_start, text)


def _escaped_start(found: re.Match[str]) -> str:
    # A number begins a list with the point behind it.
    return f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\"


NUMBERS = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?( \[[+-]?[\d.]+, [+-]?[\d.]+\]| \[–\])?")
"""A number as it stands in our tables, perhaps with an interval."""


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: then it begins with an apostrophe.

    Numbers, as such or written out, and numbers with their intervals stay as they are.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    if not text.lstrip().startswith(("=", "+", "-", "@")) or NUMBERS.fullmatch(text):
        return text
    return f"'{text}"


def shown(value: Any, most: int = 80) -> str:
    """A value as a message names it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a {type(value).__name__} too long to be shown"
    return cut(text, most)


def cut(text: str, most: int = 80) -> str:
    """A text in one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    """The message for an unknown name, with near matches."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"unknown {what} '{name}'; {hint}known are: {', '.join(known)}"
