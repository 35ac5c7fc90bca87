"""`digits-events`: a first layer fed by spikes, counted and run as plain snnTorch does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from reference import SpikeRecorder, frames_of, in_float64, random_plan, reset_own, run_plain
from torch import Tensor

from spear_gym.envs_registry import ENTRIES
from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.training import Recipe
from spear_gym.workload import Workload, load_workload

SAMPLES = 24


@pytest.fixture(scope="module")
def workload() -> Workload:
    return load_workload("digits-events")


@pytest.fixture(scope="module")
def events(workload: Workload) -> Tensor:
    return workload.split("search").inputs[:SAMPLES]


def widths(workload: Workload) -> tuple[int, ...]:
    return tuple(group.channels for group in workload.graph.groups)


def slow_first_layer(events: Tensor, channels: int) -> int:
    """Synapses that events reach in a 3x3 convolution with padding 1, one event at a time."""
    height, width = events.shape[-2:]
    total = 0
    for _, _, _, y, x in zip(*np.nonzero(events.numpy()), strict=True):
        reached = [
            (y + dy, x + dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if 0 <= y + dy < height and 0 <= x + dx < width
        ]
        total += len(reached) * channels
    return total


@pytest.mark.parametrize("pruned", [False, True])
def test_first_layer_counts_synops_of_its_events(
    workload: Workload, events: Tensor, pruned: bool
) -> None:
    plan = random_plan(workload.graph, 3) if pruned else None
    walk = Simulator(workload.graph, events, workload.num_steps).run(plan)
    channels = (plan.counts if plan else widths(workload))[0]
    first = walk.layers["conv1"]
    assert first.synops == slow_first_layer(events, channels) > 0
    assert first.active == int(events.sum())
    assert sum(layer.macs for layer in walk.layers.values()) == 0, "no layer is analog"
    assert walk.synops == sum(layer.synops for layer in walk.layers.values())


def test_first_layer_takes_part_in_the_targets_total(workload: Workload) -> None:
    """Keeping half of conv1 halves its own SynOps exactly, its input being the events."""
    counts = widths(workload)
    evaluator = PlanEvaluator(workload, scoring="plain")
    whole = evaluator.evaluate(counts).layer_synops[0]
    half = evaluator.evaluate((counts[0] // 2, *counts[1:])).layer_synops[0]
    assert whole == 2 * half > 0
    assert whole == workload.reference("search").layer_synops["conv1"]


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_spikes_equal_plain_snntorch(events: Tensor, seed: int | None) -> None:
    workload = ENTRIES["digits-events"].load()
    graph = workload.graph
    plan: Plan | None = None if seed is None else random_plan(graph, seed)
    graph.model.double()
    simulator = SpikeRecorder(graph, events.double(), workload.num_steps)
    walk = simulator.run(plan)
    model = prune_network(graph, plan or random_plan(graph, 0, (0.0, 0.0)))
    reset_own(model)
    plain = run_plain(
        in_float64(model), frames_of(events.double(), workload.num_steps, varying=True)
    )
    assert plain.spikes.keys() == simulator.spikes.keys()
    for name, spikes in plain.spikes.items():
        assert torch.equal(spikes, simulator.spikes[name]), name
        assert spikes.any(), name
    torch.testing.assert_close(walk.readout, plain.outputs.mean(0))


def test_shipped_network_is_good_and_pruning_hurts_it(workload: Workload) -> None:
    reference = workload.reference("search")
    assert reference.accuracy >= 0.92
    halved = [width // 2 for width in widths(workload)]
    assert PlanEvaluator(workload).evaluate(halved).accuracy < reference.accuracy - 0.05


@pytest.mark.slow
def test_training_again_gives_the_same_network() -> None:
    short = dataclasses.replace(
        ENTRIES["digits-events"], pretrain=Recipe(epochs=1, batch_size=250, lr=4e-3, shift=1)
    )
    one, other = short.train_network(), short.train_network()
    initial = short.network(short.seed).state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert not torch.equal(one.state_dict()["conv1.weight"], initial["conv1.weight"])
