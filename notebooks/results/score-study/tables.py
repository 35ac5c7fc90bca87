"""The tables of docs/results/score.md, from `data/`; nothing is simulated.

.venv/bin/python notebooks/results/score-study/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from spear_gym.report.page import Table, table_markdown

DATA = Path(__file__).parent / "data"
WORKLOADS = (
    "digits",
    "cluttered-digits",
    "cluttered-digits-b",
    "cluttered-digits-c",
    "digits-events",
)
OTHERS = ("plain", "recalibrated")
SCORINGS = (*OTHERS, "refit")
RESAMPLES = 4000

Values = NDArray[np.float64]


def study(workload: str) -> dict[str, Any]:
    """A study as `spear score-study` wrote it."""
    loaded: dict[str, Any] = json.loads((DATA / f"{workload}.json").read_text())
    return loaded


def values(found: dict[str, Any], scoring: str, key: str, group: str = "fixed") -> Values:
    """A column of the plans of one group, in the order of the plans."""
    rows = [r for r in found["plans"] if (r["scoring"], r["group"]) == (scoring, group)]
    return np.array([row[key] for row in rows])


def rank_correlation(x: Values, y: Values) -> float:
    """Spearman's."""
    return float(spearmanr(x, y).statistic)


def from_refit(found: dict[str, Any], scoring: str, group: str = "fixed") -> float:
    """A score against the accuracy after one fine-tune, from the `refit` network for all ways."""
    score = values(found, scoring, "score", group)
    return rank_correlation(score, values(found, "refit", "accuracy", group))


def validity() -> Table:
    """Every way of scoring on every network."""
    rows = []
    for workload in WORKLOADS:
        found = study(workload)
        own = {v["scoring"]: v for v in found["validity"] if v["group"] == "fixed"}
        for scoring in SCORINGS:
            # Without `each` all three were compared with a fine-tune from `refit`'s network.
            fair = found["each"] or scoring == "refit"
            row = own[scoring]
            rows.append(
                (
                    f"`{workload}`",
                    scoring,
                    _interval(row) if fair else "–",
                    f"{from_refit(found, scoring):.2f}",
                    f"{from_refit(found, scoring, 'spread'):.2f}",
                    f"{row['seconds']:.3f}",
                    f"{row['mean_accuracy']:.3f}" if fair else "–",
                )
            )
    heads = (
        "workload",
        "scoring",
        "near 0.3, from its own network (95 %)",
        "near 0.3, from `refit`'s",
        "all sizes, from `refit`'s",
        "s per plan",
        "accuracy after, near 0.3, from its own network",
    )
    return Table(heads, rows)


def _interval(row: dict[str, Any]) -> str:
    return f"{row['spearman']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def difference(found: dict[str, Any], other: str) -> tuple[float, float, float]:
    """`refit`'s correlation minus another's near 0.3, each against its own fine-tune.

    Returns:
        The difference, and the ends of its 95 % interval from plans drawn with replacement, the
        same plans for both.
    """
    count = len(values(found, other, "score"))
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    index = np.concatenate([np.arange(count)[None], drawn])
    ours, theirs = (
        row_correlations(values(found, w, "score")[index], values(found, w, "accuracy")[index])
        for w in ("refit", other)
    )
    low, high = np.nanpercentile((ours - theirs)[1:], [2.5, 97.5])
    return float((ours - theirs)[0]), float(low), float(high)


def row_correlations(x: Values, y: Values) -> Values:
    """Spearman's correlation of each row of one table with that of another."""
    a, b = (rankdata(table, axis=1) for table in (x, y))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    found: Values = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return found


def contrasts() -> Table:
    """`refit` against the other two, where each was fine-tuned from its own network."""
    rows = []
    for workload in WORKLOADS:
        found = study(workload)
        if found["each"]:
            cells = ("{:+.2f} ({:.2f} to {:.2f})".format(*difference(found, o)) for o in OTHERS)
            rows.append((f"`{workload}`", *cells))
    return Table(("workload", "refit minus plain", "refit minus recalibrated"), rows)


def regret(found: dict[str, Any], scoring: str, top: int) -> float:
    """Accuracy after fine-tuning that is missed by fine-tuning only the best-scored plans."""
    score, reached = values(found, scoring, "score"), values(found, scoring, "accuracy")
    chosen = np.argsort(-score, kind="stable")[:top]
    return float(reached.max() - reached[chosen].max())


def regrets() -> Table:
    """What is missed by trusting `refit`, of 30 plans near 0.3."""
    rows = [
        (f"`{workload}`", *(f"{regret(study(workload), 'refit', top):.3f}" for top in (1, 3)))
        for workload in WORKLOADS
    ]
    return Table(("workload", "only the best-scored is fine-tuned", "the three best-scored"), rows)


def starts(found: dict[str, Any]) -> float:
    """Agreement of the same plans' accuracies after fine-tuning from two networks, near 0.3."""
    return rank_correlation(*(values(found, w, "accuracy") for w in ("recalibrated", "refit")))


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (validity, contrasts, regrets)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
