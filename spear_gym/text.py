"""Texts that nobody vouches for, as they may be shown: in a terminal, Markdown, CSV or a picture.

HTML and SVG are escaped by the libraries that write them.
"""

from __future__ import annotations

import re
import unicodedata

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
