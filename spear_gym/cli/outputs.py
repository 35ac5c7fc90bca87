"""Output files: one that is there already is replaced only when it is recognisably ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PRETRAINED = {"made by": "spear pretrain"}
"""Note in the weights that are written for the user."""

OWN_PAGE = b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
OWN_STYLE = b"<style>\n:root { color-scheme: light dark; --ink: #1b1f24;"
"""How every report of ours begins, those of earlier versions too."""


def check_output(path: Path, ours: Callable[[Path], bool]) -> None:
    """Refuses, before any work, an output file that cannot be written or is somebody else's.

    Args:
        path: the file.
        ours: whether a file is one that the same command wrote.

    Raises:
        RunError: when it may not be written.
    """
    from spear_gym.agents.folders import RunError
    from spear_gym.boundary.files import check_writable

    try:
        check_writable(path)
        there = path.exists() or path.is_symlink()
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error}") from error
    if there and not ours(path):
        raise _foreign(path)


def check_report(folder: Path, *tables: str, ours: bool = False) -> None:
    """Refuses, before any work, a folder whose files a report would replace.

    Args:
        folder: where a report is to be written.
        tables: names of its files beside the pages and pictures.
        ours: the folder is known to be that of the same command, though its page may be gone.

    Raises:
        RunError: when it may not be written.
    """
    check_output(folder / "report.html", is_report)
    if ours or (folder / "report.html").exists():
        return
    # The page is written first, so what is there without one is not ours.
    for name in ("report.md", "figures", *tables):
        if (folder / name).exists() or (folder / name).is_symlink():
            raise _foreign(folder / name)


def _foreign(path: Path) -> Exception:
    from spear_gym.agents.folders import RunError

    return RunError(
        f"'{path}' exists and is not what this command writes, so it is left alone; give another "
        "--out, or move it away"
    )


def nothing(_: Path) -> bool:
    """No file is ours."""
    return False


def is_report(path: Path) -> bool:
    """Whether this is the page of a report."""
    head = _start(path, 2**16)
    return head.startswith(OWN_PAGE) and OWN_STYLE in head


def with_format(name: str) -> Callable[[Path], bool]:
    """Recognises JSON files by their ``format``."""
    return lambda path: _mapping(path).get("format") == name


def with_entries(*names: str) -> Callable[[Path], bool]:
    """Recognises JSON files by the names of their values."""
    return lambda path: set(names) <= set(_mapping(path))


def is_inspection(path: Path) -> bool:
    """Recognises pictures that `spear inspect` drew."""
    from spear_gym.report.network_picture import SOFTWARE

    start = _start(path, 512)
    return start.startswith(b"\x89PNG") and SOFTWARE.encode() in start


def is_weights(path: Path) -> bool:
    """Recognises weights that `spear pretrain` wrote."""
    from spear_gym.boundary.files import FileError, read_tensor_header

    try:
        return read_tensor_header(path).get("__metadata__") == PRETRAINED
    except FileError:
        return False


def is_settings(environment: str) -> Callable[[Path], bool]:
    """Recognises tuned settings by the environment that they are for."""
    start = f"{environment}:\n".encode()
    return lambda path: _start(path, len(start)) == start


def _start(path: Path, size: int) -> bytes:
    from spear_gym.boundary.files import FileError, read_start

    try:
        return read_start(path, size)
    except FileError:
        return b""


def _mapping(path: Path) -> dict[str, Any]:
    from spear_gym.boundary.files import FileError, read_json

    try:
        found = read_json(path, undefined=True)
    except FileError:
        return {}
    return found if isinstance(found, dict) else {}
