"""What is checked and measured on another device than the CPU, a part at a time.

    python tests/device/checks.py counts --device cuda --json runs/device/counts.json

`run.sh` runs them all. A part prints its tables, writes them, and exits with 1 when a comparison
does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import MIB, Row, Tables, fresh_plans, machine, show, write_json
from benchmarks.device_speed import side_by_side as walked_side_by_side
from benchmarks.device_speed import simulator_on
from benchmarks.speed import SMALL, VGG16, Case, T, full_plan, masked, plain_loop

import spear_gym
from spear_gym.agents import make_agent, run_search
from spear_gym.device import exact_products
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.pruning.criteria import rank_channels
from spear_gym.pruning.plan import PlanSpace
from spear_gym.pruning.surgery import prune_network
from spear_gym.reward import make_reward
from spear_gym.simulation.differentiable import forward
from spear_gym.simulation.simulate import SCORINGS
from spear_gym.snn.trace import private_copy, reset_neurons, trace
from spear_gym.snn.zoo import RESIDUAL_FORMS, ResidualForm, ResNetSNN
from spear_gym.workers.processes import prepare_process
from spear_gym.workload import Workload

COUNT_TOLERANCE = 1e-3
"""Largest relative change of a layer's SynOps; a neuron at its threshold may decide otherwise."""

GRADIENT_TOLERANCE = 1e-4
"""Largest change of a gradient, of its parameter's largest entry, in float64."""

WORKLOADS = ("digits", "cluttered-digits", "digits-events")
TRAINING_BATCH = 64


class DoesNotHoldError(Exception):
    """A comparison did not hold."""


def networks(device: torch.device) -> Iterator[Case]:
    """The networks of the paper at CIFAR size, untrained; on a CPU narrow residual ones alone."""
    widths = (64, 128, 256, 512)
    if device.type == "cpu":
        widths = (8, 16, 32, 64)
    else:
        yield VGG16
    for form in RESIDUAL_FORMS:
        yield Case(f"resnet18 ({form})", partial(residual, form, widths), (3, 32, 32), (64,), 3)


def residual(form: ResidualForm, widths: Sequence[int], seed: int) -> nn.Module:
    """A spiking ResNet18 of these widths."""
    torch.manual_seed(seed)
    return ResNetSNN(form, widths)


# -------------------------------------------------------------------- time and memory


def synchronise(device: torch.device) -> None:
    """Waits for what was queued; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    functions: Mapping[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, float]:
    """Median seconds of each function, in turn after a warm-up, its queued work included."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            synchronise(device)
            start = time.perf_counter()
            function()
            synchronise(device)
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def memory(name: str, function: Callable[[], object], device: torch.device) -> Row:
    """The most memory of the device that a call holds, MiB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return {f"{name}, MiB": torch.cuda.max_memory_allocated(device) / MIB}


def hardware(device: torch.device) -> Row:
    """What the figures depend on."""
    row: Row = {name: str(value) for name, value in machine().items()}
    if device.type == "cuda":
        row |= {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return row


# -------------------------------------------------------------------- counts


def counts(device: torch.device) -> Tables:
    """SynOps, spikes, read-out and accuracy against the CPU's."""
    rows = [workload_counts(name, scoring, device) for name in WORKLOADS for scoring in SCORINGS]
    random = [network_counts(case, device) for case in networks(device)]
    return {"against the CPU: shipped workloads": rows, "against the CPU: networks": random}


def workload_counts(name: str, scoring: str, device: torch.device, plans: int = 3) -> Row:
    """Plans of a shipped workload, scored here and there."""
    here = PlanEvaluator(spear_gym.load_workload(name), scoring=scoring)  # type: ignore[arg-type]
    there = PlanEvaluator(spear_gym.load_workload(name).to(device), scoring=scoring)  # type: ignore[arg-type]
    layers, accuracies = [0.0], [0.0]
    for key in islice(fresh_plans(here.space), plans):
        ours, theirs = here.evaluate(key), there.evaluate(key)
        layers += [
            abs(b / a - 1)
            for a, b in zip(ours.layer_synops, theirs.layer_synops, strict=True)
            if a > 0
        ]
        accuracies.append(abs(ours.accuracy - theirs.accuracy))
    return {
        "workload": name,
        "scoring": scoring,
        "largest change of a layer's SynOps": within(max(layers), COUNT_TOLERANCE, name),
        "largest change of accuracy": max(accuracies),
    }


def network_counts(case: Case, device: torch.device, scored: int = 64, plans: int = 2) -> Row:
    """Plans of an untrained network, recalibrated so that every layer fires."""
    torch.manual_seed(0)
    inputs = torch.rand(scored, *case.shape)
    graph = trace(case.network(0).eval(), inputs[:4])
    space = PlanSpace(graph.groups, rank_channels(graph, "l1"))
    here, there = simulator_on(graph, inputs, "cpu"), simulator_on(graph, inputs, str(device))
    synops, spikes = [0.0], [0.0]
    for chosen in islice(fresh_plans(space), plans):
        one, other = here.run(space.plan(chosen)), there.run(space.plan(chosen))
        synops += [
            abs(other.layers[name].synops / layer.synops - 1)
            for name, layer in one.layers.items()
            if layer.synops > 0
        ]
        spikes += [
            abs(other.neurons[name].spikes / layer.spikes - 1)
            for name, layer in one.neurons.items()
            if layer.spikes > 0
        ]
    return {
        "network": case.name,
        "layers compared": len(synops) - 1,
        "largest change of a layer's SynOps": within(max(synops), 10 * COUNT_TOLERANCE, case.name),
        "largest change of a layer's spikes": max(spikes),
    }


def within(value: float, limit: float, what: str) -> float:
    """The value, if it is small enough.

    Raises:
        DoesNotHoldError: when it is not, or is no number.
    """
    if not value <= limit:
        raise DoesNotHoldError(f"{what}: {value:.3g} differs by more than {limit:.3g}")
    return value


# -------------------------------------------------------------------- gradients


def gradients(device: torch.device) -> Tables:
    """Gradients against the CPU's, and against snnTorch's loop on the device, in float64."""
    cases = (*SMALL, *networks(device))
    return {"gradients": [gradient_row(case, device) for case in cases]}


def gradient_row(case: Case, device: torch.device, batch: int = 2) -> Row:
    """One backward pass of a network in training mode."""
    torch.manual_seed(0)
    inputs, labels = torch.rand(batch, *case.shape).double(), torch.randint(0, 10, (batch,))
    model = doubled(case.network(0))
    here = gradients_of(model, inputs, labels)
    there = gradients_of(private_copy(model).to(device), inputs.to(device), labels.to(device))
    theirs = gradients_of_loop(private_copy(model).to(device), inputs.to(device), labels.to(device))
    return {
        "network": case.name,
        "parameters": len(here),
        "against the CPU": within(apart(here, there), GRADIENT_TOLERANCE, case.name),
        "against snnTorch there": within(apart(theirs, there), GRADIENT_TOLERANCE, case.name),
    }


def doubled(model: nn.Module) -> nn.Module:
    """In float64, spikes too (snnTorch's surrogates end in float32)."""
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, snn.Leaky):
            module.spike_grad = partial(in_dtype_of_input, module.spike_grad)
    return model


def in_dtype_of_input(surrogate: Callable[[Tensor], Tensor], potential: Tensor) -> Tensor:
    """Spikes in the dtype of the membrane potential."""
    return surrogate(potential).to(potential.dtype)


def gradients_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """By the project's own differentiable pass."""
    graph = trace(model, inputs[:2])
    graph.model.train()
    with exact_products(inputs.device):
        F.cross_entropy(forward(graph, inputs, T, training=True), labels).backward()
    return collected(graph.model)


def gradients_of_loop(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """By snnTorch's loop over time."""
    model.train()
    reset_neurons(model)
    with exact_products(inputs.device):
        F.cross_entropy(torch.stack([model(inputs) for _ in range(T)]).mean(0), labels).backward()
    return collected(model)


def collected(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter, on the CPU."""
    return {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of two gradients, over the largest entry of the parameter's first."""
    if one.keys() != other.keys():
        raise DoesNotHoldError(
            f"gradients of other parameters: {sorted(one.keys() ^ other.keys())}"
        )
    return max(
        float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-12))
        for name in one
    )


# -------------------------------------------------------------------- training


def training(device: torch.device) -> Tables:
    """A training step against snnTorch's own loop."""
    rows = [training_row(case, device) for case in (*SMALL, *networks(device))]
    return {f"training step, batch {TRAINING_BATCH}": rows}


def training_row(case: Case, device: torch.device) -> Row:
    """Medians of steps run in turn, and the memory of each."""
    batch = TRAINING_BATCH if device.type == "cuda" else 8
    inputs = torch.rand(batch, *case.shape, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    graph = trace(case.network(0).to(device), inputs[:4])
    plain = prune_network(graph, full_plan(graph)).train()
    graph.model.train()

    def theirs(mixed: bool = False) -> None:
        plain.zero_grad()
        reset_neurons(plain)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            readout = torch.stack([plain(inputs) for _ in range(T)]).mean(0)
        F.cross_entropy(readout.float(), labels).backward()

    def ours(mixed: bool = False) -> None:
        graph.model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            readout = forward(graph, inputs, T, training=True)
        F.cross_entropy(readout, labels).backward()

    ways: dict[str, Callable[[], object]] = {
        "ours": ours,
        "ours in bfloat16": partial(ours, mixed=True),
        "snnTorch": theirs,
        "snnTorch in bfloat16": partial(theirs, mixed=True),
    }
    seconds = timed(ways, device, case.repeats)
    row: Row = {"network": case.name, "batch": batch}
    row |= {f"{way}, ms": 1e3 * value for way, value in seconds.items()}
    row["snnTorch / ours"] = seconds["snnTorch"] / seconds["ours"]
    row["snnTorch / ours in bfloat16"] = (
        seconds["snnTorch in bfloat16"] / seconds["ours in bfloat16"]
    )
    row |= memory("ours", ours, device) | memory("snnTorch", theirs, device)
    spikingjelly = spikingjelly_step(case, inputs, labels)
    if spikingjelly is not None:
        both = timed({"ours": ours, "theirs": spikingjelly}, device, case.repeats)
        row["SpikingJelly (CuPy) / ours"] = both["theirs"] / both["ours"]
    return row


def spikingjelly_step(case: Case, inputs: Tensor, labels: Tensor) -> Callable[[], object] | None:
    """The same VGG16 in SpikingJelly, multi-step with its CuPy backend; None where it is absent."""
    if case.name != VGG16.name or inputs.device.type != "cuda":
        return None
    try:
        from spikingjelly.activation_based import functional, layer, neuron, surrogate
    except ImportError:
        return None
    made: dict[type[nn.Module], Callable[..., nn.Module]] = {
        nn.Conv2d: lambda m: layer.Conv2d(m.in_channels, m.out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d: lambda m: layer.BatchNorm2d(m.num_features),
        nn.MaxPool2d: lambda _: layer.MaxPool2d(2),
        nn.Flatten: lambda _: layer.Flatten(),
        nn.Linear: lambda m: layer.Linear(m.in_features, m.out_features),
        snn.Leaky: lambda _: neuron.LIFNode(
            tau=2.0, decay_input=False, v_reset=0.0, surrogate_function=surrogate.ATan()
        ),
    }
    layers = [made[type(module)](module) for module in case.network(0).children()]
    network = nn.Sequential(*layers).to(inputs.device)
    functional.set_step_mode(network, "m")
    functional.set_backend(network, "cupy", neuron.LIFNode)

    def step() -> None:
        network.zero_grad()
        functional.reset_net(network)
        readout = network(inputs.expand(T, *inputs.shape)).mean(0)
        F.cross_entropy(readout, labels).backward()

    return step


# -------------------------------------------------------------------- scoring


def scoring(device: torch.device) -> Tables:
    """Seconds a plan, recalibrated: one by one, side by side, and snnTorch's masked loop."""
    samples = 512 if device.type == "cuda" else 16
    rows = [scoring_row(case, device, samples) for case in (*SMALL, *networks(device))]
    return {f"scoring, {samples} samples": rows}


def scoring_row(case: Case, device: torch.device, samples: int, plans: int = 8) -> Row:
    """A network's plans, each way timed in turn."""
    torch.manual_seed(0)
    inputs = torch.rand(samples, *case.shape)
    graph = trace(case.network(0).eval(), inputs[:4])
    space = PlanSpace(graph.groups, rank_channels(graph, "l1"))
    chosen = [space.plan(key) for key in islice(fresh_plans(space), plans)]
    half = space.from_ratios([0.5] * len(space))
    there = simulator_on(graph, inputs, str(device))
    plain = masked(graph, half).to(device)
    for module in plain.modules():  # the masks travel with the hooks, not with the module
        for hook in module._forward_hooks.values():
            hook.__defaults__ = (hook.__defaults__[0].to(device),)
    ways: dict[str, Callable[[], object]] = {
        "one by one": lambda: [there.run(plan) for plan in chosen],
        "half the channels": lambda: there.run(half),
        "masked loop": plain_loop(plain, inputs.to(device)),
    }
    together = side_by_side_works(there, space)
    if together:
        ways["side by side"] = lambda: walked_side_by_side(there, space, chosen)
    seconds = timed(ways, device, case.repeats)
    row: Row = {
        "network": case.name,
        "one by one, ms a plan": 1e3 * seconds["one by one"] / plans,
        "half the channels, ms": 1e3 * seconds["half the channels"],
        "masked loop / half the channels": seconds["masked loop"] / seconds["half the channels"],
        **memory("one by one", ways["one by one"], device),
    }
    if together:
        row["one by one / side by side"] = seconds["one by one"] / seconds["side by side"]
    return row


def side_by_side_works(simulator: object, space: PlanSpace) -> bool:
    """Whether several plans of this network can be walked together."""
    try:
        walked_side_by_side(simulator, space, [space.from_ratios([0.5] * len(space))] * 2)  # type: ignore[arg-type]
    except (NotImplementedError, ValueError):
        return False
    return True


# -------------------------------------------------------------------- search


def search(device: torch.device) -> Tables:
    """A whole small search with its fine-tune."""
    workloads = [spear_gym.load_workload("digits").to(device), random_workload(device)]
    return {"search": [search_row(workload, device) for workload in workloads]}


def random_workload(device: torch.device) -> Workload:
    """The first of the networks on random images: what takes time, and no accuracy worth reading.

    Its BatchNorm statistics are measured once, else the deep layers of an untrained network are
    silent and there is nothing to prune.
    """
    case = next(networks(device))
    generator = torch.Generator().manual_seed(0)
    sizes = (512, 256, 256) if device.type == "cuda" else (16, 16, 16)
    splits = [
        (torch.rand(n, *case.shape, generator=generator), torch.arange(n) % 10) for n in sizes
    ]
    network = case.network(0).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    plain_loop(network, splits[0][0][:64])()
    reset_neurons(network)
    workload = Workload(
        model=network.eval(),
        train=splits[0],
        search=splits[1],
        test=splits[2],
        num_steps=T,
        name=f"{case.name} on random images",
    )
    return workload.to(device)


def search_row(workload: Workload, device: torch.device) -> Row:
    """Random search of a few evaluations, then the best plan fine-tuned."""
    budget = 20 if device.type == "cuda" else 3
    start = time.perf_counter()
    evaluator = PlanEvaluator(workload)
    judge = make_judge(evaluator, NoEstimator(), make_reward("tar"), target=0.5)
    synchronise(device)
    ready = time.perf_counter()
    result = run_search(make_agent("random"), evaluator, judge, budget=budget, seed=0)
    synchronise(device)
    searched = time.perf_counter()
    tuned = evaluator.finetune(result.best.evaluation.counts)
    synchronise(device)
    end = time.perf_counter()
    return {
        "workload": workload.name,
        "evaluations": result.paid,
        "making it, s": ready - start,
        "an evaluation, s": (searched - ready) / result.paid,
        "fine-tune, s": end - searched,
        "accuracy on search": tuned.search.accuracy,
        "neurons": "; ".join(k for k in evaluator.statistics if k.startswith("neuron update")),
    }


# -------------------------------------------------------------------- the command

PARTS: dict[str, Callable[[torch.device], Tables]] = {
    "counts": counts,
    "gradients": gradients,
    "training": training,
    "scoring": scoring,
    "search": search,
}


def merge(path: Path) -> None:
    """One file of all parts' figures beside it; a part that wrote none is named."""
    parts = {name: path.with_name(f"{name}.json") for name in PARTS}
    found = {name: json.loads(p.read_text()) for name, p in parts.items() if p.is_file()}
    missing = sorted(set(parts) - set(found))
    text = json.dumps({"parts": found, "missing": missing}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    absent = ", ".join(missing) or "none"
    sys.stdout.write(f"{path}: {len(found)} of {len(parts)} parts, missing: {absent}\n")


@contextmanager
def told() -> Iterator[None]:
    """A comparison that fails, or a device that is not there, is one line and status 1."""
    try:
        yield
    except DoesNotHoldError as error:
        sys.exit(f"does not hold: {error}")


def main() -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=[*PARTS, "merge"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    if options.part == "merge":
        merge(options.json)
        return
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is available here; `--device cpu` runs the same on the CPU")
    # The CPU's half of a comparison may use them all; what is timed runs on the device.
    prepare_process(1 if device.type == "cpu" else os.cpu_count() or 1)
    with told():
        tables = PARTS[options.part](device)
    for title, rows in tables.items():
        show(title, rows)
    write_json(options.json, {"hardware": [hardware(device)], **tables})


if __name__ == "__main__":
    main()
