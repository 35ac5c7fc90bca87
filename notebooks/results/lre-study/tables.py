"""The tables of docs/results/lre.md, from the shipped fits and `data/`; nothing is simulated.

.venv/bin/python notebooks/results/lre-study/tables.py
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear_gym.envs_registry.fits import SHIPPED
from spear_gym.report.page import Table, table_markdown

DATA = Path(__file__).parent / "data"
FITS = (
    "digits",
    "cluttered-digits",
    "cluttered-digits-b",
    "cluttered-digits-c",
    "digits-events",
)
LENGTHS = ("digits", "cluttered-digits")
AT_EACH_LENGTH = 20
"""Plans fine-tuned at other lengths; the first plans of the recipe's own length are the same."""

Values = NDArray[np.float64]


def fit(workload: str) -> dict[str, Any]:
    """A shipped fit, scoring `refit`, criterion `l1`."""
    loaded: dict[str, Any] = json.loads((SHIPPED / f"{workload}.refit.l1.json").read_text())
    return loaded


def archive(workload: str) -> dict[str, Any]:
    """A study as `spear lre-study` wrote it."""
    with gzip.open(DATA / f"{workload}.json.gz", "rt", encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def pool(study: dict[str, Any], scoring: str, epochs: int) -> dict[str, Any]:
    """The samples of one scoring and length."""
    pools: list[dict[str, Any]] = study["pools"]
    return next(p for p in pools if (p["scoring"], p["epochs"]) == (scoring, epochs))


def both(samples: list[dict[str, Any]]) -> tuple[Values, Values]:
    """SynOps fractions before and after fine-tuning."""
    return tuple(np.array([s[key] for s in samples]) for key in ("scored", "finetuned"))  # type: ignore[return-value]


def covered(found: dict[str, Any]) -> int:
    """Held-out plans within twice the residual spread of the line."""
    before, after = both(found["samples"][found["fit"]["samples"] :])
    error = after - (found["weight"] * before + found["intercept"])
    return int((np.abs(error) <= 2 * found["fit"]["residual_std"]).sum())


def lines() -> Table:
    """The shipped fits, and what they are worth on plans that they were not fitted to."""
    rows = []
    for workload in FITS:
        found = fit(workload)
        before, after = both(found["samples"][found["fit"]["samples"] :])
        held = found["held_out"]
        rows.append(
            (
                f"`{workload}`",
                f"{found['weight']:.3f} x + {found['intercept']:.3f}",
                f"{held['r2']:.4f}",
                f"{held['mean_absolute_error']:.4f}",
                f"{np.abs(after - before).mean():.4f}",
                f"{(after - before).mean():+.4f}",
                f"{found['fit']['residual_std']:.4f}",
                f"{covered(found)} of {held['samples']}",
            )
        )
    heads = (
        "workload",
        "after = W x before + b",
        "R² held out",
        "mean absolute error held out",
        "the same without prediction",
        "mean drift",
        "residual spread",
        "within twice the spread",
    )
    return Table(heads, rows)


def lengths() -> Table:
    """The line and the unpruned network at other lengths of fine-tuning, the same plans."""
    rows = []
    for workload in LENGTHS:
        study = archive(workload)
        own = study["scoring"]
        for epochs in sorted(p["epochs"] for p in study["pools"] if p["scoring"] == own):
            samples = pool(study, own, epochs)["samples"][:AT_EACH_LENGTH]
            before, after = both(samples)
            weight, intercept = np.polyfit(before, after, 1)
            largest = int(np.argmax(before))
            rows.append(
                (
                    f"`{workload}`",
                    f"{epochs}" + (" (its own)" if epochs == study["epochs"] else ""),
                    f"{weight:.3f}",
                    f"{intercept:.3f}",
                    f"{before[largest]:.3f}",
                    f"{after[largest]:.3f}",
                )
            )
    heads = (
        "workload",
        "epochs",
        "W",
        "b",
        "unpruned plan, before",
        "unpruned plan, after",
    )
    return Table(heads, rows)


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (lines, lengths)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
