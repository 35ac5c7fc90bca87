"""The report of a study of SynOps estimators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spear_gym.lre import LREError
from spear_gym.lre.analysis import (
    REPEATS,
    Linearity,
    Transfer,
    between,
    coverage,
    layer_drift,
    learning_curve,
    linearity,
    transfers,
)
from spear_gym.lre.families import FAMILIES
from spear_gym.report.page import Page, Picture, Section, Table
from spear_gym.studies.lre_pictures import drift_figure, fit_curves_figure, relation_figure

if TYPE_CHECKING:
    from spear_gym.lre import Sample
    from spear_gym.studies.lre import LREStudy

LARGE, SMALL = 0.5, 0.3
"""Plans above the first and below the second are the two ranges of the extrapolation."""

SHOWN_SIZES = (5, 10, 20, 40, 100, 200, 500)


def lre_page(studies: Sequence[LREStudy], repeats: int = REPEATS) -> Page:
    """The report as data.

    Args:
        studies: one per workload.
        repeats: draws for each point of a learning curve.
    """
    sections = [
        _made_from(studies),
        _samples_needed(studies, repeats),
        _extrapolation(studies),
        _transfer(studies),
        _lengths(studies),
        _scorings(studies),
        _coverage(studies),
        _why(studies),
    ]
    names = ", ".join(study.workload for study in studies)
    wanted = [section for section in sections if section.tables or section.pictures]
    return Page(f"Predicting SynOps after fine-tuning: {names}", wanted)


def _made_from(studies: Sequence[LREStudy]) -> Section:
    rows = []
    for study in studies:
        for pool in study.pools:
            everything = (*pool.samples, *pool.held_out)
            failed = sum(bool(sample.failed) for sample in everything)
            minutes = sum(sample.seconds for sample in everything) / 60
            rows.append(
                (
                    study.workload,
                    pool.scoring,
                    f"{pool.epochs}{' (its own)' if pool.epochs == study.epochs else ''}",
                    str(len(pool.samples)),
                    str(len(pool.held_out)),
                    str(failed),
                    f"{minutes:.0f}",
                )
            )
    return Section(
        "What was fine-tuned",
        [
            "Every sample is a plan that was scored and really fine-tuned. All SynOps are "
            "fractions of the unpruned network's, on the search split; errors are mean absolute "
            "errors of that fraction on held-out plans, which no estimator was fitted to."
        ],
        [
            Table(
                ("workload", "scoring", "epochs", "samples", "held out", "failed", "minutes"), rows
            )
        ],
    )


def _samples_needed(studies: Sequence[LREStudy], repeats: int) -> Section:
    curves = {
        study.workload: learning_curve(
            study.pool().samples, study.pool().held_out, sizes=SHOWN_SIZES, repeats=repeats
        )
        for study in studies
    }
    tables = []
    for name, points in curves.items():
        sizes = sorted({point.samples for point in points if point.samples})
        found = {(point.family, point.samples): point for point in points}
        control = next(point for point in points if point.family == "none")
        rows = [("no prediction", *[f"{control.error:.4f}"] * len(sizes))]
        for family in FAMILIES:
            at = [found.get((family, size)) for size in sizes]
            rows.append((family, *("–" if p is None else f"{p.error:.4f}" for p in at)))
        heads = ("estimator", *(f"{size} samples" for size in sizes))
        tables.append(Table(heads, rows, f"{name}: error held out, median over draws"))
    picture = Picture(
        "learning-curves",
        fit_curves_figure(curves),
        f"Error on held-out plans against the number of samples; median over {repeats} draws, for "
        "the line with the band from the 10th to the 90th percentile.",
    )
    return Section("How many samples", tables=tables, pictures=[picture])


def _extrapolation(studies: Sequence[LREStudy]) -> Section:
    tables = []
    for study in studies:
        pool = study.pool()
        large, small = between(pool.samples, LARGE, 9.0), between(pool.samples, -1.0, SMALL)
        judged = (
            (f"above {LARGE:g}", between(pool.held_out, LARGE, 9.0)),
            (f"below {SMALL:g}", between(pool.held_out, -1.0, SMALL)),
        )
        fitted = ((f"above {LARGE:g}", large), (f"below {SMALL:g}", small))
        rows = [
            row
            for here, there in itertools.product(fitted, judged)
            if len(here[1]) >= 5 and there[1]
            for row in transfers(here, there)
        ]
        if rows:
            caption = f"{study.workload}: fitted on plans of one range of SynOps, judged on another"
            tables.append(_transfer_table(rows, caption))
    return Section("From one range of targets to another", tables=tables)


def _transfer(studies: Sequence[LREStudy]) -> Section:
    """Rows: what was fitted to what; columns: the workloads that it was judged on."""
    if len(studies) < 2:
        return Section("From one workload to another")
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for here, there in itertools.product(studies, studies):
        rows = transfers(
            (here.workload, here.pool().samples),
            (there.workload, there.pool().held_out),
            [family for family, kind in FAMILIES.items() if not kind.layered],
        )
        for row in rows:
            fitted = "–" if row.family == "none" else row.fitted
            errors.setdefault((row.family, fitted), {})[row.judged] = row.error
    names = [study.workload for study in studies]
    lines = [
        (
            "no prediction" if family == "none" else family,
            fitted,
            *(f"{found[name]:.4f}" for name in names),
        )
        for (family, fitted), found in sorted(errors.items(), key=lambda item: item[0][0] != "none")
    ]
    heads = ("estimator", "fitted to", *(f"error on {name}" for name in names))
    return Section("From one workload to another", tables=[Table(heads, lines)])


def _transfer_table(rows: Sequence[Transfer], caption: str) -> Table:
    return Table(
        ("estimator", "fitted to", "samples", "judged on", "error", "measured minus predicted"),
        [
            (r.family, r.fitted, str(r.samples), r.judged, f"{r.error:.4f}", f"{r.bias:+.4f}")
            if r.family != "none"
            else ("no prediction", "–", "–", r.judged, f"{r.error:.4f}", f"{r.bias:+.4f}")
            for r in rows
        ],
        caption,
    )


LINE_COLUMNS = (
    "samples", "W", "b", "R²", "residual spread", "mean drift", "bend at the middle", "p (curved)",
)  # fmt: skip


def _line_row(found: Linearity) -> tuple[str, ...]:
    return (
        str(found.samples),
        f"{found.weight:.4f}",
        f"{found.intercept:+.4f}",
        f"{found.r2:.4f}",
        f"{found.spread:.4f}",
        f"{found.mean_drift:+.4f}",
        f"{found.curvature:+.4f}",
        f"{found.p_value:.2g}",
    )


def _lengths(studies: Sequence[LREStudy]) -> Section:
    tables = []
    for study in studies:
        pools = sorted(
            (pool for pool in study.pools if pool.scoring == study.scoring), key=lambda p: p.epochs
        )
        if len(pools) < 2:
            continue
        own = study.pool()
        rows = []
        for pool in pools:
            found = linearity((*pool.samples, *pool.held_out))
            judged = transfers(("", own.samples), ("", pool.held_out), ("linear",))
            errors = tuple(f"{row.error:.4f}" for row in judged)
            rows.append((f"{pool.epochs}", *_line_row(found), *errors))
        heads = ("epochs", *LINE_COLUMNS, "error without prediction", "error of the own line")
        caption = (
            f"{study.workload}: how long plans are fine-tuned; the last column judges the line "
            f"that was fitted at {study.epochs} epochs at other lengths"
        )
        tables.append(Table(heads, rows, caption))
    return Section("Shorter and longer fine-tuning", tables=tables)


def _scorings(studies: Sequence[LREStudy]) -> Section:
    rows = []
    for study in studies:
        for pool in study.pools:
            if pool.epochs != study.epochs:
                continue
            found = linearity((*pool.samples, *pool.held_out))
            judged = transfers(("", pool.samples), ("", pool.held_out), ("linear",))
            errors = tuple(f"{row.error:.4f}" for row in judged)
            rows.append((study.workload, pool.scoring, *_line_row(found), *errors))
    heads = ("workload", "scoring", *LINE_COLUMNS, "error without prediction", "error of the line")
    return Section("Plain against recalibrated scoring", tables=[Table(heads, rows)])


def _coverage(studies: Sequence[LREStudy]) -> Section:
    rows = []
    for study in studies:
        for pool in study.pools:
            if pool.epochs != study.epochs:
                continue
            rows += [
                (
                    study.workload,
                    pool.scoring,
                    str(found.samples),
                    f"{found.confidence:.0%}",
                    f"{found.share:.1%}",
                    str(found.trials),
                    f"{found.margin:.4f}",
                )
                for found in coverage(pool.samples, pool.held_out)
            ]
    heads = ("workload", "scoring", "samples", "asked for", "held", "bounds looked at", "margin")
    return Section(
        "Does the bound hold on random plans",
        [
            "The upper bound of the line's prediction (jackknife+), made from random draws of the "
            "samples, on held-out plans. The trials of one workload share their plans, so they are "
            "not independent. They are means over fits; a single fit may cover fewer. Plans that a "
            "search chose are another matter (docs/results/promise.md)."
        ],
        [Table(heads, rows)],
    )


def _why(studies: Sequence[LREStudy]) -> Section:
    tables, drifts = [], {}
    for study in studies:
        samples = (*study.pool().samples, *study.pool().held_out)
        try:
            layers = layer_drift(samples)
        except LREError:
            continue
        drifts[study.workload] = layers
        rows = [
            (
                study.layers[drift.layer],
                f"{drift.share:.1%} ± {drift.share_spread:.1%}",
                f"{drift.factor:.3f} ± {drift.factor_spread:.3f}",
                f"{drift.trend:+.2f}",
                f"{drift.contribution:+.4f}",
            )
            for drift in layers
        ]
        heads = ("layer", "share of SynOps", "after / before", "trend with SynOps", "adds to drift")
        tables.append(Table(heads, rows, f"{study.workload}: mean ± spread over plans"))
    if not drifts:
        return Section("Why it is linear")
    extremes = [row for study in studies for row in _extremes(study)]
    columns = ("workload", "plans with SynOps before", *LINE_COLUMNS)
    tables.append(Table(columns, extremes, "The line on parts of the range"))
    pools = {study.workload: study.pool().samples for study in studies}
    names = {study.workload: study.layers for study in studies}
    return Section(
        "Why it is linear",
        [
            "A plan fixes the synapses, so in fine-tuning a layer's SynOps change only as its "
            "inputs' firing does, by a factor. The whole is the sum of the layers' SynOps times "
            "their factors: linear where the factors do not depend on how much is pruned (trend "
            "near 0), or the layers' shares of the SynOps stay the same."
        ],
        tables,
        [
            Picture("relation", relation_figure(pools), "What fine-tuning adds to the SynOps."),
            Picture(
                "layer-drift", drift_figure(drifts, names), "Factor of each layer in fine-tuning."
            ),
        ],
    )


def _extremes(study: LREStudy) -> list[tuple[str, ...]]:
    samples: tuple[Sample, ...] = (*study.pool().samples, *study.pool().held_out)
    parts = {"below 0.1": (-1.0, 0.1), "0.1 to 0.3": (0.1, 0.3), "0.3 to 0.6": (0.3, 0.6),
             "above 0.6": (0.6, 9.0), "all": (-1.0, 9.0)}  # fmt: skip
    rows = []
    for name, (low, high) in parts.items():
        try:
            rows.append((study.workload, name, *_line_row(linearity(between(samples, low, high)))))
        except LREError:
            continue
    return rows
