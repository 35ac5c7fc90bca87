"""Speed of the shipped workloads: plans, workers, episodes, searches and memory.

    .venv/bin/python tests/benchmarks/workload_speed.py                  # all tables
    .venv/bin/python tests/benchmarks/workload_speed.py --short          # `digits`, no search
    .venv/bin/python tests/benchmarks/workload_speed.py --json runs/workload_speed.json

What is compared is run in turn in one process, on one thread; every plan is new unless a table
says that it is remembered. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    MIB,
    Row,
    Tables,
    evaluate_fresh,
    fresh_plans,
    fresh_ratios,
    in_turn,
    peak_bytes,
    resident_bytes,
    show,
    write_json,
)
from benchmarks.speed import T, compared

from spear_gym import load_workload
from spear_gym.agents import SearchResult, make_agent, run_search
from spear_gym.env import make_env
from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.simulation.simulate import SCORINGS, Simulator
from spear_gym.snn.graph import Kind, Node
from spear_gym.workers.processes import prepare_process
from spear_gym.workers.tasks import run_tasks
from spear_gym.workload import Workload

NAMES = ("digits", "cluttered-digits")
TARGET = 0.3
ENVS = 8
MEETING_SECONDS = 120.0

Episode = NDArray[np.float32]
"""Actions of one episode, ``(groups, 1)``."""


# -------------------------------------------------------------------- plans


def scoring_row(workload: Workload, plans: int, repeats: int) -> Row:
    """Fresh plans a second under each scoring."""
    evaluators = {scoring: PlanEvaluator(workload, scoring=scoring) for scoring in SCORINGS}
    times = in_turn({s: evaluate_fresh(e, plans) for s, e in evaluators.items()}, repeats)
    return {
        "workload": workload.name,
        **{f"{scoring}, plans/s": plans / seconds for scoring, seconds in times.items()},
        "refit / recalibrated": times["refit"] / times["recalibrated"],
        "default": workload.scoring,
        "default, s/plan": times[workload.scoring] / plans,
    }


def loop_row(workload: Workload, repeats: int, ratio: float = 0.5) -> Row:
    """The trained network on its search samples against snnTorch's loops."""
    if workload.num_steps != T:
        raise ValueError(f"num_steps is {workload.num_steps}; the loops run {T} time steps")
    evaluator = PlanEvaluator(workload, scoring="plain")
    plan = evaluator.space.from_ratios([ratio] * len(evaluator.space))
    inputs = workload.splits.search.inputs
    row: Row = {"workload": workload.name, "samples": len(inputs), "ratio": ratio}
    return row | compared(evaluator.simulator, plan, inputs, repeats)


# -------------------------------------------------------------------- workers

Batch = tuple[PlanEvaluator, str, int]
"""The evaluator, a folder to meet in, and how many workers meet there."""


def worker_row(workload: Workload, plans: int, repeats: int) -> Row:
    """Distinct recalibrated plans a second by one and by two processes of one thread."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    starts: list[float] = []
    for _ in range(repeats):
        for workers, measured in rates.items():
            rate, start = worker_rate(workload, plans, workers)
            measured.append(rate)
            if workers > 1:
                starts.append(start)
    one, two = (statistics.median(measured) for measured in rates.values())
    return {
        "workload": workload.name,
        "plans": plans,
        "1 worker, plans/s": one,
        "2 workers, plans/s": two,
        "2 workers / 1": two / one,
        "start of 2 workers, s": statistics.median(starts),
    }


def worker_rate(workload: Workload, plans: int, workers: int) -> tuple[float, float]:
    """Plans a second once all workers are ready, and the seconds until they were."""
    evaluator = PlanEvaluator(workload, scoring="recalibrated")
    chosen = list(islice(fresh_plans(evaluator.space), plans))
    items: list[Counts | None] = [None] * workers + chosen
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        batch: Batch = (evaluator, folder, workers)
        spans = dict(run_tasks(timed, items, context=batch, workers=workers))
    ready = max(spans[index][1] for index in range(workers))
    scored = [spans[index] for index in range(workers, len(items))]
    seconds = max(end for _, end in scored) - min(start for start, _ in scored)
    return plans / seconds, ready - began


def timed(batch: Batch, counts: Counts | None) -> tuple[float, float]:
    """Scores a plan in a worker; for ``None``, gets ready and waits until all workers are.

    Returns:
        When it began and ended, on the clock that all processes share.
    """
    evaluator, folder, workers = batch
    began = time.monotonic()
    if counts is None:
        evaluator.evaluate(evaluator.space.smallest_counts())
        _meet(Path(folder), workers)
    else:
        evaluator.evaluate(counts)
    return began, time.monotonic()


def _meet(folder: Path, workers: int) -> None:
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + MEETING_SECONDS
    while len(list(folder.iterdir())) < workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all {workers} workers came up in {MEETING_SECONDS:g} s")
        time.sleep(0.002)


# -------------------------------------------------------------------- episodes


def overhead_row(workload: Workload, episodes: int, repeats: int) -> Row:
    """Microseconds a step when every plan is remembered: nothing is simulated."""
    bare = make_env(workload, target=TARGET, lre="none")
    settings: dict[str, Any] = {"target": TARGET, "lre": "none", "evaluator": bare.evaluator}
    wrapped = gym.make("SpearPrune-v0", **settings)
    vector = make_vector(settings)
    chosen = _take(fresh_ratios(bare.evaluator.space), episodes)
    walk(bare, chosen)
    before = bare.evaluator.statistics
    seconds = in_turn(
        {
            "bare": lambda: walk(bare, chosen),
            "gym.make": lambda: walk(wrapped, chosen),
            "vector": lambda: walk_vector(vector, chosen),
        },
        repeats,
    )
    if bare.evaluator.statistics != before:
        raise RuntimeError("a remembered plan was simulated; this is not the overhead alone")
    steps = episodes * len(bare.evaluator.space)
    return {
        "workload": workload.name,
        "steps": steps,
        "single, us/step": 1e6 * seconds["bare"] / steps,
        "gym.make, us/step": 1e6 * seconds["gym.make"] / steps,
        f"vector of {ENVS}, us/step": 1e6 * seconds["vector"] / steps,
        "single / vector": seconds["bare"] / seconds["vector"],
    }


def vector_row(workload: Workload, episodes: int, repeats: int) -> Row:
    """Milliseconds an episode of new plans, single against vector environment."""
    settings: dict[str, Any] = {"workload": workload, "target": TARGET, "lre": "none"}
    single, vector = gym.make("SpearPrune-v0", **settings), make_vector(settings)
    streams = [fresh_ratios(PlanEvaluator(workload).space) for _ in range(2)]
    seconds = in_turn(
        {
            "single": lambda: walk(single, _take(streams[0], episodes)),
            "vector": lambda: walk_vector(vector, _take(streams[1], episodes)),
        },
        repeats,
    )
    return {
        "workload": workload.name,
        "episodes": episodes,
        "single, ms/episode": 1000 * seconds["single"] / episodes,
        f"vector of {ENVS}, ms/episode": 1000 * seconds["vector"] / episodes,
        "single / vector": seconds["single"] / seconds["vector"],
    }


def make_vector(settings: dict[str, Any]) -> gym.vector.VectorEnv[Any, Any, Any]:
    """The vector environment, as users make it."""
    return gym.make_vec(
        "SpearPrune-v0", num_envs=ENVS, vectorization_mode="vector_entry_point", **settings
    )


def walk(env: gym.Env[Any, Any], episodes: Sequence[Episode]) -> None:
    """Episodes, one after the other."""
    for actions in episodes:
        env.reset()
        for action in actions:
            env.step(action)


def walk_vector(env: gym.vector.VectorEnv[Any, Any, Any], episodes: Sequence[Episode]) -> None:
    """Episodes, so many side by side as there are environments."""
    if len(episodes) % env.num_envs:
        raise ValueError(f"{len(episodes)} episodes do not fill {env.num_envs} environments")
    for first in range(0, len(episodes), env.num_envs):
        env.reset()
        for actions in np.stack(episodes[first : first + env.num_envs], axis=1):
            env.step(actions)


def _take(stream: Iterator[NDArray[np.float32]], episodes: int) -> list[Episode]:
    return [ratios[:, None] for ratios in islice(stream, episodes)]


# -------------------------------------------------------------------- a search


def search_row(workload: Workload, budget: int) -> Row:
    """A search by spear-ddpg with the memory for plan prefixes, and without."""
    _search(PlanEvaluator(workload), min(budget, 5))
    kept, forgotten = PlanEvaluator(workload), PlanEvaluator(workload, memory_bytes=0)
    with_memory, with_share = _search(kept, budget)
    without, without_share = _search(forgotten, budget)
    return {
        "workload": workload.name,
        "evaluations": with_memory.paid,
        "episodes": with_memory.episodes,
        "from memory": with_share,
        "from memory, memory_bytes=0": without_share,
        "wall, s": with_memory.seconds,
        "wall, s, memory_bytes=0": without.seconds,
        "speed-up": without.seconds / with_memory.seconds,
        "same plans": str(_plans(with_memory) == _plans(without)),
    }


def _search(evaluator: PlanEvaluator, budget: int) -> tuple[SearchResult, float]:
    """A search, and the share of its layer computations that prefix memory answered."""
    judge = make_env(evaluator=evaluator, target=TARGET, lre="none").judge
    before = evaluator.statistics
    result = run_search(make_agent("spear-ddpg"), evaluator, judge, budget=budget)
    asked, made = (
        evaluator.statistics[key] - before[key]
        for key in ("decisions in them", "decisions simulated")
    )
    return result, 1 - made / asked


def _plans(result: SearchResult) -> list[Counts]:
    return [candidate.evaluation.counts for candidate in result.candidates]


# -------------------------------------------------------------------- memory


def memory_row(name: str, plans: int) -> Row:
    """Memory of a process of its own that scores fresh plans of a catalogued workload."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(memory_of, name, plans).result()


def memory_of(name: str, plans: int) -> Row:
    """Memory of this process before, and at most while, it scores fresh plans."""
    prepare_process(1)
    imported = resident_bytes()
    evaluator = PlanEvaluator(load_workload(name))
    loaded = resident_bytes()
    evaluate_fresh(evaluator, plans)()
    return {
        "workload": name,
        "plans": plans,
        "imported, MiB": imported / MIB,
        "loaded, MiB": loaded / MIB,
        "peak, MiB": peak_bytes() / MIB,
        "for prefixes at most, MiB": evaluator.memory_bytes / MIB,
    }


# -------------------------------------------------------------------- bfloat16


def bfloat16_row(workload: Workload, plans: int) -> Row:
    """What products in bfloat16 change: spikes, SynOps, and the order of the scores."""
    usual = PlanEvaluator(workload)
    half = PlanEvaluator(workload, precision="bfloat16")
    chosen = list(islice(fresh_plans(usual.space), plans))
    pairs = [(usual.evaluate(counts), half.evaluate(counts)) for counts in chosen]
    scores = [[e.accuracy for e in side] for side in zip(*pairs, strict=True)]
    shifts = [abs(other.synops / one.synops - 1) for one, other in pairs]
    flips = [flipped(usual, half, counts) for counts in chosen[:10]]
    return {
        "workload": workload.name,
        "plans": plans,
        "flipped spikes, % of updates": 100 * sum(flips) / len(flips),
        "change of SynOps, %, mean": 100 * sum(shifts) / len(shifts),
        "at most": 100 * max(shifts),
        "Spearman of scores": float(spearmanr(*scores).statistic),
    }


def flipped(usual: PlanEvaluator, half: PlanEvaluator, counts: Counts) -> float:
    """Share of a plan's neuron updates that end otherwise."""
    plan = usual.space.plan(counts)
    recorders = [_Recorder(evaluator) for evaluator in (usual, half)]
    for recorder in recorders:
        recorder.run(plan)
    one, other = (recorder.spikes for recorder in recorders)
    differing = sum(int((one[name] != other[name]).sum()) for name in one)
    return differing / sum(spikes.numel() for spikes in one.values())


class _Recorder(Simulator):
    """An evaluator's simulator that keeps all spikes."""

    def __init__(self, evaluator: PlanEvaluator) -> None:
        self.__dict__.update(evaluator.simulator.__dict__)
        self.prepared = copy.copy(evaluator.simulator.prepared)
        self.prepared.watch = self._keep
        self.spikes: dict[str, Tensor] = {}

    def _keep(self, node: Node, value: Tensor) -> None:
        if node.kind is Kind.NEURON:
            self.spikes[node.name] = value


# -------------------------------------------------------------------- all of it


def tables(names: Sequence[str], *, plans: int, repeats: int, budget: int) -> Tables:
    """All tables; ``budget`` 0 leaves the search out."""
    workloads = [load_workload(name) for name in names]

    def rows(make: Callable[[Workload], Row]) -> list[Row]:
        return [make(workload) for workload in workloads]

    made: Tables = {
        "fresh plans, ratios from U(0, 0.9)": rows(lambda w: scoring_row(w, plans, repeats)),
        "search samples, plain scoring, against snnTorch's loops": rows(
            lambda w: loop_row(w, 2 * repeats + 1)
        ),
        "worker processes, recalibrated": rows(lambda w: worker_row(w, 2 * plans, repeats)),
        "environment alone, plans remembered": rows(lambda w: overhead_row(w, 40, 5 * repeats)),
        "episodes of new plans, default scoring": rows(lambda w: vector_row(w, 2 * ENVS, repeats)),
    }
    made["products in bfloat16, default scoring"] = rows(lambda w: bfloat16_row(w, 2 * plans))
    if budget:
        made["spear-ddpg, default scoring"] = [search_row(workloads[-1], budget)]
    made["memory of a process of its own"] = [memory_row(name, 2 * plans) for name in names]
    return made


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="`digits` only, and no search")
    parser.add_argument("--plans", type=int, default=50, help="plans of a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--budget", type=int, default=200, help="of the search; 0: no search")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    prepare_process(1)
    names, budget = (NAMES[:1], 0) if options.short else (NAMES, options.budget)
    made = tables(names, plans=options.plans, repeats=options.repeats, budget=budget)
    for title, rows in made.items():
        show(title, rows)
    if options.json is not None:
        write_json(options.json, made)


if __name__ == "__main__":
    main()
