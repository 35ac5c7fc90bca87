"""Reading files that nobody vouches for, and writing files so that a reader never sees half of one.

Whatever is read may come from a stranger: sizes are looked at before anything is read, and nothing
that a file says is believed to be small, shallow or finite.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import signal
import stat
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

MIB = 2**20

JSON_LIMIT = 16 * MIB
"""Bytes of a JSON file. Those of long searches on deep networks have some hundred KiB."""

ARCHIVE_LIMIT = 256 * MIB
"""Bytes of a compressed JSON file, packed or unpacked; 500 searches of 200 plans have 9 MiB."""

HEADER_LIMIT = 4 * MIB
"""Bytes in which a safetensors file names its tensors: some hundred each."""

MOST_VALUES = 20_000_000
"""Values in a JSON file: an empty list takes two bytes on disk and some sixty in memory."""

DEEPEST = 32
"""Levels of nested lists and mappings in a JSON file; ours have fewer than ten."""

MOST_DIGITS = 18
"""Digits of an integer: more do not fit into 64 bits."""

TEMPORARY = "spear-gym-tmp"
"""Ending of files that are being written."""

_TEMPORARY = re.compile(
    rf"\.(?P<name>.+)\.(?P<host>[0-9A-Za-z-]+)\.(?P<pid>[0-9]{{1,9}})\.[0-9a-f]{{8}}\.{TEMPORARY}"
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)', re.DOTALL)
_LONG_INTEGER = re.compile(rb"(?<![.0-9])[0-9]{%d,}" % (MOST_DIGITS + 1))
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


class FileError(ValueError):
    """A file cannot be read, or is not what it should be."""


@contextmanager
def raised_as(kind: type[Exception]) -> Iterator[None]:
    """Turns a :class:`FileError` into a caller's own kind of error."""
    try:
        yield
    except FileError as error:
        raise kind(str(error)) from error


def read_whole(path: Path, limit: int) -> bytes:
    """The content of an ordinary file.

    Pipes and devices are refused, for they may never end, or have an effect.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        FileError: when it cannot be read, is no ordinary file, or is larger.
    """
    with _ordinary(path) as file:
        content = file.read(limit + 1) if os.fstat(file.fileno()).st_size <= limit else None
    if content is None or len(content) > limit:
        raise FileError(f"'{path}' is larger than the {_size(limit)} that such a file may have")
    return content


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of an ordinary file, of whatever size.

    Raises:
        FileError: when it cannot be read, or is no ordinary file.
    """
    with _ordinary(path) as file:
        return file.read(size)


def sha256(path: Path) -> str:
    """The SHA-256 of an ordinary file.

    Raises:
        FileError: when it cannot be read, or is no ordinary file.
    """
    with _ordinary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _ordinary(path: Path) -> Iterator[BufferedReader]:
    """Opens a file; pipes and devices are refused."""
    # Opening a pipe would wait for somebody to write to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a number
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileError(f"'{path}' is no ordinary file")
            yield file
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read '{path}': {_reason(error)}") from error


def read_json(path: Path, *, limit: int = JSON_LIMIT, undefined: bool = False) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        limit: bytes that it may have.
        undefined: allow ``NaN``, which no standard JSON has and Python writes.

    Raises:
        FileError: when it cannot be read, is too large, or is no JSON that we would write; see
            :func:`parse_json`.
    """
    return parse_json(read_whole(path, limit), f"'{path}'", undefined=undefined)


def read_packed_json(path: Path, *, limit: int = ARCHIVE_LIMIT) -> Any:
    """Reads a gzip-compressed JSON file.

    Args:
        path: the file.
        limit: bytes that it may have, packed and unpacked.

    Raises:
        FileError: as :func:`read_json`; when it is no whole gzip file, or grows beyond the limit.
    """
    packed = read_whole(path, limit)
    unpacking = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = unpacking.decompress(packed, limit + 1)
    except zlib.error as error:
        raise FileError(f"'{path}' is no gzip file, or is damaged: {error}") from error
    if len(content) > limit:
        raise FileError(f"'{path}' unpacks to more than the {_size(limit)} that it may have")
    if not unpacking.eof or unpacking.unused_data:
        raise FileError(f"'{path}' is damaged: it is cut off, or goes on behind its end")
    return parse_json(content, f"'{path}'")


def read_tensor_header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, which are not read.

    The form is https://huggingface.co/docs/safetensors: eight bytes of length, little-endian, then
    so many of JSON, then the tensors.

    Raises:
        FileError: when it cannot be read, or does not begin so.
    """
    with _ordinary(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise FileError(f"'{path}' is no safetensors file: its header has {length:,} bytes")
        content = file.read(length)
    header = parse_json(content, f"the header of '{path}'")
    if not isinstance(header, dict):
        raise FileError(f"'{path}' is no safetensors file: its header is no mapping")
    return header


def parse_tensors(content: bytes, expected: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Tensors of the safetensors format that must be like others.

    Args:
        content: of the file, not larger than :func:`largest_tensor_file`.
        expected: tensors of the same names, shapes and types.
        name: what it is called in messages.

    Raises:
        FileError: when it is damaged, or a tensor is missing, unknown, or not like the expected
            one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        reason = str(error)[:200]
        raise FileError(f"{name} is no safetensors file, or is damaged: {reason}") from error
    for key in sorted({*found, *expected}):
        wanted, there = (_form(tensors.get(key)) for tensors in (expected, found))
        if wanted != there:
            raise FileError(f"{name} has {there} for {key[:80]!a}, not {wanted}")
    return found


def largest_tensor_file(expected: Mapping[str, Tensor]) -> int:
    """Bytes that a safetensors file of tensors like these may have."""
    return 8 + HEADER_LIMIT + sum(tensor.nbytes for tensor in expected.values())


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")


def parse_json(content: bytes, name: str, *, undefined: bool = False) -> Any:
    """Reads JSON that nobody vouches for.

    Args:
        content: UTF-8.
        name: what it is called in messages.
        undefined: allow ``NaN``.

    Raises:
        FileError: when it is no JSON; is nested deeply, has too many values, or integers or other
            numbers that do not fit into 64 bits; or holds ``NaN``, infinities or text that is no
            Unicode.
    """
    _check_form(content, name)

    def constant(text: str) -> float:
        if text == "NaN" and undefined:
            return float("nan")
        raise FileError(f"{name} holds {text}, which is no number")

    def decimal(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise FileError(f"{name} holds {text}, which is too large for a number")
        return value

    try:
        read = json.loads(content.decode("utf-8"), parse_constant=constant, parse_float=decimal)
        if rb"\u" in content:  # half of a pair of surrogates cannot be written anywhere
            json.dumps(read, ensure_ascii=False).encode("utf-8")
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is damaged or no JSON: {_reason(error)}") from error
    return read


def _check_form(content: bytes, name: str) -> None:
    """Refuses what would cost much to read, before it is.

    Raises:
        FileError: for too many values, levels or digits.
    """
    if content.count(b'"') > 4 * MOST_VALUES:  # a key and a text for each
        raise FileError(f"{name} holds more than {MOST_VALUES:,} values")
    bare = _STRING.sub(b"", content)
    if sum(map(bare.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise FileError(f"{name} holds more than {MOST_VALUES:,} values")
    depth = _depth(bare)
    if depth > DEEPEST:
        raise FileError(f"{name} is nested {depth} levels deep; it may be {DEEPEST}")
    # The digits of fractions may be many, so this first look only saves time.
    suspect = b"0" * (MOST_DIGITS + 1) in bare.translate(_ZEROS)
    if suspect and (found := _LONG_INTEGER.search(bare)) is not None:
        raise FileError(
            f"{name} holds an integer of {len(found[0])} digits; it may have {MOST_DIGITS}"
        )


def _depth(bare: bytes) -> int:
    """Levels of nesting of a JSON text without its strings, up to where it ceases to be JSON."""
    steps = np.frombuffer(bare.translate(None, _OTHERS)[: 2 * MOST_VALUES + 1], np.uint8)
    opening = (steps == ord("[")) | (steps == ord("{"))
    return int(np.cumsum(np.where(opening, 1, -1), dtype=np.int32).max(initial=0))


def _reason(error: Exception) -> str:
    """What an error says of itself, without the file's name."""
    if isinstance(error, UnicodeError):
        return "it holds text that is no Unicode"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _size(limit: int) -> str:
    return f"{limit / MIB:.3g} MiB"


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


def file_name(text: str) -> str:
    """A text as the name of one file or folder, which leads nowhere else.

    Raises:
        FileError: when no name can be made of it.
    """
    name = re.sub(r"[:/\\\x00-\x1f\x7f]", " ", text)
    # A file system takes 255 bytes, and endings are to come.
    if not name.strip(" .") or len(name.encode("utf-8", "replace")) > 200 or not _is_unicode(name):
        raise FileError(f"{text[:60]!a} cannot be the name of a file; choose another")
    return name


def number_in_name(value: float) -> str:
    """A number as it stands in names of files: short, and another for every other number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a pair of surrogates."""
    return not re.search(r"[\ud800-\udfff]", text)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: to a temporary neighbour, then renamed into place.

    The file gets the permissions that the user's umask leaves. What a killed process left of an
    earlier write to the same file is cleared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_dead(path)
    temporary = _neighbour(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o666), "wb") as file:  # noqa: PTH123 - a number
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _neighbour(path: Path) -> Path:
    """A new name beside a file that says what it is for, and which process made it."""
    host = re.sub(r"[^0-9A-Za-z-]", "-", platform.node())[:32] or "unknown"
    token = secrets.token_hex(4)
    return path.with_name(f".{path.name[:120]}.{host}.{os.getpid()}.{token}.{TEMPORARY}")


def temporary_for(name: str) -> str | None:
    """The file that a temporary file of ours was to become, ``None`` for any other name.

    Args:
        name: of the temporary file.
    """
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else found["name"]


def clear_dead(path: Path) -> None:
    """Removes what processes of this host that have ended left of writes to a file."""
    host = _neighbour(path).name.split(".")[-4]
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or found["name"] != path.name[:120] or found["host"] != host:
                continue
            if not _is_running(int(found["pid"])):
                Path(entry.path).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # a signal 0 would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path, content: str) -> None:
    """Writes a text file atomically, UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def json_bytes(content: Any) -> bytes:
    """JSON, indented, floats at full precision."""
    return (json.dumps(content, indent=1) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically."""
    write_bytes(path, json_bytes(content))


def tensor_bytes(tensors: Mapping[str, Tensor], note: dict[str, str] | None = None) -> bytes:
    """Tensors in the safetensors format; equal tensors and notes give equal bytes.

    One that stands under several names, as V of snnTorch's recurrent neurons, is written for each.
    """
    from safetensors.torch import save

    own: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        own[name] = value.clone() if place in places else value
        places.add(place)
    return save(own, note)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], note: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically, with a note that says what it is."""
    write_bytes(path, tensor_bytes(tensors, note))
