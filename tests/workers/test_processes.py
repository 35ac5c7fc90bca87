"""Settings of a process, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import mmap, resource, torch
from spear_gym.workers.processes import keep_freed_memory
assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for _ in range(20):
        activations = [torch.ones(2 * 2**20) for _ in range(6)]
step()
before = faults()
step()
print((faults() - before) * mmap.PAGESIZE)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again() -> None:
    """Six arrays of 8 MiB at a time, twenty times: their pages are not asked for again."""

    command = [sys.executable, "-c", PAGES]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(ran.stdout) < 4 * 2**20


def test_threads_are_set() -> None:
    code = (
        "import torch; from spear_gym.workers.processes import prepare_process; prepare_process(1);"
        "print(torch.get_num_threads())"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "1"
