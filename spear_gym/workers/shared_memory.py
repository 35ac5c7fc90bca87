"""What all worker processes read: written once, to a file that every worker maps.

The file never has a name (the processes inherit it open), so nothing of it is left behind however
they end. Maps are private: a worker that writes into a tensor gets its own copy of the pages that
it touches, and no other process sees the change.

Windows cannot hand open files down in this way: there every worker gets a copy of the file.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import IO, Any

import cloudpickle
import torch
from torch import Tensor, UntypedStorage

SMALLEST = 64 * 2**10
"""Bytes from which memory is shared; anything smaller is pickled with its object."""

MEMORY_FOLDER = Path("/dev/shm")
ALIGNMENT = 64

Place = tuple[int, int]
"""Where memory lies in the file: first byte, length."""


@dataclass(frozen=True)
class InheritedFile:
    """An open file on its way to spawned processes.

    Attributes:
        number: its descriptor.
    """

    number: int

    def __reduce__(self) -> Any:
        if sys.platform == "win32":
            return CopiedFile, (self.map()[:],)
        # Works only while a process is being spawned.
        return _inherited, (reduction.DupFd(self.number),)

    def map(self) -> mmap.mmap:
        """The whole file as memory; writing to it changes no other process's."""
        return mmap.mmap(self.number, 0, access=mmap.ACCESS_COPY)


def _inherited(duplicate: Any) -> InheritedFile:
    return InheritedFile(duplicate.detach())


@dataclass(frozen=True)
class CopiedFile:
    """What arrives where descriptors are not inherited.

    Attributes:
        content: all of the file.
    """

    content: bytes

    def map(self) -> bytearray:
        """The content as memory that can be written to."""
        return bytearray(self.content)


@dataclass(frozen=True)
class Parcel:
    """An object on its way to processes that this one spawns.

    Attributes:
        file: holds the pickled object and the memory of its large tensors.
        pickled: where the former lies.
    """

    file: InheritedFile | CopiedFile
    pickled: Place

    def unpack(self) -> Any:
        """The object; its large tensors lie in memory that all who unpack it share."""
        return _Unpickler(self.file.map(), self.pickled).load()


@contextmanager
def packed(value: Any) -> Iterator[Parcel]:
    """Packs an object for spawned processes.

    What cloudpickle can send travels. An object with a method ``reduce_whole``, of the form of
    ``__reduce__``, is taken apart by that method here and nowhere else.

    Args:
        value: what to send.

    Yields:
        What to pass to the processes. Those spawned inside the block can unpack it at any time.

    Raises:
        OSError: when the temporary folder has no room.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(value)
    # The pickle, too, is in the file: a parent that sends more than a pipe holds waits until the
    # child has imported torch, and so starts its workers one after the other.
    payload = stream.getvalue()
    with tempfile.TemporaryFile(dir=_folder(pickler.size + len(payload))) as file:
        pickler.write_memory(file)
        file.seek(pickler.size)
        file.write(payload)
        file.flush()
        yield Parcel(InheritedFile(file.fileno()), (pickler.size, len(payload)))


def _folder(size: int) -> Path:
    """Where the file is made: in memory, unless it would take most of what is left there."""
    if os.access(MEMORY_FOLDER, os.W_OK) and shutil.disk_usage(MEMORY_FOLDER).free > 2 * size:
        return MEMORY_FOLDER
    return Path(tempfile.gettempdir())


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Leaves the memory of large tensors out and remembers it.

    Memory, not tensors: a parameter, its ``data`` and views of one another share theirs, and go on
    sharing it on the other side.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.size = 0
        # By address and length; an address is unique only while its memory lives, so that is kept.
        self._memory: dict[tuple[int, int], tuple[int, UntypedStorage]] = {}

    def reducer_override(self, value: Any) -> Any:
        if _is_plain(value) and _is_large(value.untyped_storage()):
            layout = (value.storage_offset(), value.size(), value.stride())
            return _tensor, (value.untyped_storage(), value.dtype, *layout)
        reduce_whole = getattr(type(value), "reduce_whole", None)
        if reduce_whole is not None:
            return reduce_whole(value)
        return super().reducer_override(value)

    def persistent_id(self, value: Any) -> Place | None:
        if type(value) is not UntypedStorage or not _is_large(value):
            return None
        key = (value.data_ptr(), value.nbytes())
        if key not in self._memory:
            self._memory[key] = (self.size, value)
            self.size += -(-value.nbytes() // ALIGNMENT) * ALIGNMENT
        return self._memory[key][0], value.nbytes()

    def write_memory(self, file: IO[bytes]) -> None:
        """Writes what was left out, at the places that the pickle names."""
        for start, storage in self._memory.values():
            file.seek(start)
            file.write(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data)


class _Unpickler(pickle.Unpickler):
    """Reads our own objects, sent by our own process; nothing a user or the disk supplied."""

    def __init__(self, memory: mmap.mmap | bytearray, pickled: Place) -> None:
        start, length = pickled
        super().__init__(io.BytesIO(memory[start : start + length]))
        self._memory = memory
        self._storages: dict[Place, UntypedStorage] = {}

    def persistent_load(self, place: Place) -> UntypedStorage:
        if place not in self._storages:
            start, length = place
            # One storage each, not one for the file: copying a tensor copies all of its storage.
            whole = torch.frombuffer(self._memory, dtype=torch.uint8, count=length, offset=start)
            self._storages[place] = whole.untyped_storage()
        return self._storages[place]


def _is_plain(value: Any) -> bool:
    """Whether dtype, memory and layout are all there is to a tensor."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and not (value.requires_grad or value.is_conj() or value.is_neg() or value.is_quantized)
        and not value.__dict__
    )


def _is_large(storage: UntypedStorage) -> bool:
    return storage.device.type == "cpu" and storage.nbytes() >= SMALLEST


def _tensor(
    storage: UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
) -> Tensor:
    return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)
