"""What a user's function is, as plain text: so that a fingerprint sees it change."""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

DEEPEST = 8
"""How far objects within objects are followed."""


def identity(value: object, depth: int = 0) -> Any:
    """Plain JSON values that are equal for equal functions, settings and tensors.

    Of a function its source and what it holds (defaults, variables around it) are seen, of an
    object its class and attributes; module variables that it reads are not.

    Args:
        value: a function, an object that can be called, or what they hold.
        depth: how deep it lies within another.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if depth > DEEPEST:
        return type(value).__qualname__
    if isinstance(value, torch.Tensor | np.ndarray):
        return _array(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [type(value).__name__, *(identity(each, depth + 1) for each in value)]
    if isinstance(value, dict):
        return [[identity(k, depth + 1), identity(v, depth + 1)] for k, v in value.items()]
    if isinstance(value, partial):
        parts = (value.func, value.args, value.keywords)
        return ["partial", *(identity(each, depth + 1) for each in parts)]
    if isinstance(value, MethodType):
        return [identity(value.__func__, depth + 1), identity(value.__self__, depth + 1)]
    if isinstance(value, FunctionType):
        return _function(value, depth)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return getattr(value, "__qualname__", type(value).__qualname__)
    kind = type(value)
    return [kind.__qualname__, _source(kind), identity(dict(vars(value)), depth + 1)]


def _array(value: torch.Tensor | np.ndarray) -> list[str]:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return [str(array.dtype), str(array.shape), content]


def _function(value: FunctionType, depth: int) -> list[Any]:
    held = [_content(cell) for cell in value.__closure__ or ()]
    parts = (value.__defaults__, value.__kwdefaults__, held)
    code = _source(value) or value.__code__.co_code.hex()
    return [value.__qualname__, code, *(identity(each, depth + 1) for each in parts)]


def _source(value: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        return ""  # typed in, or compiled


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not assigned yet
