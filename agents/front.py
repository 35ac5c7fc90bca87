"""Several targets from one search: a front of fine-tuned networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spear_gym.files import write_bytes, write_json
from spear_gym.report.search_pictures import front_png

from .folders import FRONT_FORMAT
from .run_folder import Outcome, SearchReport


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """The network for one target.

    Attributes:
        target: SynOps fraction.
        outcome: whether it is kept on test.
        accuracy: on test.
        fraction: SynOps on test over the unpruned network's.
        unpruned_accuracy: of the unpruned network on test.
        counts: channels kept per group.
        folder: its run folder, below that of the front.
    """

    target: float
    outcome: Outcome
    accuracy: float
    fraction: float
    unpruned_accuracy: float
    counts: tuple[int, ...]
    folder: str

    @classmethod
    def of(cls, report: SearchReport, target: float, folder: str) -> FrontPoint:
        """A point from the report of its search."""
        return cls(
            target,
            report.outcome(target, None),
            report.measured.accuracy,
            report.fraction,
            report.unpruned.accuracy,
            report.tuned.plan.counts,
            folder,
        )


def write_front(
    points: Sequence[FrontPoint], workload: str, folder: Path, metric: str = "accuracy"
) -> None:
    """Writes ``front.json`` and ``front.png``.

    Args:
        points: one per target.
        workload: its name, for the title.
        folder: where to.
        metric: what the accuracies are, for the picture.
    """
    rows = [asdict(point) for point in points]
    write_json(
        folder / "front.json", {"format": FRONT_FORMAT, "workload": workload, "points": rows}
    )
    drawn = [(p.target, p.fraction, p.accuracy, p.outcome != "broken") for p in points]
    unpruned = points[0].unpruned_accuracy
    write_bytes(folder / "front.png", front_png(drawn, unpruned, workload, metric))
