"""Independent jobs, in this process or in worker processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cloudpickle
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 3

_context: Any = None
_function: Any = None


def default_workers() -> int:
    """One worker per available core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerDied(RuntimeError):  # noqa: N818 - the name says what happened
    """Worker processes died again and again on the same tasks."""


def run_tasks(
    function: Callable[[Any, Item], Result],
    items: Sequence[Item],
    *,
    context: Any,
    workers: int = 1,
) -> Iterator[tuple[int, Result]]:
    """Calls ``function(context, item)`` for every item.

    A worker that dies (killed, out of memory) is replaced and its task runs again, twice at most.

    Args:
        function: a module-level function.
        items: one per call.
        context: what all calls share; sent to each worker once.
        workers: processes; with 1 the calls run here.

    Yields:
        (index of the item, result), in order of completion.

    Raises:
        WorkerDied: when workers die on a task for the third time.
    """
    if workers <= 1 or len(items) <= 1:
        for index, item in enumerate(items):
            yield index, function(context, item)
        return
    # Our own objects on their way to our own processes; nothing a user or the disk supplied.
    payload = cloudpickle.dumps((function, context))
    waiting = set(range(len(items)))
    for attempt in range(ATTEMPTS):
        try:
            for index, result in _run_in_pool(items, sorted(waiting), payload, workers):
                waiting.discard(index)
                yield index, result
            return
        except BrokenProcessPool as error:
            if attempt == ATTEMPTS - 1:
                raise WorkerDied(
                    f"worker processes died {ATTEMPTS} times; tasks left: {sorted(waiting)}; "
                    "perhaps memory ran out: use fewer workers"
                ) from error


def _run_in_pool(
    items: Sequence[Any], indices: Sequence[int], payload: bytes, workers: int
) -> Iterator[tuple[int, Any]]:
    executor = ProcessPoolExecutor(
        min(workers, len(indices)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_install,
        initargs=(payload,),
    )
    try:
        futures = {executor.submit(_call, items[index]): index for index in indices}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _install(payload: bytes) -> None:
    global _context, _function
    # One thread each: two threads in two processes on two cores are several times slower.
    torch.set_num_threads(1)
    _function, _context = cloudpickle.loads(payload)


def _call(item: Any) -> Any:
    return _function(_context, item)
