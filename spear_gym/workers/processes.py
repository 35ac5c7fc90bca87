"""Settings of a whole process, made by the command line and by worker processes only."""

from __future__ import annotations

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MMAP_THRESHOLD = 32 * 2**20
_TRIM_THRESHOLD = 2**31 - 1
_TOP_PAD = 64 * 2**20


def prepare_process(threads: int) -> None:
    """Sets torch's threads, and lets the process keep the memory that it frees.

    Activations of some MiB are made and freed at every step. glibc gives them back to the system
    each time, and their pages are then filled with zeros anew: a quarter of a training step.

    Args:
        threads: of torch's operations.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep freed memory for reuse; whether there was one to tell."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    taken: bool = mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD) == 1
    taken &= mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD) == 1
    taken &= mallopt(_M_TOP_PAD, _TOP_PAD) == 1
    return taken
