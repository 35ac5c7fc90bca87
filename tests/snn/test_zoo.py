"""The residual networks at CIFAR size."""

from __future__ import annotations

import pytest
import torch

from spear_gym.snn.graph import Kind
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import RESIDUAL_FORMS, ResidualForm, ResNetSNN, resnet18


@pytest.mark.parametrize("form", RESIDUAL_FORMS)
def test_groups_of_a_residual_network(form: ResidualForm) -> None:
    """A stage's shortcuts tie the second convolutions of its blocks; the first stand alone."""
    graph = trace(ResNetSNN(form, widths=(4, 6)).eval(), torch.rand(2, 3, 8, 8))
    # Alone: the first convolution of 2 blocks in 2 stages. Tied: the stem and stage 1; stage 2.
    tied = [group for group in graph.groups if len(group.members) > 1]
    assert len(graph.groups) - len(tied) == 4
    assert sorted(len(group.members) for group in tied) == [3, 3]


def test_eighteen_layers() -> None:
    graph = trace(resnet18(0).eval(), torch.rand(2, 3, 32, 32))
    layers = [graph.module(node) for node in graph.connections]
    shortcuts = [m for m in layers if getattr(m, "kernel_size", None) == (1, 1)]
    assert len(layers) - len(shortcuts) == 18
    assert sum(node.kind is Kind.NEURON for node in graph.nodes) == 17


def test_seeds() -> None:
    one, same, other = (resnet18(seed).conv.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("form", RESIDUAL_FORMS)
def test_only_the_stem_is_analog(form: ResidualForm) -> None:
    graph = trace(ResNetSNN(form, widths=(4, 6)).eval(), torch.rand(2, 3, 8, 8))
    assert [node.name for node in graph.connections if node.analog] == ["conv"]
