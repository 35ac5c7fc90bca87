"""Where LRE fits are kept: those shipped with the package, and the user's own."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from spear_gym.boundary.files import file_name
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import FittedEstimator, load_estimator
from spear_gym.lre.samples import LREError

SHIPPED = Path(__file__).parent / "lre"


def user_folder() -> Path:
    """Where `spear lre` keeps fits: ``$SPEAR_GYM_HOME``, else ``~/.cache/spear-gym``.

    Raises:
        LREError: when the user has no home folder.
    """
    home = os.environ.get("SPEAR_GYM_HOME")
    try:
        return Path(home) if home else Path.home() / ".cache" / "spear-gym"
    except RuntimeError as error:
        raise LREError(f"{error}; set SPEAR_GYM_HOME to a folder for your fits") from error


def shipped_path(evaluator: PlanEvaluator) -> Path:
    """Where the shipped fit for an evaluator's workload, scoring and criterion lies, if any."""
    parts = [file_name(evaluator.workload.name), evaluator.scoring, evaluator.criterion]
    if evaluator.precision != "float32":
        parts.append(evaluator.precision)
    return SHIPPED / f"{'.'.join(parts)}.json"


def user_path(evaluator: PlanEvaluator) -> Path:
    """Where the user's fit lies; named by fingerprint, so a retrained network gets its own."""
    fingerprint = json.dumps(evaluator.fingerprint(), sort_keys=True).encode()
    digest = hashlib.sha256(fingerprint).hexdigest()[:12]
    return user_folder() / "lre" / f"{shipped_path(evaluator).stem}.{digest}.json"


def stored_lre(evaluator: PlanEvaluator) -> FittedEstimator | None:
    """The user's own fit for an evaluator, else the shipped one, else ``None``.

    Raises:
        LREError: when the file is damaged.
    """
    paths = [shipped_path(evaluator)]
    with suppress(LREError):  # no home folder, so no fits of the user's own
        paths.insert(0, user_path(evaluator))
    for path in paths:
        if path.is_file():
            return load_estimator(path)
    return None
