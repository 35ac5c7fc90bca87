"""One process, many plans and fine-tunes: snnTorch's list of neurons does not grow."""

from __future__ import annotations

import gc

import torch
from benchmarks.memory import episodes, measured
from rollouts import make_tiny
from snntorch import SpikingNeuron, utils
from torch import nn

from spear_gym.training import Recipe
from spear_gym.workload import Workload

ALIVE = ("neurons in snnTorch's list", "modules alive")


def test_plans_and_finetunes_leave_nothing_behind(tiny: Workload) -> None:
    tables = measured(tiny, plans=100, tuned=10, prefix_bytes=2**18)
    for rows in tables.values():
        alive = [[row[key] for key in ALIVE] for row in rows]
        assert alive == alive[:1] * 10
        assert rows[-1]["tensors alive"] < rows[0]["tensors alive"] + 100
    assert tables["plans"][-1]["plans known"] > 90


def test_networks_in_use_stay_registered(tiny: Workload) -> None:
    env = make_tiny(tiny)
    next(episodes(env, 1))
    recipe = Recipe(epochs=1)

    def tuned() -> nn.Module:
        return env.finetune(recipe=recipe)  # type: ignore[no-any-return]

    kept, parts = tuned(), nn.Sequential(*tuned().children())
    tuned()
    gc.collect()
    tuned()
    listed = {id(neuron) for neuron in SpikingNeuron.instances}
    for holder in (kept, parts):
        neurons = [m for m in holder.modules() if isinstance(m, SpikingNeuron)]
        assert len(neurons) == 3
        assert {id(neuron) for neuron in neurons} <= listed
    # snnTorch still resets what the user holds.
    with torch.no_grad():
        kept(tiny.splits.search.inputs[:2])
    assert kept.lif1.mem.abs().sum() > 0
    utils.reset(kept)
    assert kept.lif1.mem.abs().sum() == 0
