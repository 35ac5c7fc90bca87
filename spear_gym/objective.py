"""What a network is trained for and measured by: the loss and the metric of a workload.

A *loss* that a user gives sees what the output layer does over time, as snnTorch's losses do:
``loss(outputs, labels)`` with ``outputs`` ``(time, samples, outputs)``. A *metric* sees the
scores: ``metric(scores, labels)`` with ``scores`` ``(samples, classes)``, a number in [0, 1],
larger is better, since rewards, ledgers and reports count on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_gym.boundary.plugins import blaming
from spear_gym.boundary.text import unknown
from spear_gym.data.splits import DataSplits, LabelKind, Split
from spear_gym.identity import identity
from spear_gym.simulation.differentiable import outputs_over_time
from spear_gym.simulation.simulate import accuracy
from spear_gym.snn.decision import Decision, check_function
from spear_gym.snn.graph import SpikingGraph

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs ``(time, samples, outputs)`` and labels to one number."""

Metric = Callable[[Tensor, Tensor], float]
"""Scores ``(samples, classes)`` and labels to a number in [0, 1], larger is better."""

ROUNDING = 1e-6
"""By which a metric may leave [0, 1]."""


class ObjectiveError(ValueError):
    """A loss or a metric that cannot be used."""


def exact_match(scores: Tensor, labels: Tensor) -> float:
    """Share of samples whose labels are all right; a score above 0 says that a label holds."""
    return float(((scores > 0) == (labels > 0)).all(1).double().mean())


def label_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of right labels over all samples; a score above 0 says that a label holds."""
    return float(((scores > 0) == (labels > 0)).double().mean())


def r2(scores: Tensor, labels: Tensor) -> float:
    """Coefficient of determination, all outputs together; 0 where the mean would do better."""
    targets = labels.view_as(scores).double()
    spread = float((targets - targets.mean(0)).square().sum())
    if spread == 0:
        raise ObjectiveError(
            "metric 'r2' is not defined on labels that are all alike; take 'inverse_mse'"
        )
    return max(0.0, 1.0 - float((scores.double() - targets).square().sum()) / spread)


def inverse_mse(scores: Tensor, labels: Tensor) -> float:
    """1 / (1 + mean squared error)."""
    return 1.0 / (1.0 + float((scores.double() - labels.view_as(scores).double()).square().mean()))


class Named(NamedTuple):
    """A loss or metric of the catalogue: ``function(scores, labels)``, and for which labels."""

    function: Callable[[Tensor, Tensor], Any]
    kinds: tuple[LabelKind, ...]


LOSSES: dict[str, Named] = {
    "cross_entropy": Named(F.cross_entropy, ("classes",)),
    "binary_cross_entropy": Named(
        lambda scores, labels: F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype)),
        ("multilabel", "targets"),
    ),
    "mean_squared_error": Named(
        lambda scores, labels: F.mse_loss(scores, labels.view_as(scores).to(scores.dtype)),
        ("multilabel", "targets"),
    ),
}
"""On scores."""

METRICS: dict[str, Named] = {
    "accuracy": Named(accuracy, ("classes",)),
    "exact_match": Named(exact_match, ("multilabel",)),
    "label_accuracy": Named(label_accuracy, ("multilabel",)),
    "r2": Named(r2, ("targets",)),
    "inverse_mse": Named(inverse_mse, ("multilabel", "targets")),
}

WAYS_OUT: dict[LabelKind, str] = {
    "multilabel": "loss='binary_cross_entropy' and metric='exact_match' or 'label_accuracy'",
    "targets": "loss='mean_squared_error' and metric='r2' or 'inverse_mse'",
}


@dataclass(frozen=True)
class Objective:
    """A workload's loss and metric.

    Attributes:
        loss: a name in :data:`LOSSES`, on scores, or a function of the outputs over time.
        metric: a name in :data:`METRICS`, or a function of the scores.
    """

    loss: str | Loss = "cross_entropy"
    metric: str | Metric = "accuracy"

    @property
    def metric_name(self) -> str:
        """What the metric is called in tables and pictures."""
        if isinstance(self.metric, str):
            return self.metric.replace("_", " ")
        name = str(getattr(self.metric, "__name__", type(self.metric).__name__))
        return "metric" if name == "<lambda>" else name.replace("_", " ")

    def loss_of(self, graph: SpikingGraph, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            graph: whose decision gives the scores.
            outputs: what the output layer does, ``(time, batch, outputs)``.
            labels: of the batch.

        Raises:
            PluginError: when a user's loss raises an error.
            ObjectiveError: when it gives no number.
        """
        if isinstance(self.loss, str):
            loss: Tensor = LOSSES[self.loss].function(graph.scores(outputs), labels)
            return loss
        with blaming(f"the loss, given outputs {tuple(outputs.shape)} over time, raised"):
            found: Any = self.loss(outputs, labels)
        if not isinstance(found, Tensor) or found.numel() != 1:
            what = (
                f"a tensor of shape {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else f"a {type(found).__name__}"
            )
            raise ObjectiveError(f"the loss gives {what}; it must give one number, e.g. its mean")
        return found.reshape(())

    def measure(self, scores: Tensor, labels: Tensor) -> float:
        """The metric over a split.

        Args:
            scores: ``(samples, classes)``.
            labels: of the samples.

        Raises:
            PluginError: when a user's metric raises an error.
            ObjectiveError: when it is no number in [0, 1].
        """
        if isinstance(self.metric, str):
            return float(METRICS[self.metric].function(scores, labels))
        with blaming(f"the metric, given scores {tuple(scores.shape)}, raised"):
            value = float(self.metric(scores, labels))
        if not (math.isfinite(value) and -ROUNDING <= value <= 1 + ROUNDING):
            raise ObjectiveError(
                f"the metric gives {value:g}; it must lie in [0, 1] and be larger where the "
                "network is better: map an error e, say, to 1 / (1 + e), or a score s to "
                "max(0, min(1, s))"
            )
        return min(1.0, max(0.0, value))

    def describe(self) -> dict[str, Any]:
        """Plain values for a fingerprint; what is usual goes unsaid."""
        usual = Objective()
        parts = {"loss": (self.loss, usual.loss), "metric": (self.metric, usual.metric)}
        return {key: identity(own) for key, (own, plain) in parts.items() if own != plain}


def objective_of(loss: str | Loss | None, metric: str | Metric | None, train: Split) -> Objective:
    """The objective that a user asked for.

    Args:
        loss: as given.
        metric: as given.
        train: training samples, whose labels say what is fitting.

    Raises:
        ObjectiveError: for unknown names, and where they do not fit the labels.
    """
    kind = train.label_kind
    if kind != "classes" and (loss is None or metric is None):
        raise ObjectiveError(_question(train))
    usual = Objective()
    chosen = Objective(
        usual.loss if loss is None else loss, usual.metric if metric is None else metric
    )
    for what, given, catalogue in (
        ("loss", chosen.loss, LOSSES),
        ("metric", chosen.metric, METRICS),
    ):
        if callable(given):
            continue
        if given not in catalogue:
            signature = "outputs over time" if what == "loss" else "scores"
            raise ObjectiveError(
                f"{unknown(what, str(given), tuple(catalogue))}; or give a function of the "
                f"{signature} and the labels"
            )
        if kind not in catalogue[given].kinds:
            fitting = [name for name, named in catalogue.items() if kind in named.kinds]
            raise ObjectiveError(
                f"{what} '{given}' is not for labels that are {train.labels.dtype} of shape "
                f"{tuple(train.labels.shape)}; for these there are {', '.join(fitting)}, or a "
                "function"
            )
    return chosen


def _question(train: Split) -> str:
    labels = train.labels
    if train.label_kind == "targets":
        return (
            f"labels are {labels.dtype}; class labels are integers (labels.long() converts whole "
            f"numbers); for values to be predicted give {WAYS_OUT['targets']}, or functions"
        )
    one_hot = bool((labels.sum(1) == 1).all())
    return (
        f"labels have shape {tuple(labels.shape)}, several a sample; "
        + ("turn one-hot rows into indices with labels.argmax(1); if they are several labels, give "
           if one_hot else "give ")
        + f"{WAYS_OUT['multilabel']}, or functions"
    )  # fmt: skip


def scores_of_a_sample(
    graph: SpikingGraph, objective: Objective, few: Split, num_steps: int
) -> int:
    """How many scores a network gives; a user's functions are tried before any work starts.

    Args:
        graph: the network.
        objective: of the workload.
        few: a few training samples, at least 2.
        num_steps: time steps T.

    Raises:
        PluginError: when a function raises an error.
        TraceError: when the readout gives no scores.
        ObjectiveError: when the loss is no number, or one that cannot be trained on.
    """
    decision = graph.decision
    if decision.function is None and isinstance(objective.loss, str):
        return decision.num_classes or graph.width
    with torch.enable_grad():
        outputs = outputs_over_time(graph, few.inputs, num_steps, training=False)
        check_function(decision, outputs.detach())
        loss = objective.loss_of(graph, outputs, few.labels) if callable(objective.loss) else None
    if loss is not None and outputs.requires_grad and not loss.requires_grad:
        raise ObjectiveError(
            "the loss has no gradient; it must be computed from the outputs by operations that "
            "have one (no argmax, no .detach())"
        )
    return int(graph.scores(outputs.detach()).shape[1])


def splits_of(
    read: dict[str, Split],
    classes: int,
    objective: Objective,
    decision: Decision,
    num_classes: int | None,
) -> DataSplits:
    """The splits, checked against the scores that a sample gets.

    Args:
        read: train, search and test.
        classes: scores of a sample.
        objective: of the workload.
        decision: of the network.
        num_classes: as given by the user.

    Raises:
        ValueError: when splits and scores do not fit, or it is not said what scores without a
            label are.
    """
    train, own = read["train"], decision.function is not None
    if own and num_classes is not None and num_classes != classes:
        raise ObjectiveError(
            f"num_classes is {num_classes}, but the readout gives {classes} scores a sample; they "
            "must be equally many"
        )
    try:
        splits = DataSplits(train, read["search"], read["test"], classes)
    except ValueError as error:
        raise ObjectiveError(f"{error} (the network has {classes} outputs)") from error
    if train.label_kind != "classes":
        _check_width(objective, classes, train.labels)
        return splits
    used = 1 + max(int(split.labels.max()) for split in read.values())
    if classes > used and num_classes is None and not own:
        raise ObjectiveError(_what_are_the_others(classes, used))
    return splits


def _check_width(objective: Objective, scores: int, labels: Tensor) -> None:
    """Scores and labels are equally many where the objective compares them."""
    named = isinstance(objective.loss, str) or isinstance(objective.metric, str)
    width = labels[0].numel()
    if named and width != scores:
        raise ObjectiveError(
            f"there are {width} labels a sample, but the network gives {scores} scores; they must "
            "be equally many: give a function as readout that returns as many, or functions as "
            "loss and metric"
        )


def _what_are_the_others(classes: int, used: int) -> str:
    blocks = used > 1 and classes % used == 0
    return (
        f"the network has {classes} outputs, but the labels in use are 0 to {used - 1}: what are "
        f"the others? Give num_classes={classes} if some classes have no sample, "
        + (f"readout='population' and num_classes={used} if blocks of neighbouring outputs stand "
           "for a class, " if blocks else "")
        + "outputs=... if it is not the output layer that forward returns first, or a function as "
        "readout"
    )  # fmt: skip
