"""Every layer type that is taken as one operation goes through everything that must know it."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import pytest
import snntorch as snn
import torch
from networks import enlivened
from torch import nn

from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.gated import GatedNetwork
from spear_gym.snn.leaves import LEAVES, describe
from spear_gym.snn.trace import trace
from spear_gym.training import Recipe
from spear_gym.workload import Workload, measure

LAYERS = tuple(leaf for leaf in LEAVES if not issubclass(leaf, snn.SpikingNeuron))
"""Neurons have tests of their own."""

IN_ONE: dict[type[nn.Module], Callable[[], nn.Module]] = {
    nn.Conv1d: lambda: nn.Conv1d(6, 6, 3, stride=2, padding=1),
    nn.BatchNorm1d: lambda: nn.BatchNorm1d(6),
    nn.AvgPool1d: lambda: nn.AvgPool1d(2),
    nn.MaxPool1d: lambda: nn.MaxPool1d(2),
    nn.AdaptiveAvgPool1d: lambda: nn.AdaptiveAvgPool1d(4),
    nn.Dropout1d: nn.Dropout1d,
}
"""Layers for sequences, ``(batch, 6, 12)``."""

IN_TWO: dict[type[nn.Module], Callable[[], nn.Module]] = {
    nn.Conv2d: lambda: nn.Conv2d(6, 6, 3, dilation=2),
    nn.BatchNorm2d: lambda: nn.BatchNorm2d(6),
    nn.AvgPool2d: lambda: nn.AvgPool2d(3, stride=2, padding=1),
    nn.MaxPool2d: lambda: nn.MaxPool2d(2),
    nn.AdaptiveAvgPool2d: lambda: nn.AdaptiveAvgPool2d((2, 3)),
    nn.Dropout2d: nn.Dropout2d,
    nn.Dropout: nn.Dropout,
    nn.Identity: nn.Identity,
    nn.Flatten: nn.Identity,  # stands in every network, before the classifier
    nn.Linear: nn.Identity,  # and so does this
}
"""Layers for images, ``(batch, 6, 8, 8)``."""


def test_every_layer_has_a_network() -> None:
    assert set(LAYERS) == IN_ONE.keys() | IN_TWO.keys()


def workload_with(layer: type[nn.Module]) -> Workload:
    """Two pruned convolutions and a classifier; the layer lies between the convolutions."""
    axes, size = (1, 12) if layer in IN_ONE else (2, 8)
    convolution = (nn.Conv1d, nn.Conv2d)[axes - 1]

    def leaky() -> snn.Leaky:
        return snn.Leaky(beta=0.5, threshold=0.3, init_hidden=True)

    body = [
        convolution(1, 6, 3, padding=1),
        leaky(),
        (IN_ONE | IN_TWO)[layer](),
        convolution(6, 5, 2),
        leaky(),
        nn.Flatten(),
    ]
    inputs = torch.rand(32, 1, *(size,) * axes)
    features = nn.Sequential(*body)(inputs).shape[1]
    model = enlivened(nn.Sequential(*body, nn.Linear(features, 3)))
    data = (inputs, torch.arange(32) % 3)
    return Workload(
        model=model,
        train=data,
        search=data,
        test=data,
        num_steps=3,
        finetune=Recipe(epochs=1),
        calibration_samples=16,
    )


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_layer_goes_through_everything(layer: type[nn.Module]) -> None:
    workload = workload_with(layer)
    evaluator = PlanEvaluator(workload, scoring="plain")
    counts = tuple(max(1, group.channels - 2) for group in evaluator.space.groups)
    scored = evaluator.evaluate(counts)
    plan = evaluator.space.plan(counts)

    pruned = measure(workload, prune_network(workload.graph, plan), "search")
    assert 0 < scored.synops == pruned.synops < evaluator.reference.synops
    assert scored.accuracy == pruned.accuracy

    gates = {
        group.space: torch.zeros(group.channels).index_fill(0, torch.tensor(kept), 1.0)
        for group, kept in zip(evaluator.space.groups, plan.kept, strict=True)
    }
    gated = GatedNetwork(workload.graph, workload.num_steps)
    _, synops = gated.forward(workload.splits.search.inputs, gates, training=False)
    assert float(synops) == pytest.approx(scored.synops, rel=1e-6)

    refitted = PlanEvaluator(workload, scoring="refit")
    tuned = refitted.finetune(refitted.evaluate(counts).counts, seed=0)
    assert 0 < tuned.search.synops < evaluator.reference.synops

    env = gym.make("SpearPrune-v0", evaluator=evaluator, lre="none")
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)


def earlier_repr(self: nn.modules.batchnorm._NormBase) -> str:
    """`extra_repr` of PyTorch 2.5."""
    return (
        f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
        f"track_running_stats={self.track_running_stats}"
    )


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (
            nn.BatchNorm2d(4),
            "BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, "
            "track_running_stats=True)",
        ),
        (
            nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False),
            "BatchNorm2d(4, eps=0.001, momentum=None, affine=False, bias=False, "
            "track_running_stats=True)",
        ),
    ],
)
def test_fingerprints_are_the_same_under_every_pytorch(
    norm: nn.Module, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), norm, snn.Leaky(0.5, init_hidden=True), nn.Flatten(), nn.Linear(144, 2)
    )
    graph = trace(enlivened(net, 1), torch.rand(2, 1, 8, 8))
    described = describe(graph)
    assert described[2][-1] == said
    monkeypatch.setattr(nn.modules.batchnorm._NormBase, "extra_repr", earlier_repr)
    assert repr(norm) != said
    assert describe(graph) == described
