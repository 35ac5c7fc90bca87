"""Files are whole or absent, and Ctrl-C waits for a record that is being written."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.boundary import files
from spear_gym.boundary.files import (
    FileError,
    parse_json,
    read_json,
    read_packed_json,
    read_whole,
    uninterrupted,
    write_bytes,
)


def test_interrupt_waits_for_the_block() -> None:
    steps = []

    def interrupted_work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("finished")

    with pytest.raises(KeyboardInterrupt):
        interrupted_work()
    assert steps == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_error_in_the_block_restores_the_handler() -> None:
    with pytest.raises(ValueError, match="mine"), uninterrupted():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert path.read_bytes() == b"old"


# Reading what nobody vouches for.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
def test_what_python_writes_is_read(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text.encode("utf-8", "surrogatepass"), "it") == value


@given(st.binary(max_size=40) | st.text('[]{}:,"\\\\0e9NaIu-', max_size=40).map(str.encode))
def test_anything_else_is_one_error(content: bytes) -> None:
    try:
        value = parse_json(content, "it")
    except FileError:
        return
    assert value == json.loads(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested 100000 levels deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested 33 levels deep; it may be 32"),
        (b"9" * 5000, "an integer of 5000 digits"),
        (b"-1" + b"0" * 18, "an integer of 19 digits"),
        (b"1" + b"0" * 400 + b".5", "an integer of 401 digits"),
        (b"[1e999]", "1e999, which is too large"),
        (b"[-1e400]", "-1e400, which is too large"),
        (b"NaN", "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'"\\ud800"', "text that is no Unicode"),
        (b'"\xff"', "text that is no Unicode"),
        (b"\xef\xbb\xbf1", "BOM"),
        (b"", "damaged or no JSON"),
        (b'["a\x00b"]', "Invalid control character"),
        (b'"' + b'\\"' * 100_000, "Unterminated string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_json(content: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message):
        parse_json(content, "it")


def test_brackets_in_texts_are_no_levels() -> None:
    text = json.dumps(["[" * 99, '\\"[' * 99, {"{" * 99: "9" * 99}])
    assert parse_json(text.encode(), "it") == json.loads(text)
    assert parse_json(b"[0.00012345678901234567890]", "it") == [0.00012345678901234567]


def test_too_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_VALUES", 10)
    assert parse_json(b"[1,2,3,4,5,6,7,8,9,10]", "it")[-1] == 10
    for content in (b"[1,2,3,4,5,6,7,8,9,10,11]", b"[" + b"{}," * 9 + b"1]", b'"' * 41):
        with pytest.raises(FileError, match="more than 10 values"):
            parse_json(content, "it")


def test_undefined_numbers_where_they_may_be() -> None:
    (value,) = parse_json(b"[NaN]", "it", undefined=True)
    assert value != value
    with pytest.raises(FileError, match="Infinity"):
        parse_json(b"[Infinity]", "it", undefined=True)


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(FileError, match="is no ordinary file"):
            read_whole(path, 10)
    for path in (tmp_path, tmp_path / "none", Path("a\0b"), Path("x" * 5000)):
        with pytest.raises(FileError, match="cannot read"):
            read_json(path)
    (tmp_path / "link").symlink_to(tmp_path / "file.json")
    (tmp_path / "file.json").write_bytes(b"[1]")
    assert read_json(tmp_path / "link") == [1]


def test_sizes_are_looked_at_first(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(FileError, match=r"larger than the 16 MiB"):
        read_json(path)
    with pytest.raises(FileError, match=r"larger than the 256 MiB"):
        read_packed_json(path)


def test_packed_files(tmp_path: Path) -> None:
    path, packed = tmp_path / "a.gz", gzip.compress(b"[1, 2]")
    path.write_bytes(packed)
    assert read_packed_json(path) == [1, 2]
    damaged = {
        packed[:-1]: "cut off",
        packed + b"x": "goes on behind its end",
        packed + packed: "goes on behind its end",
        b"": "cut off",
        b"[1, 2]": "no gzip file",
        packed[:12] + b"\xff" + packed[13:]: "damaged",
        gzip.compress(b"[1e999]"): "too large",
        gzip.compress(bytes(2**21)): "unpacks to more than the 1 MiB",
    }
    for content, message in damaged.items():
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            read_packed_json(path, limit=2**20)
