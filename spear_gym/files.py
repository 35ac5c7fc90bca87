"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


def check_writable(path: Path) -> None:
    """Checks, before any work, that a file can be written; makes nothing.

    Raises:
        OSError: when it is a folder, or its own folder can neither be written nor made.
    """
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"'{parent}' is no folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"'{parent}' is not writable")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block is done, so that no record is left half written.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending:
        raise KeyboardInterrupt


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: to a temporary neighbour, then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Writes a text file atomically, UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically, indented, floats at full precision."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file atomically."""
    from safetensors.torch import save

    write_bytes(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
