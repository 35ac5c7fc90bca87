"""Networks put together at random are simulated, pruned and trained as their own forward has it.

`GRAMMAR_EXAMPLES=500 HYPOTHESIS_PROFILE=explore pytest tests/snn/test_grammar.py` tries new ones.
"""

from __future__ import annotations

import os

import torch
from grammar import SIZE, InTime, Layer, Spec, specs
from hypothesis import HealthCheck, Phase, event, example, given, settings
from networks import enlivened
from own_forward import (
    assert_as_its_own_forward,
    assert_trained_as_its_own_forward,
    check_whole,
    lively,
    made_exact,
)
from reference import random_plan
from strangers import STEPS

from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking: a network that fails is small as it is, and minutes are saved."""

EXAMPLES = int(os.environ.get("GRAMMAR_EXAMPLES", "25"))


BIAS_TAKEN_OUT = Spec(
    blocks=(
        ("conv", Layer(4, 3, 1, False, False, "crop", "leaky")),
        ("pool", "functional"),
        ("conv", Layer(3, 3, 2, False, True, "instance", "synaptic")),
        ("residual", ("and", Layer(2, 3, 1, False, False, "scale", "synaptic"))),
        ("tokens", (8, "learned")),
    ),
    layout="at once",
    hidden=4,
    current=False,
    output="batch first",
)
"""The gradient of a bias is rounding alone, and no reason to refuse the network."""


@given(spec=specs())
@example(spec=BIAS_TAKEN_OUT)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=PHASES)
def test_random_networks_are_right(spec: Spec) -> None:
    torch.manual_seed(0)
    shape = (STEPS, 1, SIZE, SIZE) if spec.varying else (1, SIZE, SIZE)
    inputs = 2 * torch.rand(4, *shape)
    shown = inputs.transpose(0, 1) if spec.varying else inputs

    def make(gain: float) -> SpikingGraph:
        torch.manual_seed(1)
        return trace(enlivened(InTime(spec), gain), shown, varying=spec.varying)

    found = lively(make, inputs)
    event("fires throughout" if found else "a layer is silent")
    graph = found or make(4.0)
    check_whole(graph, inputs)
    made_exact(graph)
    inputs = inputs[:3].double()
    model = assert_as_its_own_forward(graph, random_plan(graph, len(spec.blocks)), inputs)
    assert_trained_as_its_own_forward(graph, model, inputs, training=True)
