"""What a user gives by its path, such as ``my_module:my_agent``."""

from __future__ import annotations

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
