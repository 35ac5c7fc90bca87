"""What a fine-tuned network was made of, kept beside it, so that it is never made twice.

It is written behind the network's files and holds their sums. A search that was stopped before its
result was written, or is repeated, only measures the network that lies there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spear_gym.boundary import files
from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import FileError, write_json
from spear_gym.evaluation import Counts, Finetuned, PlanEvaluator
from spear_gym.pruning.keeping import NETWORK, PLAN, STRUCTURE, KeepingError
from spear_gym.pruning.origin import origin_of
from spear_gym.pruning.plan import PlanError
from spear_gym.snn.picklable import make_picklable
from spear_gym.workload import measure

from .folders import DELIVERY, RunError
from .reading import load_network
from .repair import RepairStep
from .run_folder import write_network

FORMAT = "spear-gym delivery 1"
WEIGHTED = (PLAN, NETWORK, STRUCTURE)


@dataclass(frozen=True)
class Delivered:
    """A network that can be measured on test, and how it came about.

    Attributes:
        tuned: the network, fine-tuned and, if asked for, repaired.
        chosen: number of its plan among those that were fine-tuned, best first.
        steps: what was done to keep the target.
        evaluations: plans scored for that.
        seconds: wall time of all of it.
    """

    tuned: Finetuned
    chosen: int
    steps: tuple[RepairStep, ...]
    evaluations: int
    seconds: float


def digest_of(asked: Any) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def write_delivery(made: Delivered, asked: str, folder: Path) -> None:
    """Writes a network, and then what it was made of.

    Args:
        made: the network.
        asked: digest of all that it depends on.
        folder: the run folder.
    """
    write_network(made.tuned, folder)
    about = {
        "format": FORMAT,
        "asked": asked,
        "chosen": made.chosen,
        "repairs": [asdict(step) for step in made.steps],
        "repair_evaluations": made.evaluations,
        "seconds": made.seconds,
        "finetune_seconds": made.tuned.seconds,
        "ways": dict(made.tuned.ways),
        "sha256": {name: files.sha256(folder / name) for name in WEIGHTED},
    }
    write_json(folder / DELIVERY, about)


def read_delivery(evaluator: PlanEvaluator, asked: str, folder: Path) -> Delivered | None:
    """The network that lies in a folder, measured on search, if it is the one asked for.

    Args:
        evaluator: of the unpruned network.
        asked: digest of all that it depends on.
        folder: the run folder.

    Returns:
        ``None`` where there is none, another was asked for, or a file was changed since: it is
        then made anew.
    """
    path = folder / DELIVERY
    try:
        given = Fields(files.read_json(path), f"'{path}'")
        given.choice("format", (FORMAT,))
        sums = given.mapping("sha256")
        if given.text("asked") != asked or any(
            sums.text(name) != files.sha256(folder / name) for name in WEIGHTED
        ):
            return None
        ways = given.mapping("ways")
        model = load_network(folder, evaluator.workload)
        origin = origin_of(model)
        assert origin is not None, "it was pruned just now"
        tuned = Finetuned(
            origin[0],
            make_picklable(model),
            measure(evaluator.workload, model, "search"),
            given.number("finetune_seconds", 0.0),
            {name: ways.whole(name, 0) for name in ways.names()},
        )
        steps = tuple(_step(Fields(row, f"'{path}'")) for row in given.items("repairs"))
        return Delivered(
            tuned,
            given.whole("chosen", 0),
            steps,
            given.whole("repair_evaluations", 0),
            given.number("seconds", 0.0),
        )
    except (FileError, RunError, PlanError, KeepingError):
        return None


def _step(given: Fields) -> RepairStep:
    counts: Counts = tuple(given.wholes("counts", 1))
    return RepairStep(
        given.choice("action", ("trim", "widen")),
        counts,
        given.number("accuracy", 0.0, 1.0),
        given.number("fraction", 0.0),
        given.whole("epochs", 0),
        given.flag("adopted"),
    )
