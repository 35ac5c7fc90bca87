"""Tasks for worker processes, which cannot import the test modules themselves."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from toys import scaled

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.judge import Candidate
from spear_gym.lre import Sample
from spear_gym.lre.sampling import expected_fraction
from spear_gym.pruning.plan import PlanSpace
from spear_gym.record.ledger import Ledger
from spear_gym.workload import Workload, load_workload


class Mapping(NamedTuple):
    """One line of the kernel's list of mappings: the file, and KiB of it."""

    inode: str
    present: int
    copied: int


def mapping_of(tensor: Tensor) -> Mapping:
    """The mappings that a tensor lies in: the first one's file, and KiB of all of them.

    The kernel may have split the memory in two, or joined it with its neighbour.
    """
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes - 1
    files: list[str] = []
    kib, inside = {"Rss:": 0, "Anonymous:": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *fields = line.split()
        if not name.endswith(":"):
            start, end = (int(bound, 16) for bound in name.split("-"))
            inside = start <= last and first < end
            files += [" ".join(fields[2:4])] if inside else []
        elif inside and name in kib:
            kib[name] += int(fields[0])
    assert files, "the tensor lies in no mapping"
    return Mapping(files[0], kib["Rss:"], kib["Anonymous:"])


def meet(folder: Path, name: str, others: int) -> None:
    """Waits until so many others have come here too."""
    (folder / f"{name}-{os.getpid()}").touch()
    deadline = time.monotonic() + 120
    while len(list(folder.glob(f"{name}-*"))) <= others:
        assert time.monotonic() < deadline, "the other worker never came"
        time.sleep(0.01)


def look(context: tuple[Tensor, Path], _: int) -> tuple[int, float, Mapping]:
    """Reads all of a tensor; every task in another process."""
    tensor, folder = context
    meet(folder, "look", others=1)
    total = float(tensor.sum(dtype=torch.float64))
    return os.getpid(), total, mapping_of(tensor)


def scribble(context: tuple[Tensor, Path], item: int) -> tuple[float, float]:
    """Writes into the tensor that the other worker reads, then both read."""
    tensor, folder = context
    before = float(tensor.mean())
    meet(folder, "before", others=1)
    if item == 0:
        tensor.zero_()
    meet(folder, "after", others=1)
    return before, float(tensor.mean())


def run_net(net: nn.Linear, _: int) -> tuple[bool, bool, float]:
    """Trains a network for one step: are its weights parameters, and did they change?"""
    is_parameter = isinstance(net.weight, nn.Parameter)
    before = net.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = net(torch.ones(1, net.in_features)).sum()
    loss.backward()
    optimizer.step()
    return is_parameter, bool((net.weight != before).all()), float(loss.detach())


def total(tensor: Tensor, item: int) -> float:
    """A task on a large tensor that refuses some items."""
    return scaled(float(tensor.sum()), item)


class Unreadable:
    """What can be sent, but not be read."""

    def __reduce__(self) -> object:
        return int, ("no number",)


def dies_once(context: tuple[Tensor, Path], item: int) -> float:
    """A task whose worker is killed the first time."""
    tensor, marks = context
    mark = marks / str(item)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(tensor[item])


def dies(_: None, item: int) -> None:
    """A task whose worker is always killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def named(workload: Workload, _: int) -> tuple[str, bool, float, str]:
    """What a worker knows of a workload that it was sent."""
    mine = load_workload("mine")
    return workload.name, mine is workload, mine.reference().synops, workload.fingerprint()


def write_rows(context: tuple[Path, PlanSpace, Candidate, Path], name: str) -> int:
    """Sixty plans in a study of its own, while another process writes to the same journal."""
    path, space, candidate, folder = context
    ledger = Ledger(path, name, space, {"study": name})
    meet(folder, "write", others=1)
    plans = product(*(range(1, group.channels + 1) for group in space.groups))
    for counts in islice(plans, 60):
        ledger.append(replace(candidate, evaluation=replace(candidate.evaluation, counts=counts)))
    return len(ledger.evaluations())


def close_to_a_line(evaluator: PlanEvaluator, item: tuple[Counts, int]) -> Sample:
    """A sample that nobody fine-tuned: 0.9 s + 0.03, and noise of 0.002 that the plan decides."""
    return near_a_line(evaluator, item, spread=0.002)


def near_a_line(
    evaluator: PlanEvaluator, item: tuple[Counts, int], *, spread: float = 0.15
) -> Sample:
    """The same with much noise."""
    counts, seed = item
    scored = expected_fraction(evaluator, counts)
    noise = float(np.random.default_rng([*counts, seed]).normal(0, spread))
    finetuned = max(0.9 * scored + 0.03 + noise, 0.0)
    return Sample(counts, scored, finetuned, 0.9, 0.1, (scored / 2, scored / 2))


def leaves_a_mark(folder: Path, item: int) -> int:
    """A task of a tenth of a second that can be counted."""
    (folder / str(item)).touch()
    time.sleep(0.1)
    return item


def lasts(folder: Path, item: int) -> int:
    """A task that is done at once, or lasts a minute and says when it is interrupted."""
    (folder / f"begun-{item}").touch()
    if item == 0:
        return item
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / f"interrupted-{item}").touch()
        raise
    return item
