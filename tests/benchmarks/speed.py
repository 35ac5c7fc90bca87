"""Speed, as ratios measured in one process, in turn.

    .venv/bin/python tests/benchmarks/speed.py            # the whole table, some minutes
    .venv/bin/python tests/benchmarks/speed.py --short    # the small nets only

Ours against (a) a plain snnTorch step loop with channel masks, (b) the same loop on the physically
pruned network, (c) the plan's convolutions and matrix products alone. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

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

T = 4
RATIOS = (0.0, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Case:
    """A network and the batch sizes it is timed at."""

    name: str
    network: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    repeats: int


CASES = (
    Case("digits", digits_net, (1, 8, 8), (64, 512), 7),
    Case("cluttered-digits", cluttered_digits_net, (1, 16, 16), (64, 512), 5),
    Case("vgg16", vgg16, (3, 32, 32), (64,), 3),
)


def in_turn(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, run A B C A B C ... after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


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


def evaluation_rows(case: Case) -> list[tuple[str, ...]]:
    """Evaluation of plans: times and ratios."""
    model = case.network(0)
    graph = trace(model, torch.rand(4, *case.shape))
    space = PlanSpace(graph.groups, rank_channels(graph, "l1"))
    rows = []
    for batch in case.batches:
        inputs = torch.rand(batch, *case.shape)
        simulator = Simulator(graph, inputs, T)
        for ratio in RATIOS:
            plan = space.from_ratios([ratio] * len(space))
            times = in_turn(
                {
                    "ours": partial(simulator.run, plan),
                    "masked": plain_loop(masked(graph, plan), inputs),
                    "pruned": plain_loop(prune_network(graph, plan), inputs),
                    "products": products_alone(graph, plan, batch),
                },
                case.repeats,
            )
            ours = times["ours"]
            rows.append(
                (
                    case.name,
                    str(batch),
                    f"{ratio:g}",
                    f"{1000 * ours:.1f}",
                    f"{times['masked'] / ours:.2f}",
                    f"{times['pruned'] / ours:.2f}",
                    f"{ours / times['products']:.2f}",
                )
            )
    return rows


def training_rows(case: Case) -> list[tuple[str, ...]]:
    """One training step: ours against snnTorch's loop, same gradients."""
    inputs, labels = torch.rand(64, *case.shape), torch.randint(0, 10, (64,))
    graph = trace(case.network(0), inputs[:4])
    plain = prune_network(graph, full_plan(graph)).train()
    graph.model.train()

    def theirs() -> None:
        plain.zero_grad()
        reset_neurons(plain)
        F.cross_entropy(torch.stack([plain(inputs) for _ in range(T)]).mean(0), labels).backward()

    def ours() -> None:
        graph.model.zero_grad()
        F.cross_entropy(forward(graph, inputs, T, training=True), labels).backward()

    times = in_turn({"ours": ours, "theirs": theirs}, case.repeats)
    return [(case.name, f"{1000 * times['ours']:.1f}", f"{times['theirs'] / times['ours']:.2f}")]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small networks only")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = CASES[:2] if options.short else CASES
    console = Console(width=120)
    table = Table(
        "network", "batch", "ratio", "ours, ms", "masked / ours", "pruned loop / ours",
        "ours / products", title=f"evaluation, float32, T = {T}, {options.threads} thread(s)",
    )  # fmt: skip
    for case in cases:
        for row in evaluation_rows(case):
            table.add_row(*row)
    console.print(table)
    table = Table("network", "ours, ms", "snnTorch / ours", title="training step, batch 64")
    for case in cases:
        for row in training_rows(case):
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
