"""Scoring on a GPU: plans one after the other and side by side, and their SynOps against the CPU's.

.venv/bin/python tests/benchmarks/device_speed.py --device cuda
.venv/bin/python tests/benchmarks/device_speed.py --device cuda --short --json runs/device.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, fresh_plans, in_turn, show, write_json
from benchmarks.speed import SMALL, VGG16, Case, T

from spear_gym.pruning.criteria import rank_channels
from spear_gym.pruning.plan import Plan, PlanSpace
from spear_gym.simulation.simulate import Simulator
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import private_copy, trace
from spear_gym.workers.processes import prepare_process

PLANS = 8
SCORED = 512


def side_by_side(simulator: Simulator, space: PlanSpace, plans: list[Plan]) -> list[Walk]:
    """Walks all plans, a layer of all of them at a time."""
    walks = [simulator.start()] * len(plans)
    for index in range(len(space)):
        kept = [torch.tensor(plan.kept[index]) for plan in plans]
        walks = simulator.advance_side_by_side(walks, kept)
    return walks


def device_row(case: Case, device: str, scored: int = SCORED, plans: int = PLANS) -> Row:
    """A network's plans on a device, recalibrated, each way timed in turn."""
    torch.manual_seed(0)
    inputs = torch.rand(scored, *case.shape)
    graph = trace(case.network(0).eval(), inputs[:4])
    space = PlanSpace(graph.groups, rank_channels(graph, "l1"))
    chosen = [space.plan(counts) for counts in islice(fresh_plans(space), plans)]
    cpu = simulator_on(graph, inputs, "cpu")
    there = simulator_on(graph, inputs, device)
    ways: dict[str, Callable[[], list[Walk]]] = {
        "one by one": lambda: [there.run(plan) for plan in chosen],
        "side by side": lambda: side_by_side(there, space, chosen),
    }
    seconds = in_turn(dict(ways), case.repeats)
    expected = [cpu.run(plan).synops for plan in chosen]
    changes = {
        f"SynOps of {way}, largest change": max(
            abs(walk.synops / synops - 1) for walk, synops in zip(run(), expected, strict=True)
        )
        for way, run in ways.items()
    }
    return {
        "network": case.name,
        "samples": float(scored),
        "plans": float(plans),
        "one by one, ms a plan": 1e3 * seconds["one by one"] / plans,
        "side by side, ms a plan": 1e3 * seconds["side by side"] / plans,
        "one by one / side by side": seconds["one by one"] / seconds["side by side"],
        **changes,
    }


def simulator_on(graph: SpikingGraph, inputs: Tensor, device: str) -> Simulator:
    """Scores on a device, half of the samples calibrating too."""
    moved = graph.rebind(private_copy(graph.model).to(device))
    there = inputs.to(device)
    calibration = there[: len(there) // 2]
    return Simulator(moved, there, T, scoring="recalibrated", calibration=calibration)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--short", action="store_true", help="the small networks only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prepare_process(1)
    cases = SMALL if options.short else (*SMALL, replace(VGG16, repeats=2))
    rows = [device_row(case, options.device) for case in cases]
    show(f"scoring on {options.device}", rows)
    if options.json is not None:
        write_json(options.json, {f"scoring on {options.device}": rows})


if __name__ == "__main__":
    main()
