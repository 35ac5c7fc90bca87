"""Workers read one copy of large tensors, and none of them can spoil it for the others."""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import look, mapping_of, run_net, scribble, total
from torch import nn

from spear_gym.workers import shared_memory
from spear_gym.workers.shared_memory import SMALLEST, CopiedFile, InheritedFile, Parcel, packed
from spear_gym.workers.tasks import run_tasks

LARGE = SMALLEST // 4
"""Elements of float32 from which memory is shared."""

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=["inherited", "copied"])
def sent(request: pytest.FixtureRequest) -> Any:
    """What packing and unpacking makes of an object, here and where files are not inherited."""

    def send(value: Any) -> Any:
        with packed(value) as parcel:
            assert isinstance(parcel.file, InheritedFile)
            if request.param == "copied":
                return Parcel(CopiedFile(parcel.file.map()[:]), parcel.pickled).unpack()
            return parcel.unpack()

    return send


def open_files() -> list[str]:
    """Open files of this process that have no name (any more)."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            links.append(str(entry.readlink()))
    return sorted(link for link in links if link.startswith("/") and link.endswith("(deleted)"))


@needs_proc
@pytest.mark.slow
def test_workers_map_one_copy(tmp_path: Path) -> None:
    tensor = torch.rand(16 * 2**20)  # 64 MiB
    results = [r for _, r in run_tasks(look, [0, 1], context=(tensor, tmp_path), workers=2)]
    (one, sum_one, first), (other, sum_other, second) = results
    assert len({one, other, os.getpid()}) == 3
    assert sum_one == sum_other == float(tensor.sum(dtype=torch.float64))
    assert first.inode == second.inode
    for mapping in (first, second):
        # All pages are there, and hardly any is the worker's own: those would be anonymous.
        assert mapping.present >= 64 * 1024
        assert mapping.copied < 64


@needs_proc
def test_own_memory_is_told_from_shared() -> None:
    mine = mapping_of(torch.rand(16 * 2**20))
    assert mine.inode == "00:00 0"
    assert mine.copied >= 64 * 1024


@pytest.mark.slow
def test_writing_changes_nothing_for_others(tmp_path: Path) -> None:
    tensor = torch.ones(4 * LARGE)
    results = dict(run_tasks(scribble, [0, 1], context=(tensor, tmp_path), workers=2))
    assert results == {0: (1.0, 0.0), 1: (1.0, 1.0)}
    assert float(tensor.mean()) == 1.0


@pytest.mark.slow
def test_networks_arrive_with_parameters() -> None:
    torch.manual_seed(0)
    net = nn.Linear(LARGE, 2)
    expected = float(net(torch.ones(1, LARGE)).sum().detach())
    for _, (is_parameter, changed, loss) in run_tasks(run_net, [0, 1], context=net, workers=2):
        assert is_parameter
        assert changed
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def before() -> list[str]:
    return open_files()


def closed_early(running: Generator[Any, None, None]) -> None:
    running.close()


def interrupted(running: Generator[Any, None, None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)


def finished(running: Generator[Any, None, None]) -> None:
    assert len(list(running)) == 2


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("end", [finished, closed_early, interrupted])
def test_no_file_is_left(end: Any, before: list[str]) -> None:
    running = run_tasks(total, [1, 2, 3], context=torch.ones(LARGE), workers=2)
    next(running)
    assert len(open_files()) == len(before) + 1
    end(running)
    assert open_files() == before


@needs_proc
@pytest.mark.slow
def test_no_file_is_left_after_an_error(before: list[str]) -> None:
    with pytest.raises(ValueError, match="item -1 is negative"):
        list(run_tasks(total, [-1, -1], context=torch.ones(LARGE), workers=2))
    assert open_files() == before


@needs_proc
@pytest.mark.parametrize("why", ["none", "full"])
def test_the_temporary_folder_serves_where_memory_does_not(
    why: str, before: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if why == "none":
        monkeypatch.setattr(shared_memory, "MEMORY_FOLDER", tmp_path / "missing")
    else:
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    tensor = torch.rand(LARGE)
    with packed(tensor) as parcel:
        (name,) = set(open_files()) - set(before)
        assert name.startswith(str(tmp_path))
        assert list(tmp_path.iterdir()) == []
        assert parcel.unpack().equal(tensor)


def test_what_was_one_object_stays_one(sent: Any) -> None:
    tensor = torch.rand(LARGE)
    got = sent({"a": tensor, "b": [tensor, tensor.view(2, -1)], "size": tensor.nbytes})
    assert got["a"] is got["b"][0]
    assert got["a"].equal(tensor)
    got["a"][0] = 7.0
    assert got["b"][1][0, 0] == 7.0  # views go on sharing memory
    assert tensor[0] != 7.0
    twin = copy.deepcopy(got)
    assert twin["b"][1].data_ptr() == twin["a"].data_ptr() != got["a"].data_ptr()


def test_tied_weights_stay_tied(sent: Any) -> None:
    net = nn.ModuleDict({"one": nn.Linear(256, 256), "two": nn.Linear(256, 256)})
    net["two"].weight = net["one"].weight
    got, weight, data = sent((net, net["one"].weight, net["one"].weight.data))
    assert got["one"].weight is got["two"].weight is weight
    assert isinstance(weight, nn.Parameter)
    assert weight.requires_grad
    assert data.data_ptr() == weight.data_ptr()
    assert data.equal(net["one"].weight)


def test_memory_is_written_once() -> None:
    tensor = torch.rand(4 * LARGE)
    parts = [tensor, tensor.detach(), tensor[LARGE:], nn.Parameter(tensor)]
    with packed(parts) as parcel:
        assert parcel.file.map()[:].count(tensor.numpy().tobytes()[:64]) == 1
        assert len(parcel.file.map()) < tensor.nbytes + 8000


def test_a_copy_takes_its_own_memory_only(sent: Any) -> None:
    got = sent([torch.rand(LARGE), torch.rand(8 * LARGE)])
    assert copy.deepcopy(got[0]).untyped_storage().nbytes() == SMALLEST


def test_memory_starts_where_its_type_may() -> None:
    with packed([torch.zeros(SMALLEST + 1, dtype=torch.bool), torch.rand(LARGE)]) as parcel:
        assert [tensor.data_ptr() % 8 for tensor in parcel.unpack()] == [0, 0]


def test_memory_outlives_the_file(sent: Any) -> None:
    expected = torch.arange(LARGE)
    got = sent([expected])
    assert got[0].equal(expected)


ODD = {
    "small": torch.rand(3),
    "empty": torch.rand(0, 3),
    "transposed": torch.rand(LARGE, 2).T,
    "strided": torch.rand(4 * LARGE)[1::3],
    "expanded": torch.rand(LARGE, 1).expand(-1, 5),
    "bool": torch.rand(8 * LARGE) > 0.5,
    "bfloat16": torch.rand(4 * LARGE).bfloat16(),
    "conjugate": torch.rand(LARGE, dtype=torch.complex64).conj(),
    "sparse": torch.rand(LARGE).to_sparse(),
    "trained": torch.rand(LARGE, requires_grad=True),
    "buffer": nn.Buffer(torch.rand(LARGE)) if hasattr(nn, "Buffer") else torch.rand(1),
}


@pytest.mark.parametrize("kind", ODD)
def test_every_tensor_arrives_as_it_was(kind: str, sent: Any) -> None:
    tensor = ODD[kind]
    got = sent((tensor, tensor))
    assert got[0] is got[1]
    assert type(got[0]) is type(tensor)
    assert got[0].dtype == tensor.dtype
    assert got[0].layout == tensor.layout
    assert got[0].requires_grad == tensor.requires_grad
    assert got[0].is_conj() == tensor.is_conj()
    assert got[0].__dict__ == tensor.__dict__
    if tensor.layout == torch.strided:
        assert got[0].stride() == tensor.stride()
    assert torch.equal(got[0].to_dense(), tensor.to_dense())


@given(st.lists(st.integers(1, 3 * SMALLEST), max_size=6))
def test_every_size_arrives(sizes: list[int]) -> None:
    tensors = [torch.arange(n).to(torch.uint8 if n % 2 else torch.float64) for n in sizes]
    with packed(tensors) as parcel:
        got = parcel.unpack()
    assert len(got) == len(tensors)
    assert all(g.dtype == t.dtype and g.equal(t) for g, t in zip(got, tensors, strict=True))
