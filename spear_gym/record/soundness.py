"""The rows of a search's study: what one must hold, and what of a study is whole."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from spear_gym.evaluation import Counts, Evaluation, FailureKind

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

REPAIRED = "repaired study "
"""Begins the name of a study whose own was lost."""

LOST = "lost"
"""A study's attribute: how many rows a repair may have lost."""


class Failure(NamedTuple):
    """A plan, or the first decisions of one, that could not be evaluated.

    Attributes:
        counts: channels kept by the groups decided.
        kind: see :class:`spear_gym.evaluation.EvaluationFailed`.
        message: the reason in words.
    """

    counts: Counts
    kind: FailureKind
    message: str


def evaluation_of(trial: FrozenTrial) -> Evaluation:
    """The evaluation of a row.

    Raises:
        ValueError: when it is damaged, with the reason as the end of a sentence about "it".
    """
    data = trial.user_attrs.get("evaluation")
    if not isinstance(data, dict):
        raise ValueError("holds no evaluation")
    if checksum(data) != trial.user_attrs.get("checksum", checksum(data)):
        raise ValueError("holds another evaluation than was written (its checksum differs)")
    try:
        evaluation = Evaluation.from_json(data)
        _check_numbers(evaluation)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"holds no whole evaluation ({error!r})") from error
    return evaluation


def failure_of(trial: FrozenTrial) -> Failure:
    """The failure of a row.

    Raises:
        ValueError: as :func:`evaluation_of`.
    """
    try:
        failure = Failure(**trial.user_attrs["failure"])
        counts = tuple(failure.counts)
    except TypeError as error:
        raise ValueError(f"holds no whole failure ({error!r})") from error
    whole = failure.kind in get_args(FailureKind) and isinstance(failure.message, str)
    if not whole or any(type(count) is not int for count in counts):
        raise ValueError("holds no whole failure")
    return failure._replace(counts=counts)


def checksum(evaluation: dict[str, Any]) -> str:
    """Tells an evaluation from one in which a digit was changed."""
    text = json.dumps(evaluation, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_numbers(evaluation: Evaluation) -> None:
    """Refuses what no evaluation can hold.

    Raises:
        ValueError: naming it.
        TypeError: for what is no number.
    """
    whole = (*evaluation.counts, evaluation.parameters)
    if any(type(number) is not int or number < 0 for number in whole):
        raise ValueError("holds channels or parameters that are no counts")
    shares = (evaluation.accuracy, evaluation.synops_fraction, evaluation.params_fraction)
    sizes = (evaluation.synops, evaluation.macs, evaluation.seconds, *evaluation.layer_synops)
    if not all(math.isfinite(x) and x >= 0 for x in (*shares, *sizes)) or evaluation.accuracy > 1:
        raise ValueError("holds figures outside of their range")
    if len(evaluation.prefixes) != len(evaluation.counts) + 1 or not all(
        math.isfinite(x)
        for p in evaluation.prefixes
        for x in (p.input_rate, p.synops_committed, p.synops_open, p.kept_inputs)
    ):
        raise ValueError("holds no measure for each decision")


class Fault(NamedTuple):
    """What is not whole.

    Attributes:
        place: ``"line 3"``, or ``"row 3 of study 'name'"``.
        problem: the end of a sentence about it.
    """

    place: str
    problem: str


@dataclass(frozen=True)
class Examination:
    """What is whole in a ledger.

    Attributes:
        rows: evaluations that are whole.
        faults: what is not whole.
        content: a journal's lines that are whole, with those that a repair adds.
        unfinished: the last line is a row's first part, which the next search cuts off.
    """

    rows: int
    faults: tuple[Fault, ...]
    content: bytes = field(default=b"", repr=False)
    unfinished: bool = False


def lost_in(attributes: dict[str, Any]) -> int:
    """How many plans of a study a repair may have lost."""
    lost = attributes.get(LOST, 0)
    return lost if type(lost) is int and lost > 0 else 0


def is_search(attributes: dict[str, Any], trials: Iterable[FrozenTrial]) -> bool:
    """Whether a study is the record of a search; others may lie beside it."""
    return "identity" in attributes or any("evaluation" in t.user_attrs for t in trials)


def unsound(
    trials: Iterable[FrozenTrial], place: Callable[[FrozenTrial], str]
) -> Iterator[tuple[FrozenTrial, str, int]]:
    """The rows of a search's study that hold no whole plan, or one that was there before.

    Args:
        trials: of one study.
        place: where a row stands.

    Yields:
        The row, the problem, and how many plans are lost without it.
    """
    seen: dict[Counts, FrozenTrial] = {}
    for trial in trials:
        try:
            if "failure" in trial.user_attrs:
                failure_of(trial)
                continue
            counts = evaluation_of(trial).counts
        except ValueError as error:
            yield trial, str(error), 1
            continue
        if counts in seen:
            yield trial, f"records the plan of {place(seen[counts])} once more", 0
        seen.setdefault(counts, trial)
