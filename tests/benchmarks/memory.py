"""What stays in memory after many plans and fine-tunes in one process: nothing but what is known.

    .venv/bin/python tests/benchmarks/memory.py                               # about 10 minutes
    .venv/bin/python tests/benchmarks/memory.py --plans 300 --finetunes 5     # a look

Episodes are played in an environment, of which copies are made on the way, and plans fine-tuned and
dropped. snnTorch keeps every neuron that was ever made in `SpikingNeuron.instances`, which is
counted beside the modules and tensors that are alive, the plans that the evaluator remembers (about
a kilobyte each, for ever) and resident memory, free pages given back. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import pickle
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from snntorch import SpikingNeuron
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    MIB,
    Row,
    fresh_ratios,
    give_back_free_memory,
    resident_bytes,
    show,
    write_json,
)

from spear_gym import Workload, load_workload
from spear_gym.env import SpearPruneEnv, make_env
from spear_gym.evaluation import PlanEvaluator
from spear_gym.training import Recipe
from spear_gym.workers.processes import prepare_process

PREFIX_BYTES = 8 * MIB
"""Kept for plan prefixes: full after a few plans, so that it does not grow."""

LOOKS = 10
"""Rows of each table."""


def look(env: SpearPruneEnv, done: int) -> Row:
    """What is alive now."""
    gc.collect()
    give_back_free_memory()
    # By type, for libraries have objects that warn when they are asked for their class.
    kinds = [type(held) for held in gc.get_objects()]
    return {
        "done": float(done),
        "neurons in snnTorch's list": float(len(SpikingNeuron.instances)),
        "modules alive": float(sum(issubclass(kind, nn.Module) for kind in kinds)),
        "tensors alive": float(sum(issubclass(kind, torch.Tensor) for kind in kinds)),
        "plans known": float(len(env.evaluator.known)),
        "known, MiB": len(pickle.dumps(env.evaluator.known)) / MIB,
        "resident, MiB": resident_bytes() / MIB,
    }


def episodes(env: SpearPruneEnv, plans: int) -> Iterator[int]:
    """Plays an episode for each of so many new plans, the last step in a copy each tenth time."""
    for number, ratios in enumerate(islice(fresh_ratios(env.evaluator.space), plans), start=1):
        env.reset()
        for ratio in ratios[:-1]:
            env.step(ratio[None])
        last = copy.deepcopy(env) if number % 10 == 0 else env
        last.step(ratios[-1:])
        yield number


def finetunes(env: SpearPruneEnv, number: int) -> Iterator[int]:
    """Fine-tunes so many plans for one epoch, and drops the networks."""
    recipe = Recipe(epochs=1)
    known = list(env.evaluator.known)
    for done in range(1, number + 1):
        env.evaluator.finetune(known[-done], recipe=recipe)
        env.finetune(env.best, recipe=recipe)
        yield done


def looks(env: SpearPruneEnv, work: Iterator[int], total: int) -> list[Row]:
    """Does the work, looking at memory after each tenth of it."""
    every = max(1, total // LOOKS)
    return [look(env, done) for done in work if done % every == 0]


def measured(
    workload: Workload, plans: int, tuned: int, prefix_bytes: int = PREFIX_BYTES
) -> dict[str, list[Row]]:
    """Memory while so many plans are scored and then so many fine-tuned, by table."""
    evaluator = PlanEvaluator(workload, memory_bytes=prefix_bytes)
    env = make_env(evaluator=evaluator, target=0.3, lre="none")
    return {
        "plans": looks(env, episodes(env, plans), plans),
        "fine-tunes": looks(env, finetunes(env, tuned), tuned),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--plans", type=int, default=10_000)
    parser.add_argument("--finetunes", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    options = parser.parse_args()
    prepare_process(1)
    tables = measured(load_workload(options.workload), options.plans, options.finetunes)
    for title, rows in tables.items():
        show(title, rows)
    write_json(options.out / "memory.json", tables)


if __name__ == "__main__":
    main()
