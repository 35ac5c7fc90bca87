"""Independent jobs, in this process or in worker processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from spear_gym.workers.leash import end_with, leash, signals_wait, working
from spear_gym.workers.processes import prepare_process
from spear_gym.workers.shared_memory import Parcel, packed

Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 3

_context: Any = None
_function: Any = None
_failure: Exception | None = None


def default_workers() -> int:
    """One worker per available core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerDied(RuntimeError):  # noqa: N818 - the name says what happened
    """Worker processes died again and again on the same tasks."""


class WorkerFailed(RuntimeError):  # noqa: N818 - the name says what happened
    """A worker process started, but could not take over the function or the context."""


def run_tasks(
    function: Callable[[Any, Item], Result],
    items: Sequence[Item],
    *,
    context: Any,
    workers: int = 1,
) -> Generator[tuple[int, Result]]:
    """Calls ``function(context, item)`` for every item.

    A worker that dies (killed, out of memory) is replaced and its task runs again, twice at most.
    Workers end with this process, however it ends, and when the caller stops early: a task that is
    under way is interrupted as by Ctrl-C.

    Args:
        function: a module-level function.
        items: one per call.
        context: what all calls read. Workers share its large tensors: one copy for all of them.
            A task that writes into one changes nothing for the other workers.
        workers: processes; with 1 the calls run here.

    Yields:
        (index of the item, result), in order of completion. A caller that may stop early, by an
        error too, closes the generator (``contextlib.closing``).

    Raises:
        WorkerDied: when workers die on a task for the third time.
        WorkerFailed: when a worker cannot import or unpack the function or the context.
    """
    if workers <= 1 or len(items) <= 1:
        for index, item in enumerate(items):
            yield index, function(context, item)
        return
    with packed((function, context)) as parcel:
        yield from _run_in_pools(items, parcel, workers)


def _run_in_pools(items: Sequence[Any], parcel: Parcel, workers: int) -> Iterator[tuple[int, Any]]:
    """One pool after the other, until every task is done: a pool ends when a worker dies."""
    waiting = set(range(len(items)))
    for attempt in range(ATTEMPTS):
        try:
            for index, result in _run_in_pool(items, sorted(waiting), parcel, workers):
                waiting.discard(index)
                yield index, result
            return
        except BrokenProcessPool as error:
            if attempt == ATTEMPTS - 1:
                raise WorkerDied(
                    f"worker processes died {ATTEMPTS} times; tasks left: {sorted(waiting)}; "
                    "perhaps memory ran out: use fewer workers; if none of them even started, "
                    "begin the main part of the script with: if __name__ == '__main__':"
                ) from error


def _run_in_pool(
    items: Sequence[Any], indices: Sequence[int], parcel: Parcel, workers: int
) -> Iterator[tuple[int, Any]]:
    futures: dict[Future[Any], int] = {}
    with leash() as held:
        executor = ProcessPoolExecutor(
            min(workers, len(indices)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_install,
            initargs=(parcel, held),
        )
        try:
            with signals_wait():
                for index in indices:
                    futures[executor.submit(_call, items[index])] = index
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            # One by one: `cancel_futures` does nothing once the executor is collected (Python
            # 3.11), and a caller that stopped early would share its cores with tasks that nobody
            # waits for.
            for future in futures:
                future.cancel()
            executor.shutdown(wait=False)


def _install(parcel: Parcel, parent: Connection) -> None:
    global _context, _function, _failure
    end_with(parent)
    # One thread each: two threads in two processes on two cores are several times slower.
    prepare_process(1)
    try:
        _function, _context = parcel.unpack()
    except Exception as error:
        # Raised here it would only break the pool; the first task tells what happened.
        _failure = error


def _call(item: Any) -> Any:
    if _failure is not None:
        kind = type(_failure).__name__
        raise WorkerFailed(f"a worker process could not start: {kind}: {_failure}") from _failure
    with working():
        return _function(_context, item)
