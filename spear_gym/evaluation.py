"""PlanEvaluator: a plan in, an Evaluation out, and nothing computed twice."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from spear_gym.boundary.text import unknown
from spear_gym.checkpoint import checkpoint_in
from spear_gym.degenerate import DegenerateWarning, network_faults
from spear_gym.pruning.criteria import CRITERIA, CriterionError, rank_channels
from spear_gym.pruning.limits import LimitError, RatioLimit, WholeLimit, check_names
from spear_gym.pruning.plan import MAX_RATIO, Plan, PlanError, PlanSpace
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.differentiable import training_ways
from spear_gym.simulation.refit import RIDGE, RefitTargets
from spear_gym.simulation.simulate import PRECISIONS, Precision, Scoring, Simulator
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.picklable import make_picklable
from spear_gym.training import OnBatch, Recipe, loss_gradients, train
from spear_gym.workload import (
    Measurement,
    Workload,
    WorkloadError,
    measure,
    measurement_of,
    versions,
)

Counts = tuple[int, ...]


FailureKind = Literal["memory", "output", "refit"]


class EvaluationFailed(RuntimeError):  # noqa: N818 - the name says what happened
    """A plan could not be evaluated.

    Args:
        message: the reason in words.
        kind: ``"memory"`` ran out, the network's ``"output"`` is not finite, or the ``"refit"`` has
            no solution.
    """

    def __init__(self, message: str, kind: FailureKind = "memory") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[EvaluationFailed], tuple[str, FailureKind]]:
        return type(self), (str(self), self.kind)


@dataclass(frozen=True, slots=True)
class PrefixMeasure:
    """What is measured once the first groups are decided.

    Attributes:
        input_rate: firing rate of the input of the next group's first layer; at the end, of the
            last connection layer.
        synops_committed: SynOps per sample of the layers that are settled.
        synops_open: SynOps per sample, unpruned, of the layers that are not.
        kept_inputs: kept share of the next group's input features.
    """

    input_rate: float
    synops_committed: float
    synops_open: float
    kept_inputs: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A scored plan, before fine-tuning, on the search split.

    Attributes:
        counts: channels kept per group; with the evaluator's ranking this is the plan.
        accuracy: the workload's metric on search, by default the share of samples classified
            correctly.
        synops: SynOps per sample.
        synops_fraction: over those of the unpruned network.
        macs: MACs of analog layers per sample.
        parameters: trainable parameters.
        params_fraction: over those of the unpruned network.
        layer_synops: SynOps per sample by layer, execution order.
        prefixes: one measure per decision, the first before any, the last at the end.
        seconds: simulation time.
    """

    counts: Counts
    accuracy: float
    synops: float
    synops_fraction: float
    macs: float
    parameters: int
    params_fraction: float
    layer_synops: tuple[float, ...]
    prefixes: tuple[PrefixMeasure, ...]
    seconds: float

    @property
    def id(self) -> str:
        """The plan's short name within one workload and criterion."""
        return "-".join(map(str, self.counts))

    @property
    def layer_fractions(self) -> tuple[float, ...]:
        """SynOps by layer over the unpruned network's total; their sum is ``synops_fraction``."""
        scale = self.synops_fraction / self.synops if self.synops > 0 else 0.0
        return tuple(value * scale for value in self.layer_synops)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values at full precision."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        """Reads :meth:`to_json`'s form."""
        values = dict(data)
        values["counts"] = tuple(values["counts"])
        values["layer_synops"] = tuple(values["layer_synops"])
        values["prefixes"] = tuple(PrefixMeasure(**p) for p in values["prefixes"])
        return cls(**values)


@dataclass(frozen=True)
class Finetuned:
    """A pruned network after fine-tuning.

    Attributes:
        plan: what was kept.
        model: the smaller snnTorch module.
        search: its figures on the search split.
        seconds: time of the fine-tune.
        ways: how its neuron layers were trained; see ``differentiable.training_ways``.
    """

    plan: Plan
    model: nn.Module
    search: Measurement
    seconds: float
    ways: Mapping[str, int]


class PlanEvaluator:
    """Scores plans of a workload and fine-tunes them.

    Plans are remembered for ever (a about a kilobyte each); the activations of recent plan
    prefixes are kept within ``memory_bytes``, least recently used out first.

    Args:
        workload: network, data and recipe.
        scoring: ``"plain"``, ``"recalibrated"`` or ``"refit"``; the workload's default if ``None``.
        criterion: ranks channels inside a layer.
        rankings: for each group all channel indices, most important first, in place of the
            criterion's.
        channel_multiple: kept counts are multiples of this; this and the next two are one for all
            groups, or a mapping by a group's name.
        min_channels: fewest channels that a group keeps.
        max_ratio: largest prune ratio.
        exclude: names of groups that are kept whole and not decided.
        memory_bytes: limit on the activations kept for plan prefixes.
        precision: of the products in scoring; ``"bfloat16"`` is faster where the processor has it,
            and flips a few spikes. Unpruned references and fine-tuned networks are measured in
            float32 all the same.

    Raises:
        WorkloadError: for an unknown scoring or precision.
        CriterionError: for an unknown criterion or one that does not fit the network.
        PlanError: when no layer can be pruned, or limits do not fit.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        scoring: Scoring | None = None,
        criterion: str = "l1",
        rankings: tuple[tuple[int, ...], ...] | None = None,
        channel_multiple: WholeLimit = 1,
        min_channels: WholeLimit = 1,
        max_ratio: RatioLimit = MAX_RATIO,
        exclude: Sequence[str] = (),
        memory_bytes: int = 256 * 2**20,
        precision: Precision = "float32",
    ) -> None:
        self.workload = workload
        self.scoring: Scoring = workload.scoring if scoring is None else scoring
        workload.check_scoring(self.scoring)
        if precision not in PRECISIONS:
            raise WorkloadError(unknown("precision", str(precision), PRECISIONS))
        self.precision: Precision = precision
        if criterion not in CRITERIA:
            raise CriterionError(unknown("criterion", criterion, tuple(CRITERIA)))
        self.criterion = criterion
        check_excluded(exclude, workload.graph)
        self.exclude = tuple(exclude)
        self.space = PlanSpace(
            self.graph.groups,
            self._rankings() if rankings is None else rankings,
            channel_multiple,
            min_channels,
            max_ratio,
        )
        self.memory_bytes = memory_bytes
        self.runs = 0
        self._decisions = 0
        self._simulated = 0
        self.known: dict[Counts, Evaluation] = {}
        self._numbers: dict[Counts, int] = {}
        self._prefixes: dict[Counts, PrefixMeasure] = {}
        self._walks: OrderedDict[Counts, Walk] = OrderedDict()
        self._walk_bytes = 0
        self._ended: dict[Counts, Walk] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not the activations, nor the simulator, which are made anew."""
        _, _, state = self.reduce_whole()
        return {name: value for name, value in state.items() if name != "simulator"}

    def reduce_whole(self) -> tuple[Any, ...]:
        """How an evaluator travels to worker processes: without the activations."""
        emptied = {"_walks": OrderedDict(), "_walk_bytes": 0, "_ended": {}}
        return type(self).__new__, (type(self),), {**self.__dict__, **emptied}

    def __deepcopy__(self, memo: dict[int, Any]) -> PlanEvaluator:
        """Itself: what is copied in one process shares its memory, which only ever grows."""
        return self

    @property
    def graph(self) -> SpikingGraph:
        """The unpruned network, with the groups that are decided."""
        whole = self.workload.graph
        if not self.exclude:
            return whole
        return whole.deciding({group.name for group in whole.groups} - set(self.exclude))

    @cached_property
    def reference(self) -> Measurement:
        """The unpruned network on search, with its own statistics: what fractions are over.

        What is wrong with it is told, see :mod:`spear_gym.degenerate`.
        """
        figures = self.workload.reference("search")
        for fault in network_faults(self.workload, figures):
            warnings.warn(fault, DegenerateWarning, stacklevel=2)
        return figures

    @cached_property
    def simulator(self) -> Simulator:
        """Runs plans on the search split."""
        calibration = self.workload.calibration
        targets = None
        if self.scoring == "refit":
            targets = refit_targets(self.workload)
        return Simulator(
            self.graph,
            self.workload.splits.search.inputs,
            self.workload.num_steps,
            scoring=self.scoring,
            calibration=calibration.inputs,
            targets=targets,
            precision=self.precision,
        )

    def fingerprint(self) -> dict[str, str]:
        """What scores and LRE fits depend on."""
        ridge = {"ridge": repr(RIDGE)} if self.scoring == "refit" else {}
        # The usual precision goes unsaid, so that older fits stay valid.
        precision = {} if self.precision == "float32" else {"precision": self.precision}
        return {
            "workload": self._workload_fingerprint,
            "scoring": self.scoring,
            "criterion": self.criterion,
            **ridge,
            **precision,
            **({"exclude": ", ".join(sorted(self.exclude))} if self.exclude else {}),
            **versions(),
        }

    def _rankings(self) -> tuple[tuple[int, ...], ...]:
        gradients = None
        if CRITERIA[self.criterion].needs_gradients:
            workload = self.workload
            gradients = loss_gradients(workload.graph, workload.calibration, workload.num_steps)
        return rank_channels(self.graph, self.criterion, gradients=gradients)

    @cached_property
    def _workload_fingerprint(self) -> str:
        return self.workload.fingerprint()

    @property
    def statistics(self) -> dict[str, int]:
        """How evaluations were made: decisions from memory, and how often a layer took which way.

        A layer that a fallback computed is counted under the fallback's name.
        """
        return {
            "plans simulated": self.runs,
            "decisions in them": self._decisions,
            "decisions simulated": self._simulated,
            **self.simulator.statistics,
        }

    def check_narrowest(self) -> None:
        """Runs the network's own forward with every group, and with all, at its fewest channels.

        Raises:
            PlanError: when it fails, naming the layer.
        """
        space, fewest = self.space, self.space.fewest_counts()
        whole = tuple(group.channels for group in space.groups)
        for index, group in enumerate(space.groups):
            alone = (*whole[:index], fewest[index], *whole[index + 1 :])
            self._check_forward(alone, f"layer '{group.name}' cut to {fewest[index]} of its")
        self._check_forward(fewest, "every layer cut to its fewest")

    def _check_forward(self, counts: Counts, what: str) -> None:
        plan = self.space.plan(counts)
        if plan not in self.workload.runs_pruned:
            self.workload.own_forward.check(
                prune_network(self.graph, plan),
                f"{what} channels",
                "; or keep more channels with min_channels",
            )
            self.workload.runs_pruned.add(plan)

    # ---------------------------------------------------------------- scoring

    def prefix(self, counts: Sequence[int]) -> PrefixMeasure:
        """What is measured once the first ``len(counts)`` groups are decided."""
        key = tuple(counts)
        if key not in self._prefixes:
            self._walk(key)
        return self._prefixes[key]

    def evaluate(self, counts: Sequence[int]) -> Evaluation:
        """Scores a plan.

        Args:
            counts: channels kept per group.

        Raises:
            EvaluationFailed: when the network's output is not finite or memory runs out.
        """
        key = tuple(counts)
        if key in self.known:
            return self.known[key]
        start = time.perf_counter()
        walk = self._walk(key)
        if walk.readout is None or not bool(torch.isfinite(walk.readout).all()):
            raise EvaluationFailed(f"plan {key}: the network's output is not finite", "output")
        figures = measurement_of(walk, self.workload.splits.search, self.workload.objective)
        evaluation = Evaluation(
            counts=key,
            accuracy=figures.accuracy,
            synops=figures.synops,
            synops_fraction=figures.synops / self.reference.synops,
            macs=figures.macs,
            parameters=figures.parameters,
            params_fraction=figures.parameters / self.reference.parameters,
            layer_synops=tuple(layer.synops for layer in figures.layers),
            prefixes=tuple(self.prefix(key[:n]) for n in range(len(key) + 1)),
            seconds=time.perf_counter() - start,
        )
        self.runs += 1
        self._decisions += len(key)
        self.known[key] = evaluation
        return evaluation

    def number(self, counts: Sequence[int]) -> int:
        """The number of an evaluated plan, from 0, in the order in which numbers were asked for."""
        return self._numbers.setdefault(tuple(counts), len(self._numbers))

    def prepare(self, keys: Iterable[Counts]) -> None:
        """Computes the last decisions of several plans' prefixes, one operation per layer for all.

        Afterwards :meth:`prefix` and :meth:`evaluate` answer from memory. Those whose own prefix
        is not in memory are left to them, and so are all if memory runs out.

        Args:
            keys: channels kept by the groups decided so far.
        """
        self._ended.clear()
        by_length: dict[int, dict[Counts, Walk]] = {}
        for key in dict.fromkeys(keys):
            if key in self._walks or key in self.known:
                continue
            if len(key) == 1:
                self._walk(())  # the input, which costs nothing to hold again
            if key[:-1] not in self._walks:
                self.simulator.statistics["side by side: left out, prefix not in memory"] += 1
                continue
            self._walks.move_to_end(key[:-1])
            by_length.setdefault(len(key), {})[key] = self._walks[key[:-1]]
        for before in by_length.values():
            self._walk_side_by_side(before)

    def _walk_side_by_side(self, before: Mapping[Counts, Walk]) -> None:
        """Walks prefixes of one length, given with the walks that they go on from."""
        if len(before) < 2:
            return
        keys = tuple(before)
        kept = [self.space.kept(len(key) - 1, key[-1]) for key in keys]
        try:
            walks = self.simulator.advance_side_by_side(tuple(before.values()), kept)
        except (MemoryError, RuntimeError) as error:
            if not _is_of_a_plan(error):
                raise
            self.simulator.statistics["side by side: halved, memory ran out or a plan failed"] += 1
            for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                self._walk_side_by_side({key: before[key] for key in half})
            return
        self._simulated += len(keys)
        for key, walk in zip(keys, walks, strict=True):
            self._keep(key, walk, at_least=len(keys))
            if len(key) == len(self.space):
                self._ended[key] = walk

    def remember(self, evaluation: Evaluation) -> None:
        """Takes over an evaluation that was paid for earlier."""
        self.known[evaluation.counts] = evaluation
        for length, measured in enumerate(evaluation.prefixes):
            self._prefixes[evaluation.counts[:length]] = measured

    def _walk(self, key: Counts) -> Walk:
        """The walk with the groups of ``key`` decided, from the longest prefix in memory."""
        if key in self._ended:
            return self._ended.pop(key)
        length = next((n for n in range(len(key), -1, -1) if key[:n] in self._walks), -1)
        try:
            if length < 0:
                walk = self.simulator.start()
                self._keep((), walk)
                length = 0
            else:
                walk = self._walks[key[:length]]
                self._walks.move_to_end(key[:length])
            for index in range(length, len(key)):
                walk = self.simulator.advance(walk, self.space.kept(index, key[index]))
                self._simulated += 1
                self._keep(key[: index + 1], walk)
        except (MemoryError, RuntimeError) as error:
            if not _is_of_a_plan(error):
                raise
            kind: FailureKind = "refit" if isinstance(error, LinAlgError) else "memory"
            raise EvaluationFailed(f"plan {key}: {error}", kind) from error
        return walk

    def _keep(self, key: Counts, walk: Walk, at_least: int = 1) -> None:
        if key not in self._prefixes:
            self._prefixes[key] = self._measure(key, walk)
        if len(key) == len(self.space):
            return  # nothing goes on from a walk that has ended
        self._walks[key] = walk
        self._walk_bytes += walk.nbytes()
        # Walks just made are never dropped: their caller goes on from them.
        while self._walk_bytes > self.memory_bytes and len(self._walks) > at_least:
            _, dropped = self._walks.popitem(last=False)
            self._walk_bytes -= dropped.nbytes()

    def _measure(self, key: Counts, walk: Walk) -> PrefixMeasure:
        samples = self.simulator.samples
        settled = walk.layers
        unpruned = self.reference.layer_synops
        opened = sum(synops for name, synops in unpruned.items() if name not in settled)
        if len(key) < len(self.space):
            first = self.graph.nodes[self.space.groups[len(key)].members[0]]
            active = walk.activities[first.inputs[0]]
            rate = active.rate
            kept_inputs = active.shape[2] / self.graph.nodes[first.inputs[0]].shape[0]
        else:
            rate = settled[self.graph.connections[-1].name].input_rate
            kept_inputs = self._prefixes[key[:-1]].kept_inputs if key else 1.0
        return PrefixMeasure(rate, walk.synops / samples, opened, kept_inputs)

    # ---------------------------------------------------------------- fine-tuning

    def scored_network(self, counts: Sequence[int]) -> nn.Module:
        """The pruned network as it is scored: recalibrated or refitted if scoring says so."""
        walk = self._walk(tuple(counts))
        return prune_network(self.graph, self.space.plan(tuple(counts)), walk.updates)

    def finetune(
        self,
        counts: Sequence[int],
        *,
        seed: int = 0,
        recipe: Recipe | None = None,
        on_batch: OnBatch | None = None,
        checkpoints: Path | None = None,
    ) -> Finetuned:
        """Fine-tunes a plan from its scored network.

        Args:
            counts: channels kept per group.
            seed: of the sample order.
            recipe: the workload's by default.
            on_batch: progress callback.
            checkpoints: folder that a checkpoint is kept in after every epoch; a fine-tune that
                was killed goes on from it to the same weights. It stays until the caller removes
                it (:func:`spear_gym.checkpoint.remove_checkpoints`), once the network is safe.

        Raises:
            CheckpointError: when the checkpoint is damaged.
            PlanError: when the pruned network's own forward fails, before anything is trained.
            TrainingDiverged: when the loss is not finite.
        """
        start = time.perf_counter()
        model = self.scored_network(counts)
        self.workload.own_forward.check(model, f"{counts} channels kept")
        graph = self.graph.rebind(model)
        chosen = self.workload.finetune if recipe is None else recipe
        workload = self.workload
        kept = None
        if checkpoints is not None:
            kept = checkpoint_in(checkpoints, self._finetune_of(counts, seed, chosen))
        train(
            graph,
            workload.splits.train,
            workload.num_steps,
            chosen,
            seed=seed,
            objective=workload.objective,
            on_batch=on_batch,
            checkpoint=kept,
        )
        seconds = time.perf_counter() - start
        figures = measure(workload, model, "search")
        ways = dict(training_ways(graph, workload.splits.train.inputs))
        plan = self.space.plan(tuple(counts))
        return Finetuned(plan, make_picklable(model), figures, seconds, ways)

    def _finetune_of(self, counts: Sequence[int], seed: int, recipe: Recipe) -> dict[str, str]:
        """What a fine-tune depends on."""
        plan = self.space.plan(tuple(counts))
        asked = json.dumps([plan.to_json(), seed, recipe.to_json()])
        return self.fingerprint() | {"fine-tune": hashlib.sha256(asked.encode()).hexdigest()}


def _is_of_a_plan(error: Exception) -> bool:
    """Whether memory ran out or the refit has no solution; a defect of ours is not a bad plan."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | LinAlgError):
        return True
    # What the CPU's allocator and the libraries of a GPU say; not every "memory" is such an error.
    words = ("allocate memory", "out of memory", "alloc_failed")
    return any(word in str(error).lower() for word in words)


def _rankings(workload: Workload, criterion: str) -> tuple[tuple[int, ...], ...]:
    gradients = None
    if CRITERIA[criterion].needs_gradients:
        gradients = loss_gradients(
            workload.graph, workload.calibration, workload.num_steps, workload.objective
        )
    return rank_channels(workload.graph, criterion, gradients=gradients)


def check_excluded(names: Sequence[str], graph: SpikingGraph) -> None:
    """Sees that groups which are to be kept whole are groups.

    Raises:
        PlanError: for an unknown name, with near matches.
    """
    if isinstance(names, str):
        raise PlanError(f"exclude is {names!r}; give a list of names: [{names!r}]")
    try:
        check_names("exclude", names, graph.groups)
    except LimitError as error:
        raise PlanError(str(error)) from error


def refit_targets(workload: Workload) -> RefitTargets:
    """Regression targets at the unpruned network's own output levels."""
    graph, calibration = workload.graph, workload.calibration
    currents = Simulator(graph, calibration.inputs, workload.num_steps).classifier_currents()
    block = graph.width // workload.splits.num_classes  # outputs a class, in a population code
    return RefitTargets.from_currents(currents, calibration.labels, block)
