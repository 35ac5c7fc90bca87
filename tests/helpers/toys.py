"""Small trained workloads; `spear --workload toys:tiny` finds them too."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import snntorch as snn
import torch
from snntorch import functional as sf
from torch import Tensor, nn

from spear_gym.agents.base import SearchSession
from spear_gym.data import DataSplits, Split, digits
from spear_gym.evaluation import Evaluation, PrefixMeasure
from spear_gym.lre import Sample
from spear_gym.objective import Objective
from spear_gym.simulation.simulate import Scoring
from spear_gym.snn.trace import private_copy, trace
from spear_gym.snn.zoo import ConvSNN
from spear_gym.training import Recipe, train
from spear_gym.workload import Workload

STEPS = 3


def few_digits() -> DataSplits:
    """300 train, 120 search and 100 test images of `digits`."""
    whole = digits()
    first = {name: split.subset(torch.arange(n)) for (name, split), n in _parts(whole)}
    return DataSplits(**first, num_classes=whole.num_classes)


def _parts(whole: DataSplits):
    return zip(whole.named().items(), (300, 120, 100), strict=True)


def trained(
    channels: Sequence[int],
    *,
    name: str,
    scoring: Scoring = "recalibrated",
    seed: int = 0,
    finetune: Recipe | None = None,
    pool_after: Sequence[int] = (1, 2),
) -> Workload:
    """A conv network trained for about a second on `few_digits`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = ConvSNN(channels, pool_after=pool_after, image_size=8)
    data = few_digits()
    graph = trace(model, data.train.inputs[:4])
    train(graph, data.train, STEPS, Recipe(epochs=8, batch_size=32, lr=1e-2), seed=seed)
    return Workload(
        model=graph.model,
        train=data.train,
        search=data.search,
        test=data.test,
        num_steps=STEPS,
        name=name,
        finetune=finetune or Recipe(epochs=1, lr=2e-3),
        scoring=scoring,
        calibration_samples=64,
    )


@cache
def tiny() -> Workload:
    """Three groups."""
    return trained((6, 8, 8), name="tiny")


@cache
def toy() -> Workload:
    """Two groups of few channels: every plan can be enumerated."""
    return trained((12, 12), name="toy")


@cache
def deep(seed: int = 0) -> Workload:
    """Eight groups of 16 channels: too many plans to stumble upon a good one."""
    return trained((16,) * 8, name="deep", seed=seed, pool_after=(1, 3))


@cache
def twin() -> Workload:
    """`tiny`, its test images those of search: what is kept on the one is kept on the other."""
    return rebuilt(tiny(), test=tiny().splits.search, name="twin")


class Spiking(nn.Module):
    """One time step on (1, 8, 8): a convolution and a hidden layer, and an output neuron layer.

    Args:
        outputs: neurons of the output layer.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.lif1 = snn.Leaky(0.8, threshold=0.5, init_hidden=True)
        self.hidden = nn.Linear(8 * 16, 24)
        self.lif2 = snn.Leaky(0.8, threshold=0.5, init_hidden=True)
        self.fc = nn.Linear(24, outputs)
        self.lif3 = snn.Leaky(0.8, init_hidden=True, output=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.lif2(self.hidden(self.lif1(self.conv(x)).flatten(1)))
        return self.lif3(self.fc(hidden))


POPULATION = 4
"""Output neurons a class of `population`."""


@cache
def population_net() -> nn.Module:
    """A population code of the digits, trained by snnTorch's own loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Spiking(10 * POPULATION)
    data = few_digits()
    graph = trace(model, data.train.inputs[:4])
    objective = Objective(sf.ce_count_loss(population_code=True, num_classes=10))
    recipe = Recipe(epochs=8, batch_size=32, lr=1e-2)
    train(graph, data.train, STEPS, recipe, seed=0, objective=objective)
    return graph.model


def spiking(model: nn.Module, /, **changes: Any) -> Workload:
    """A workload of the few digits around a network."""
    settings: dict[str, Any] = {
        "model": model,
        "num_steps": STEPS,
        "finetune": Recipe(epochs=1, lr=2e-3),
        "calibration_samples": 64,
        **few_digits().named(),
    }
    return Workload(**(settings | changes))


def population() -> Workload:
    """Blocks of output neurons stand for a class."""
    return spiking(
        population_net(),
        name="population",
        readout="population",
        num_classes=10,
        loss=sf.ce_count_loss(population_code=True, num_classes=10),
    )


def integrating(outputs: int) -> Spiking:
    """Its output neurons have no reset."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = Spiking(outputs)
    model.lif3 = snn.Leaky(0.8, reset_mechanism="none", init_hidden=True, output=True)
    return model


def regression(targets: int = 2, **changes: Any) -> Workload:
    """From an image how bright its halves are, as membranes; not trained."""

    def labelled(split: Split) -> Split:
        halves = 10 * split.inputs.unflatten(2, (2, 4)).mean((1, 3, 4)) - 3
        return Split(split.inputs, halves[:, :targets] if targets > 1 else halves[:, 0])

    data = {name: labelled(split) for name, split in few_digits().named().items()}
    settings = {"readout": "membrane", "loss": "mean_squared_error", "metric": "r2", **data}
    model = integrating(targets)
    return spiking(model, **({"name": "regression", **settings} | changes))


def overflowing() -> Workload:
    """A `toy` whose output is infinite as long as the last group keeps its weakest channel."""
    whole = toy()
    model = private_copy(whole.graph.model)
    weakest = int(model.conv2.weight.detach().flatten(1).abs().sum(1).argmin())
    with torch.no_grad():
        model.bn2.bias[weakest] = 100.0  # fires at every place
        width = model.classifier.weight.shape[1] // model.conv2.out_channels
        model.classifier.weight[:, weakest * width : (weakest + 1) * width] = 3e38
    splits = whole.splits
    return Workload(
        model=model,
        train=splits.train,
        search=splits.search,
        test=splits.test,
        num_steps=whole.num_steps,
        name="overflowing",
    )


def made_up(counts: Sequence[int], accuracy: float, synops: float, unpruned: float) -> Evaluation:
    """An evaluation that nobody measured."""
    measured = PrefixMeasure(0.5, 0.0, unpruned, 1.0)
    return Evaluation(
        counts=tuple(counts),
        accuracy=accuracy,
        synops=synops,
        synops_fraction=synops / unpruned,
        macs=0.0,
        parameters=10,
        params_fraction=0.5,
        layer_synops=(synops,),
        prefixes=(measured,) * (len(counts) + 1),
        seconds=0.0,
    )


def rebuilt(workload: Workload, **changes: Any) -> Workload:
    """A workload made again, with other settings."""
    settings = {
        "model": workload.graph.model,
        "num_steps": workload.num_steps,
        "name": workload.name,
        "finetune": workload.finetune,
        "scoring": workload.scoring,
        "calibration_samples": workload.calibration_samples,
        **workload.splits.named(),
    }
    return Workload(**(settings | changes))


def sample(scored: float, finetuned: float, layers: Sequence[float] = ()) -> Sample:
    """A sample that nobody fine-tuned."""
    return Sample((3, 4), scored, finetuned, accuracy=0.9, seconds=0.1, layers=tuple(layers))


def on_line(weight: float, intercept: float, scored: Sequence[float]) -> list[Sample]:
    """Samples on a line."""
    return [sample(s, weight * s + intercept) for s in scored]


def failed() -> Sample:
    """A sample whose fine-tune failed."""
    nan = math.nan
    return Sample((3, 4), 0.4, nan, nan, 0.0, failed="the training loss became nan")


def scaled(context: float, item: int) -> float:
    """A task that refuses some items."""
    if item < 0:
        raise ValueError(f"item {item} is negative")
    return context * item


def process(_: None, item: int) -> tuple[int, int, int]:
    """A task that tells where it ran: (item, process, threads)."""
    return item, os.getpid(), torch.get_num_threads()


class Stuck:
    """An agent that asks for one plan again and again."""

    name = "stuck"

    def search(self, session: SearchSession, seed: int) -> None:
        while True:
            session.submit([0.5] * len(session.evaluator.space))
