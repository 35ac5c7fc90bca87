"""One process, many plans and fine-tunes: snnTorch's list of neurons does not grow."""

from __future__ import annotations

import gc

import torch
from benchmarks.memory import episodes, finetunes, look
from rollouts import make_tiny
from snntorch import SpikingNeuron, utils
from torch import nn

from spear_gym.training import Recipe
from spear_gym.workload import Workload

ALIVE = ("neurons in snnTorch's list", "modules alive")


def test_plans_and_finetunes_leave_nothing_behind(tiny: Workload) -> None:
    env = make_tiny(tiny)
    env.evaluator.memory_bytes = 2**20
    work = episodes(env, 300)
    rows = [look(env, done) for done in work if done in (100, 300)]
    assert [[row[key] for key in ALIVE] for row in rows] == [[rows[0][key] for key in ALIVE]] * 2
    assert rows[1]["plans known"] == rows[0]["plans known"] + 200
    assert rows[1]["tensors alive"] < rows[0]["tensors alive"] + 100
    tuned = [look(env, done) for done in finetunes(env, 5) if done in (1, 5)]
    assert [tuned[1][key] for key in ALIVE] == [tuned[0][key] for key in ALIVE]
    assert tuned[1]["tensors alive"] < tuned[0]["tensors alive"] + 100


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
