"""Several targets from one search: a front of fine-tuned networks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spear_gym.files import write_bytes, write_json
from spear_gym.report.search_pictures import front_png

from .run_folder import Outcome, RunError, SearchReport

FRONT_FORMAT = "spear-gym front 1"


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


def check_front_folder(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Checks that a folder can hold a front, or does; changes nothing.

    Raises:
        RunError: when it exists (unless told what to do), or holds something else.
    """
    if overwrite and resume:
        raise RunError("choose one of --overwrite and --resume")
    if not (folder.is_dir() and any(folder.iterdir())):
        return
    if not (overwrite or resume):
        raise RunError(
            f"the output folder '{folder}' exists; choose another with --out, continue it with "
            "--resume, or replace it with --overwrite"
        )
    if not any(folder.glob("target-*")):
        raise RunError(
            f"'{folder}' exists and holds no searches for several targets (target-...), so it is "
            "left alone; choose another folder with --out"
        )


def clear_front_folder(folder: Path) -> None:
    """Removes the searches for several targets, and their front, from a folder."""
    for search in folder.glob("target-*"):
        shutil.rmtree(search)
    for name in ("front.json", "front.png"):
        (folder / name).unlink(missing_ok=True)


def write_front(points: Sequence[FrontPoint], workload: str, folder: Path) -> None:
    """Writes ``front.json`` and ``front.png``.

    Args:
        points: one per target.
        workload: its name, for the title.
        folder: where to.
    """
    rows = [asdict(point) for point in points]
    write_json(
        folder / "front.json", {"format": FRONT_FORMAT, "workload": workload, "points": rows}
    )
    drawn = [(p.target, p.fraction, p.accuracy, p.outcome != "broken") for p in points]
    write_bytes(folder / "front.png", front_png(drawn, points[0].unpruned_accuracy, workload))
