"""Where a pruned network comes from, written on the module, so that no data is needed to keep it.

It is plain JSON values in an attribute, so that a copy or a pickle of the module has it too, and
whoever loads one needs nothing of spear-gym for it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from spear_gym.pruning.plan import Plan
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.leaves import describe

ATTRIBUTE = "spear_gym_origin"


def description(graph: SpikingGraph) -> dict[str, Any]:
    """What a network must be for a plan of another to fit it, as plain JSON values.

    Args:
        graph: the unpruned, traced network.
    """
    source = graph.nodes[0]
    return {
        "input": {
            "shape": list(source.shape),
            "varying": graph.varying,
            "batch_first": graph.batch_first,
            "events": not source.analog,
            "steps": graph.traced_steps,
        },
        "readout": graph.readout,
        "outputs": list(graph.place),
        "layers": describe(graph),
    }


def mark_origin(model: nn.Module, graph: SpikingGraph, plan: Plan) -> None:
    """Writes on a module that it is a network pruned by a plan.

    Args:
        model: the pruned network.
        graph: the unpruned one.
        plan: by which it was pruned.
    """
    model.__dict__[ATTRIBUTE] = {"plan": plan.to_json(), **description(graph)}


def origin_of(model: nn.Module) -> tuple[Plan, dict[str, Any]] | None:
    """The plan by which a module was pruned, and of what; ``None`` when it was not pruned here."""
    found = model.__dict__.get(ATTRIBUTE)
    if not isinstance(found, dict):
        return None
    return Plan.from_json(found["plan"]), {k: v for k, v in found.items() if k != "plan"}
