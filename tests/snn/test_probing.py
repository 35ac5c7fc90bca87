"""What is found out about functions by running them: sizes, products, whatever comes last."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import enlivened
from reference import SpikeRecorder
from strangers import CATALOGUE, STEPS
from strangers.base import Between, Function, lif
from torch import Tensor, nn

from spear_gym.simulation.gated import GatedNetwork
from spear_gym.simulation.own_forward import check_simulation
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Kind
from spear_gym.snn.products import adds_up_products
from spear_gym.snn.trace import trace

NETWORKS = {stranger.name: stranger for stranger in CATALOGUE}


def test_a_number_of_samples_is_not_written_into_a_call() -> None:
    """`x[:len(x)]` is the identity on up to as many samples as the network was traced with."""
    net = Between(Function(lambda _, x: 2 * x[: len(x)]))
    graph = trace(enlivened(net), torch.rand(4, 1, 8, 8))
    recorder = SpikeRecorder(graph, torch.rand(9, 1, 8, 8), STEPS)
    recorder.run()
    assert recorder.spikes["lif1"].shape[1] == 9


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ x, True),
        (lambda x: torch.einsum("ij,jk->ik", x, x), True),
        (lambda x: torch.tensordot(x, x, 1), True),
        (lambda x: F.linear(x, x), True),
        (lambda x: F.conv1d(x[None], x[None]), True),
        (lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]), True),
        (lambda x: torch.cdist(x, x), True),
        (lambda x: x @ x[0], True),
        (lambda x: F.layer_norm(x, (4,)), False),
        (lambda x: F.interpolate(x[None], scale_factor=2.0, mode="linear"), False),
        (lambda x: F.gelu(x).softmax(0).cumsum(1) * x.std(), False),
    ],
)
def test_products_are_known_by_their_kernels(function, expected: bool) -> None:
    assert adds_up_products(lambda: function(torch.rand(4, 4))) is expected


@pytest.mark.parametrize("name", ["spiking transformer", "products of maps"])
def test_gates_count_products_of_activations(name: str) -> None:
    stranger = NETWORKS[name]
    graph = trace(enlivened(stranger.make(), 3.0), stranger.example())
    inputs = stranger.inputs()
    walk = Simulator(graph, inputs, STEPS).run()
    products = {node.name for node in graph.nodes if node.kind is Kind.OPERATION} & set(walk.layers)
    assert sum(walk.layers[product].synops for product in products) > 0
    _, synops = GatedNetwork(graph, STEPS).forward(inputs, {}, training=False)
    total = sum(count.synops for count in walk.layers.values())
    assert float(synops) * len(inputs) == pytest.approx(total, rel=1e-6)


class PooledAtTheEnd(nn.Module):
    """Its output comes out of no module."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 6, 3, padding=1), lif()
        self.conv2, self.lif2 = nn.Conv2d(6, 4, 3, padding=1), lif()
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        h = self.lif1(self.conv1(x))
        h = self.lif2(self.conv2(h.detach() if self.cut else h))
        return F.adaptive_avg_pool2d(h, 1).flatten(1)


def test_training_is_compared_where_no_module_gives_the_output() -> None:
    inputs = 2 * torch.rand(4, 1, 8, 8)
    check_simulation(trace(enlivened(PooledAtTheEnd(cut=False)), inputs), inputs, STEPS)
    graph = trace(enlivened(PooledAtTheEnd(cut=True)), inputs)
    with pytest.raises(TraceError, match=r"would not train 'conv1\.weight'"):
        check_simulation(graph, inputs, STEPS)
