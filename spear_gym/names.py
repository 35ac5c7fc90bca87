"""Names that a user gives: near matches, and paths such as ``my_module:my_agent``."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from typing import Any


def import_path(path: str) -> Any:
    """What ``module:attribute`` stands for; the working folder is searched too.

    Raises:
        ImportError: when the module cannot be imported.
        AttributeError: when it has no such attribute.
        ValueError: when either name is empty.
    """
    module, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return getattr(importlib.import_module(module), attribute)


def unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    """The message for an unknown name, with near matches."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"unknown {what} '{name}'; {hint}known are: {', '.join(known)}"
