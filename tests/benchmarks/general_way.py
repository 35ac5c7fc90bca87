"""How much longer plans take whose neurons step themselves instead of being written out.

    python tests/benchmarks/general_way.py

The shipped networks, and the same with a subclass of `Leaky` that overrides its forward and does
the same; one thread, in turn, medians over plans.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import snntorch as snn
import torch
from torch import Tensor

from spear_gym import PlanEvaluator, Workload, load_workload
from spear_gym.envs_registry import ENTRIES

PLANS, FINETUNES = 24, 2


class Own(snn.Leaky):
    """Leaky, in a way that nobody else has written out."""

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Tensor:
        return super().forward(input_, mem)


def evaluator(name: str, *, own: bool) -> PlanEvaluator:
    """Of a shipped network, with its neurons replaced or not."""
    workload, splits = load_workload(name), ENTRIES[name].data().named()
    model = copy.deepcopy(workload.graph.model)
    for module in model.modules():
        if own and isinstance(module, snn.Leaky):
            module.__class__ = Own
    steps, recipe = workload.num_steps, workload.finetune
    return PlanEvaluator(
        Workload(model=model, **splits, num_steps=steps, scoring="refit", finetune=recipe)
    )


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    for name in ("digits", "cluttered-digits"):
        plain, own = (evaluator(name, own=flag) for flag in (False, True))
        rng = np.random.default_rng(0)
        groups = plain.space.groups
        score, finetune = [], []
        for number in range(PLANS):
            counts = tuple(int(rng.integers(g.channels // 4, g.channels + 1)) for g in groups)
            usual = seconds(partial(plain.evaluate, counts))
            score.append(seconds(partial(own.evaluate, counts)) / usual)
            if number < FINETUNES:
                usual = seconds(partial(plain.finetune, counts))
                finetune.append(seconds(partial(own.finetune, counts)) / usual)
        told = " and ".join(f"{ratio:.1f}" for ratio in finetune)
        ours = f"{name}: a score {statistics.median(score):.1f} times, fine-tunes {told} times"
        sys.stdout.write(ours + "\n")


if __name__ == "__main__":
    main()
