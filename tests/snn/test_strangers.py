"""Networks as people write them: what is taken is right to the last SynOp, the rest says why not.

The catalogue is in `tests/helpers/strangers`; `docs/networks.md` shows it.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
from networks import enlivened
from own_forward import (
    assert_as_its_own_forward,
    assert_trained_as_its_own_forward,
    check_whole,
    lively,
    made_exact,
)
from reference import random_plan
from strangers import CATALOGUE, STEPS, Stranger

from spear_gym.simulation.own_forward import check_simulation
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace

TAKEN = [stranger for stranger in CATALOGUE if not stranger.refused]
REFUSED = [stranger for stranger in CATALOGUE if stranger.refused]

pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match")


def traced(stranger: Stranger, gain: float = 2.0) -> SpikingGraph:
    return trace(
        enlivened(stranger.make(), gain),
        stranger.example(),
        varying=stranger.varying,
        batch_first=stranger.batch_first,
    )


def named(stranger: Stranger) -> str:
    return stranger.name


def fixed_layers(graph: SpikingGraph) -> set[str]:
    """Connections whose channels nobody may prune, the classifier aside."""
    pruned = {group.space for group in graph.groups}
    return {
        node.name
        for node in graph.connections
        if node.index != graph.classifier.index
        and not any(segment.space in pruned for segment in node.channels)
    }


@pytest.mark.parametrize("stranger", TAKEN, ids=named)
def test_what_is_taken_is_right(stranger: Stranger) -> None:
    inputs = stranger.inputs()
    graph = lively(lambda gain: traced(stranger, gain), inputs)
    assert graph is not None, "a layer is silent"
    assert {group.name: group.channels for group in graph.groups} == dict(stranger.groups)
    assert fixed_layers(graph) == set(stranger.fixed)
    check_whole(graph, inputs)

    made_exact(graph)
    inputs = stranger.inputs(3).double()
    for seed in (0, 1):
        model = assert_as_its_own_forward(graph, random_plan(graph, seed), inputs)
    assert_trained_as_its_own_forward(graph, model, inputs, training=not stranger.draws)


@pytest.mark.parametrize("stranger", REFUSED, ids=named)
def test_what_is_refused_says_why(stranger: Stranger) -> None:
    with pytest.raises(TraceError, match=re.escape(stranger.refused)):
        check_simulation(traced(stranger), stranger.inputs(), STEPS)


def test_names_are_unique() -> None:
    assert max(Counter(map(named, CATALOGUE)).values()) == 1
    assert len(CATALOGUE) >= 100
