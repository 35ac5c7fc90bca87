"""Values and texts as messages show them: in one line, and short."""

from __future__ import annotations

from typing import Any


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
