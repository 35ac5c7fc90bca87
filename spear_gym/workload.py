"""A workload: a trained network, its data splits, time steps, and how it is fine-tuned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from spear_gym.boundary.plugins import FACTORIES, PluginError, call, import_path
from spear_gym.boundary.text import unknown
from spear_gym.data.splits import MapDataset, Split, as_split
from spear_gym.identity import identity
from spear_gym.objective import (
    Loss,
    Metric,
    Objective,
    ObjectiveError,
    objective_of,
    scores_of_a_sample,
    splits_of,
)
from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import OwnForward, runnable
from spear_gym.simulation.own_forward import check_simulation
from spear_gym.simulation.simulate import SCORINGS, Scoring, Simulator
from spear_gym.simulation.walk import Walk
from spear_gym.snn.decision import ScoreFunction
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.leaves import describe
from spear_gym.snn.trace import private_copy, trace
from spear_gym.training import Recipe

DEFINITIONS = 1
"""Raised whenever a change makes the same plan measure differently."""

SplitName = Literal["train", "search", "test"]
Data = Split | tuple[Tensor, Tensor] | MapDataset


class WorkloadError(ValueError):
    """A workload's network, data and settings do not fit together, or it is unknown."""


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """Per-sample figures of one connection layer.

    Attributes:
        name: module path.
        channels: output channels.
        synops: synaptic operations per sample.
        macs: multiply-accumulates per sample (analog layers only).
        input_rate: non-zero share of its inputs per time step.
    """

    name: str
    channels: int
    synops: float
    macs: float
    input_rate: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a network does on a split.

    Attributes:
        accuracy: the workload's metric, in [0, 1]: by default the share of samples classified
            correctly.
        synops: synaptic operations per sample.
        macs: multiply-accumulates of analog layers per sample, counted at every time step.
        macs_once: the same with a static input computed once.
        spikes: spikes per sample.
        neuron_updates: neuron updates per sample.
        parameters: weights and biases, trainable or frozen.
        layers: per connection layer, in execution order.
        silent: neuron layers that never fired.
        undecided: samples on which all classes had the same score; they count as class 0.
        answers: different classes among the predictions; without classes, different scores.
    """

    accuracy: float
    synops: float
    macs: float
    macs_once: float
    spikes: float
    neuron_updates: float
    parameters: int
    layers: tuple[LayerFigures, ...]
    silent: tuple[str, ...] = ()
    undecided: int = 0
    answers: int = 0

    @property
    def layer_synops(self) -> dict[str, float]:
        """Synaptic operations per sample by layer name."""
        return {layer.name: layer.synops for layer in self.layers}


class Workload:
    """A trained spiking network with everything needed to prune it.

    Args:
        model: the trained network; it is copied, never changed.
        train: samples for fine-tuning; a seeded subset calibrates BatchNorm.
        search: samples that plans are scored on.
        test: samples for the final figures only.
        num_steps: time steps T.
        name: shown in reports.
        varying: samples carry a time axis, ``(N, T, C, ...)``; by default when they have 5 axes.
        events: the input's non-zero entries count as spikes, so the first layer has SynOps.
        readout: from what the output layer does to one score a class: ``"current"``,
            ``"spikes"`` or ``"rate"``, ``"membrane"``, ``"membrane_max"``, ``"last"``,
            ``"population"``, ``"latency"``, or a function of the outputs
            ``(time, samples, outputs)`` that returns ``(samples, classes)``; inferred when
            ``None``.
        loss: what fine-tuning minimises: ``"cross_entropy"`` (the default), a name in
            ``objective.LOSSES``, or a function of the outputs ``(time, samples, outputs)`` and the
            labels, as snnTorch's losses are.
        metric: what plans are chosen and reported by: ``"accuracy"`` (the default), a name in
            ``objective.METRICS``, or a function of the scores ``(samples, classes)`` and the labels
            that gives a number in [0, 1], larger where the network is better.
        num_classes: of a population code; and where the network has more outputs than the labels
            in use, the answer to what they are.
        outputs: index or key, or several of them, that lead to the class output in what forward
            returns; the first tensor when ``None``.
        batch_first: a network that loops over frames takes them as ``(batch, time, ...)``, not as
            ``(time, batch, ...)``; found out when ``None``.
        finetune: the recipe of the final fine-tune and of LRE's samples.
        scoring: how plans are scored by default.
        calibration_samples: size of the calibration set.

    Raises:
        WorkloadError: when network, data and settings do not fit together.
        TraceError: when the network cannot be traced.
        PlanError: when it breaks once channels are removed.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        train: Data,
        search: Data,
        test: Data,
        num_steps: int,
        name: str = "custom",
        varying: bool | None = None,
        events: bool = False,
        readout: str | ScoreFunction | None = None,
        loss: str | Loss | None = None,
        metric: str | Metric | None = None,
        num_classes: int | None = None,
        outputs: int | str | Sequence[int | str] | None = None,
        batch_first: bool | None = None,
        finetune: Recipe | None = None,
        scoring: Scoring = "recalibrated",
        calibration_samples: int = 256,
    ) -> None:
        splits = {"train": train, "search": search, "test": test}
        try:
            read = {key: as_split(data, key) for key, data in splits.items()}
        except ValueError as error:
            raise WorkloadError(str(error)) from error
        self.name = name
        self.num_steps = num_steps
        self.events = events
        self.finetune = finetune if finetune is not None else Recipe(epochs=2)
        self.scoring: Scoring = scoring
        self.calibration_samples = calibration_samples
        self.varying = read["train"].is_events if varying is None else varying
        self.catalogued = False
        self.readout, self.outputs, self.num_classes = readout, outputs, num_classes
        self._check_settings(model, read["train"])
        self.objective: Objective = _objective(loss, metric, read)
        example = read["train"].inputs[:4]
        if len(example) < 2:
            raise WorkloadError("the train split has 1 sample; at least 2 are needed")
        shown = example.transpose(0, 1) if self.varying else example
        try:
            self.graph: SpikingGraph = trace(
                model,
                shown,
                varying=self.varying,
                events=events,
                readout=readout,
                num_classes=num_classes,
                outputs=outputs,
                batch_first=batch_first,
            )
        except TraceError as error:
            if varying is None and not self.varying and shown.shape[1:2] == (num_steps,):
                raise TraceError(
                    f"{error}. The samples, {tuple(shown.shape[1:])} each, were shown whole at "
                    "every time step; if their first axis is time, say varying=True"
                ) from error
            raise
        if self.graph.idiom == "loop" and self.graph.traced_steps != num_steps:
            raise WorkloadError(_another_number_of_steps(num_steps, self.graph.traced_steps))
        if self.graph.groups:
            self.graph = runnable(self.graph, self._as_forward_takes(example))
        check_simulation(self.graph, example, num_steps)
        few = read["train"].subset(torch.arange(len(example)))
        try:
            classes = scores_of_a_sample(self.graph, self.objective, few, num_steps)
            self.splits = splits_of(read, classes, self.objective, self.graph.decision, num_classes)
        except ValueError as error:
            raise WorkloadError(str(error)) from error
        self.check_scoring(scoring)

    def check_scoring(self, scoring: str) -> None:
        """Refuses a scoring that is unknown or not defined for this workload.

        Raises:
            WorkloadError: with the way out.
        """
        if scoring not in SCORINGS:
            raise WorkloadError(unknown("scoring", scoring, SCORINGS))
        if scoring != "refit":
            return
        why = None
        if self.splits.train.label_kind != "classes":
            why = "the labels are no classes"
        elif self.graph.decision.function is not None:
            why = "what a readout that is a function makes of the classifier's outputs is not known"
        if why is not None:
            raise WorkloadError(
                "scoring 'refit' fits the classifier to a high output for the labelled class, but "
                f"{why}; use 'recalibrated'"
            )

    def _check_settings(self, model: nn.Module, train: Split) -> None:
        if isinstance(self.num_steps, bool) or self.num_steps < 1:
            raise WorkloadError(f"num_steps is {self.num_steps}; it must be at least 1")
        if self.scoring not in SCORINGS:
            raise WorkloadError(f"scoring is '{self.scoring}'; choose one of {', '.join(SCORINGS)}")
        if self.calibration_samples < 2:
            raise WorkloadError(
                f"calibration_samples is {self.calibration_samples}; it must be at least 2"
            )
        if self.varying and train.inputs.shape[1] != self.num_steps:
            raise WorkloadError(
                f"num_steps is {self.num_steps}, but the samples have {train.inputs.shape[1]} "
                f"frames (shape {tuple(train.inputs.shape)}); they must be the same"
            )
        for key, value in model.state_dict().items():
            if value.is_floating_point() and value.dtype != torch.float32:
                raise WorkloadError(
                    f"weight '{key}' is {value.dtype}; networks are run in float32: call "
                    "model.float() first"
                )
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise WorkloadError(f"weight '{key}' holds NaN or infinite values")

    def __reduce__(self) -> Any:
        if self.catalogued:
            return load_workload, (self.name,)
        # snnTorch's surrogate gradients are closures, which plain pickle refuses.
        return _restored, (type(self), cloudpickle.dumps(self.__dict__))

    def __deepcopy__(self, memo: dict[int, Any]) -> Workload:
        """A workload of its own around the same network and data, which are never written to."""
        if self.catalogued:
            return self
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def reduce_whole(self) -> tuple[Any, ...]:
        """How a workload travels to worker processes: with its data, catalogued or not.

        By name each worker would make the data again, and would not know what a user registered.
        """
        name = next((name for name, loaded in _LOADED.items() if loaded is self), None)
        return _arrived, (type(self), name), self.__dict__

    @property
    def device(self) -> torch.device:
        """Where network and data are."""
        return self.splits.search.inputs.device

    def to(self, device: str | torch.device) -> Workload:
        """A copy on another device, on which it is then scored, fine-tuned and measured.

        Its fingerprint stays, so that fits of the SynOps prediction serve. The compiled loops are
        for the CPU; a run's statistics name what takes their place elsewhere. Worker processes
        hold a copy each of what is not on the CPU.

        Raises:
            WorkloadError: when the device is unknown, or not there.
        """
        try:
            place = torch.empty(0, device=device).device
        except (AssertionError, RuntimeError) as error:
            raise WorkloadError(f"device '{device}' cannot be used: {error}") from error
        moved = type(self).__new__(type(self))
        moved.__dict__.update(self.__dict__)
        for cached in ("calibration", "references", "own_forward"):
            moved.__dict__.pop(cached, None)
        moved.catalogued = False
        moved.graph = self.graph.rebind(private_copy(self.graph.model).to(place))
        moved.splits = self.splits.to(place)
        return moved

    def split(self, name: SplitName) -> Split:
        """A split by name."""
        return self.splits.named()[name]

    def _as_forward_takes(self, samples: Tensor) -> Tensor:
        if not self.varying:
            return samples
        return samples.transpose(0, 1) if self.graph.idiom == "loop" else samples[:, 0]

    @cached_property
    def own_forward(self) -> OwnForward:
        """What the network's own forward answers to a few samples."""
        return OwnForward(self.graph, self._as_forward_takes(self.splits.train.inputs[:2]))

    @cached_property
    def runs_pruned(self) -> set[Plan]:
        """Plans at which the network's own forward was seen to run."""
        return set()

    @cached_property
    def calibration(self) -> Split:
        """The fixed seeded subset of train that calibrates scoring."""
        train = self.splits.train
        order = np.random.RandomState(0).permutation(len(train))[: self.calibration_samples]
        return train.subset(torch.from_numpy(np.sort(order)))

    @cached_property
    def references(self) -> dict[str, Measurement]:
        """Measurements of the unpruned network made so far, by split."""
        return {}

    def reference(self, split: SplitName = "search") -> Measurement:
        """The unpruned network, with its own BatchNorm statistics, on a split."""
        if split not in self.references:
            self.references[split] = measure(self, self.graph.model, split)
        return self.references[split]

    def fingerprint(self) -> str:
        """SHA-256 of the graph, weights, data, time steps, readout and fine-tuning recipe."""
        digest = hashlib.sha256()
        for key, value in sorted(self.graph.model.state_dict().items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        settings = {
            "graph": describe(self.graph),
            "data": self.splits.sha256(),
            "num_steps": self.num_steps,
            "varying": self.varying,
            "events": self.events,
            "readout": self.graph.readout,
            "calibration": self.calibration_samples,
            "finetune": self.finetune.to_json(),
            **self.objective.describe(),
        }
        # What is usual goes unsaid, so that older fits stay valid.
        decision = self.graph.decision
        if decision.rule != "total":
            settings["decision"] = [*decision.describe(), identity(decision.function)]
        if self.outputs is not None:
            settings["output"] = self.graph.output
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()


def _objective(
    loss: str | Loss | None, metric: str | Metric | None, read: dict[str, Split]
) -> Objective:
    """The objective, once it fits the labels of every split."""
    found = Objective()
    for name, split in read.items():
        try:
            found = objective_of(loss, metric, split)
        except ObjectiveError as error:
            raise WorkloadError(f"{name} split: {error}") from error
    return found


def _another_number_of_steps(asked: int, traced: int) -> str:
    if traced > 1:
        return (
            f"num_steps is {asked}, but the network's own loop runs {traced} time steps; pass "
            f"num_steps={traced}"
        )
    return (
        f"num_steps is {asked}, but forward runs 1 time step and starts its neurons' states "
        f"itself, so that nothing is kept from step to step; loop over {asked} time steps in "
        "forward, or give the neurons init_hidden=True and no states; or pass num_steps=1"
    )


def _restored(kind: type[Workload], payload: bytes) -> Workload:
    """The copy of a workload on its way through our own processes."""
    workload = kind.__new__(kind)
    workload.__dict__.update(cloudpickle.loads(payload))
    return workload


def _arrived(kind: type[Workload], name: str | None) -> Workload:
    """A workload that was sent whole; its state follows. Its name finds it here, too."""
    workload = kind.__new__(kind)
    if name is not None:
        FACTORIES.setdefault(name, lambda: workload)
        _LOADED.setdefault(name, workload)
    return workload


def versions() -> dict[str, str]:
    """What results depend on besides the workload: our definitions and snnTorch's neurons."""
    return {
        "definitions": str(DEFINITIONS),
        "snntorch": ".".join(version("snntorch").split(".")[:2]),
    }


def measure(workload: Workload, model: nn.Module, split: SplitName) -> Measurement:
    """Runs a network, the workload's own or one pruned from it, over a split.

    Args:
        workload: gives the data and the graph.
        model: a network with the workload's layers, of any widths.
        split: which samples.
    """
    graph = workload.graph.rebind(model)
    data = workload.split(split)
    walk = Simulator(graph, data.inputs, workload.num_steps).run()
    return measurement_of(walk, data, workload.objective)


def measurement_of(walk: Walk, data: Split, objective: Objective) -> Measurement:
    """A finished walk over ``data``, as per-sample figures.

    Raises:
        ObjectiveError: when a user's metric gives no number in [0, 1].
    """
    if walk.readout is None:
        raise ValueError("the walk has not ended")
    samples, classes = len(data), data.label_kind == "classes"
    layers = tuple(
        LayerFigures(
            name, walk.widths[name], count.synops / samples, count.macs / samples, count.input_rate
        )
        for name, count in walk.layers.items()
    )
    return Measurement(
        accuracy=objective.measure(walk.readout, data.labels),
        synops=walk.synops / samples,
        macs=sum(count.macs for count in walk.layers.values()) / samples,
        macs_once=sum(count.macs_once for count in walk.layers.values()) / samples,
        spikes=sum(count.spikes for count in walk.neurons.values()) / samples,
        neuron_updates=sum(count.updates for count in walk.neurons.values()) / samples,
        parameters=walk.parameters,
        layers=layers,
        silent=tuple(name for name, count in walk.neurons.items() if count.spikes == 0),
        undecided=_undecided(walk.readout) if classes else 0,
        answers=len(walk.readout.argmax(1).unique() if classes else walk.readout.unique(dim=0)),
    )


def _undecided(readout: Tensor) -> int:
    """Samples on which all classes have the same finite output."""
    lowest, highest = readout.amin(1), readout.amax(1)
    return int((lowest.isfinite() & (lowest == highest)).sum())


_LOADED: dict[str, Workload] = {}


def register_workload(name: str, factory: Callable[[], Workload]) -> None:
    """Adds a workload to the catalogue; registering a name again replaces it."""
    FACTORIES[name] = factory
    _LOADED.pop(name, None)


def workload_names() -> tuple[str, ...]:
    """Names in the catalogue, sorted."""
    return tuple(sorted(FACTORIES))


def load_workload(name: str) -> Workload:
    """A workload of the catalogue; loaded once per process.

    Raises:
        WorkloadError: for an unknown name, with near matches.
    """
    if name not in FACTORIES:
        raise WorkloadError(unknown("workload", name, workload_names()))
    if name not in _LOADED:
        workload = FACTORIES[name]()
        workload.catalogued = True
        _LOADED[name] = workload
    return _LOADED[name]


def resolve_workload(name: str) -> Workload:
    """A workload of the catalogue, or what ``module:function`` returns.

    Only for names that the user gives: what a file names is looked up by :func:`load_workload`,
    so that no file chooses code.

    Raises:
        WorkloadError: for an unknown name, or a function that cannot be imported, raises an error
            or returns something else.
    """
    if ":" not in name:
        return load_workload(name)
    try:
        function = import_path(name)
    except PluginError as error:
        raise WorkloadError(f"cannot import the workload '{name}': {error}") from error
    if not callable(function):
        raise WorkloadError(f"'{name}' is no function that returns a Workload")
    try:
        workload = call(function)
    except PluginError as error:
        raise WorkloadError(f"cannot make the workload '{name}': {error}") from error
    if not isinstance(workload, Workload):
        raise WorkloadError(f"'{name}' gives a {type(workload).__name__}, not a Workload")
    return workload
