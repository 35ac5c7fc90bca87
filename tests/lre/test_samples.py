"""Samples on disk: nothing lost, nothing taken for what it is not."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.boundary.ownership import OwnedError
from spear_gym.lre import LREError, Sample, SampleStore

FINGERPRINT = {"workload": "0123456789abcdef", "scoring": "refit"}

numbers = st.floats(0.0, 2.0)
layers = st.lists(numbers, max_size=4).map(tuple)
good = st.builds(
    Sample,
    counts=st.lists(st.integers(1, 64), min_size=1, max_size=4).map(tuple),
    scored=numbers,
    finetuned=numbers,
    accuracy=st.floats(0.0, 1.0),
    seconds=numbers,
    layers=layers,
    finetuned_layers=layers,
)


def made(*counts: int, finetuned: float = 0.4) -> Sample:
    return Sample(counts, 0.5, finetuned, 0.9, 0.1, (0.2, 0.3), (0.1, 0.3))


def broken(*counts: int) -> Sample:
    nan = math.nan
    return Sample(counts, nan, nan, nan, 0.0, failed="the network's output is not finite")


@given(good)
def test_json_round_trip(sample: Sample) -> None:
    assert Sample.from_json(json.loads(json.dumps(sample.to_json(), allow_nan=False))) == sample


def test_failed_samples_are_plain_json() -> None:
    text = json.dumps(broken(3, 4).to_json(), allow_nan=False)
    again = Sample.from_json(json.loads(text))
    assert again.failed == broken(3, 4).failed
    assert all(map(math.isnan, (again.scored, again.finetuned, again.accuracy)))


def test_samples_of_fits_made_before_layers_were_kept() -> None:
    row = {"counts": [3, 4], "scored": 0.5, "finetuned": 0.4, "accuracy": 0.9, "seconds": 0.1}
    assert Sample.from_json(row) == Sample((3, 4), 0.5, 0.4, 0.9, 0.1)


def test_every_sample_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fit.samples.json"
    store = SampleStore(path, FINGERPRINT)  # and no other process may have it meanwhile
    assert (len(store), path.exists()) == (0, False)
    for number in range(1, 4):
        store.add(made(number, 2), seed=number)
        with SampleStore(path, FINGERPRINT) as again:
            assert list(again) == list(store)
            assert len(again) == number
    assert again.get((2, 2), 2) == made(2, 2)
    assert again.get((2, 2), 3) is None, "another fine-tune"
    assert again.get((9, 9), 2) is None
    store.close()
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else is left"


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Another process that owns the file and has added a sample to it; its number."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            SampleStore(path, FINGERPRINT).add(made(1, 2), seed=0)
            os.write(tell, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        os.read(ready, 1)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(tell)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    with held(path) as other:
        before = path.read_bytes()
        message = rf"the file of samples '{path}' belongs to process {other} on .*; wait for it"
        with pytest.raises(OwnedError, match=message):
            SampleStore(path, FINGERPRINT)
        assert path.read_bytes() == before
    with SampleStore(path, FINGERPRINT) as store:  # the owner was killed
        assert list(store) == [made(1, 2)]
        store.add(made(3, 4), seed=1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with SampleStore(path, FINGERPRINT) as store:
        assert len(store) == 2


def test_one_that_was_taken_over_adds_nothing(tmp_path: Path) -> None:
    """As after a machine that slept."""
    path = tmp_path / "samples.json"
    with SampleStore(path, FINGERPRINT) as store:
        store.add(made(3, 4), seed=1)
        path.with_name("samples.json.owner").unlink()
        with held(path):
            before = path.read_bytes()
            with pytest.raises(OwnedError, match="was taken over by process"):
                store.add(made(5, 6), seed=2)
            assert path.read_bytes() == before


def test_a_plan_under_two_seeds_is_two_samples(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    store = SampleStore(path, FINGERPRINT)
    store.add(made(1, 2), seed=0)
    store.add(made(1, 2, finetuned=0.41), seed=1)
    store.add(made(1, 2, finetuned=0.42), seed=1)
    again = SampleStore(path, FINGERPRINT)
    assert [s.finetuned for s in again] == [0.4, 0.42]


def test_in_memory_only(tmp_path: Path) -> None:
    store = SampleStore(None, FINGERPRINT)
    store.add(made(1), seed=0)
    assert store.get((1,), 0) == made(1)


def written(path: Path) -> dict[str, Any]:
    store = SampleStore(path, FINGERPRINT)
    store.add(made(1, 2), seed=0)
    store.add(broken(3, 4), seed=1)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_every_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    text = json.dumps(written(path))
    for length in range(0, len(text), 29):
        path.write_text(text[:length], encoding="utf-8")
        with pytest.raises(LREError, match=r"samples\.json'.*remove the file to start again"):
            SampleStore(path, FINGERPRINT)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"3", b'"text"', b"{}", b"null"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "samples.json"
    path.write_bytes(content)
    with pytest.raises(LREError, match="cannot read the samples"):
        SampleStore(path, FINGERPRINT)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"format": "spear-gym lre samples 99"},
        {"fingerprint": 3},
        {"fingerprint": None},
        {"fingerprint": ["workload"]},
        {"samples": 3},
        {"samples": [3]},
        {"samples": ["row"]},
        {"samples": [[]]},
        {"samples": [{}]},
        {"samples": [{"seed": 0}]},
        {"samples": [{"seed": "first"}]},
        {"samples": [made(1).to_json()]},
        {"samples": [{"seed": 0, **made(1).to_json(), "counts": 3}]},
        {"samples": [{"seed": 0, **made(1).to_json(), "scored": "much"}]},
        {"samples": [{"seed": 0, **made(1).to_json(), "layers": None}]},
        {"samples": [{"seed": 0, **made(1).to_json(), "speed": 1}]},
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "samples.json"
    text = json.dumps(written(path) | change)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LREError, match=r"cannot read the samples in .*remove the file"):
        SampleStore(path, FINGERPRINT)
    assert path.read_text(encoding="utf-8") == text


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LREError, match="cannot read the samples"):
        SampleStore(tmp_path, FINGERPRINT)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (FINGERPRINT | {"scoring": "plain"}, "scoring"),
        ({"workload": "fedcba9876543210"}, "scoring, workload"),
        (FINGERPRINT | {"precision": "bfloat16"}, "precision"),
    ],
)
def test_samples_of_something_else(tmp_path: Path, other: dict[str, str], named: str) -> None:
    path = tmp_path / "samples.json"
    written(path)
    with pytest.raises(LREError, match=rf"belong to something else \(different: {named}\); choose"):
        SampleStore(path, other)
