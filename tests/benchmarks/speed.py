"""Speed, as ratios measured in one process, in turn.

    .venv/bin/python tests/benchmarks/speed.py            # the whole table, some minutes
    .venv/bin/python tests/benchmarks/speed.py --short    # the small nets only
    .venv/bin/python tests/benchmarks/speed.py --large    # VGG16 at batch 512 too, some GiB
    .venv/bin/python tests/benchmarks/speed.py --json runs/speed.json

Ours against (a) a plain snnTorch step loop with channel masks, (b) the same loop on the physically
pruned network, (c) the plan's convolutions and matrix products alone. Run nothing beside it.
The shipped workloads are timed by `workload_speed.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Tables, in_turn, show, write_json

from spear_gym.pruning.criteria import rank_channels
from spear_gym.pruning.plan import Plan, PlanSpace, kept_by_space
from spear_gym.pruning.slicing import sliced_tensors
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.differentiable import forward
from spear_gym.simulation.layers import connect
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import CONNECTIONS, SpikingGraph, kept_features
from spear_gym.snn.trace import reset_neurons, trace
from spear_gym.snn.zoo import cluttered_digits_net, digits_net, vgg16
from spear_gym.workers.processes import prepare_process

T = 4
RATIOS = (0.0, 0.3, 0.5, 0.7)
TRAINING_BATCH = 64


@dataclass(frozen=True)
class Case:
    """A network and the batch sizes it is timed at."""

    name: str
    network: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    repeats: int


SMALL = (
    Case("digits", digits_net, (1, 8, 8), (64, 512), 7),
    Case("cluttered-digits", cluttered_digits_net, (1, 16, 16), (64, 512), 5),
)
VGG16 = Case("vgg16", vgg16, (3, 32, 32), (64,), 3)
VGG16_LARGE = replace(VGG16, batches=(64, 512))


def plain_loop(model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """snnTorch's own step loop."""

    def run() -> Tensor:
        reset_neurons(model)
        with torch.no_grad():
            return torch.stack([model(inputs) for _ in range(T)]).mean(0)

    return run


def masked(graph: SpikingGraph, plan: Plan) -> nn.Module:
    """The unpruned network with removed channels set to zero behind every BatchNorm."""
    kept = kept_by_space(plan, graph.groups)
    model = prune_network(graph, full_plan(graph))
    for node in graph.nodes:
        index = kept_features(node.channels, kept)
        if node.kind.value != "norm" or index is None:
            continue
        mask = torch.zeros(1, node.shape[0], *(1,) * (len(node.shape) - 1))
        mask[:, index] = 1.0
        model.get_submodule(str(node.module)).register_forward_hook(
            lambda _module, _inputs, output, mask=mask: output * mask
        )
    return model


def full_plan(graph: SpikingGraph) -> Plan:
    """The plan that keeps everything."""
    return Plan(
        tuple(group.name for group in graph.groups),
        tuple(group.channels for group in graph.groups),
        tuple(tuple(range(group.channels)) for group in graph.groups),
    )


def products_alone(graph: SpikingGraph, plan: Plan, batch: int) -> Callable[[], object]:
    """The plan's convolutions and matrix products on inputs of their shapes, nothing else."""
    kept = kept_by_space(plan, graph.groups)
    calls = []
    for node in graph.nodes:
        if node.kind not in CONNECTIONS:
            continue
        tensors = sliced_tensors(graph, node, kept)
        source = graph.nodes[node.inputs[0]]
        index = kept_features(source.channels, kept)
        channels = source.shape[0] if index is None else len(index)
        steps = 1 if source.static else T
        value = (torch.rand(steps, batch, channels, *source.shape[1:]) < 0.2).float()
        calls.append((node, graph.module(node), tensors, value))

    def run() -> None:
        with torch.no_grad():
            for node, module, tensors, value in calls:
                connect(node, module, tensors, value)

    return run


def compared(simulator: Simulator, plan: Plan, inputs: Tensor, repeats: int) -> Row:
    """A plan on inputs: our time, and the ratios of the others to it.

    Args:
        simulator: made of the same inputs, T steps, scoring "plain"; once more with its products in
            bfloat16.
        plan: which channels are kept.
        inputs: static samples.
        repeats: timed rounds.
    """
    graph = simulator.graph
    halves = Simulator(graph, inputs, T, precision="bfloat16")
    times = in_turn(
        {
            "ours": partial(simulator.run, plan),
            "bfloat16": partial(halves.run, plan),
            "masked": plain_loop(masked(graph, plan), inputs),
            "pruned": plain_loop(prune_network(graph, plan), inputs),
            "products": products_alone(graph, plan, len(inputs)),
        },
        repeats,
    )
    ours = times["ours"]
    return {
        "ours, ms": 1000 * ours,
        "masked / ours": times["masked"] / ours,
        "pruned loop / ours": times["pruned"] / ours,
        "ours / products": ours / times["products"],
        "masked / ours in bfloat16": times["masked"] / times["bfloat16"],
    }


def evaluation_rows(case: Case) -> list[Row]:
    """Evaluation of plans: times and ratios."""
    graph = trace(case.network(0), torch.rand(4, *case.shape))
    space = PlanSpace(graph.groups, rank_channels(graph, "l1"))
    rows: list[Row] = []
    for batch in case.batches:
        inputs = torch.rand(batch, *case.shape)
        simulator = Simulator(graph, inputs, T)
        for ratio in RATIOS:
            plan = space.from_ratios([ratio] * len(space))
            row: Row = {"network": case.name, "batch": batch, "ratio": ratio}
            rows.append(row | compared(simulator, plan, inputs, case.repeats))
    return rows


def training_steps(case: Case, batch: int = TRAINING_BATCH) -> dict[str, Callable[[], object]]:
    """One training step, ours and that of snnTorch's loop; the same gradients."""
    inputs, labels = torch.rand(batch, *case.shape), torch.randint(0, 10, (batch,))
    graph = trace(case.network(0), inputs[:4])
    plain = prune_network(graph, full_plan(graph)).train()
    graph.model.train()

    def theirs() -> None:
        plain.zero_grad()
        reset_neurons(plain)
        F.cross_entropy(torch.stack([plain(inputs) for _ in range(T)]).mean(0), labels).backward()

    def ours(mixed: bool = False) -> None:
        graph.model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            readout = forward(graph, inputs, T, training=True)
        F.cross_entropy(readout, labels).backward()

    return {"ours": ours, "bfloat16": partial(ours, mixed=True), "theirs": theirs}


def training_row(case: Case) -> Row:
    """Training steps: our time and snnTorch's over it."""
    times = in_turn(training_steps(case), case.repeats)
    return {
        "network": case.name,
        "ours, ms": 1000 * times["ours"],
        "snnTorch / ours": times["theirs"] / times["ours"],
        "snnTorch / ours in bfloat16": times["theirs"] / times["bfloat16"],
    }


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="small networks only")
    parser.add_argument("--large", action="store_true", help="VGG16 at batch 512 too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    prepare_process(options.threads)
    large = VGG16_LARGE if options.large else VGG16
    cases = SMALL if options.short else (*SMALL, large)
    tables: Tables = {
        f"evaluation, float32, T = {T}, {options.threads} thread(s)": [
            row for case in cases for row in evaluation_rows(case)
        ],
        f"training step, batch {TRAINING_BATCH}": [training_row(case) for case in cases],
    }
    for title, rows in tables.items():
        show(title, rows)
    if options.json is not None:
        write_json(options.json, tables)


if __name__ == "__main__":
    main()
