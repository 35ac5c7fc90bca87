"""The numbers in the texts are those of the data in `notebooks/results/`."""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict

import numpy as np
import pytest
from documents import RESULTS, page, said, tables_of

from spear_gym.envs_registry import ENTRIES

# ------------------------------------------------------------------ score


def test_score_page() -> None:
    study, text = tables_of("score-study"), said("results/score.md")
    each = ("digits", "cluttered-digits", "digits-events")
    starts = [study.starts(study.study(name)) for name in each]
    assert (
        "correlate by {:.2f} (`digits`), {:.2f} (`cluttered-digits`) and {:.2f}".format(*starts)
        in text
    )
    gains = []
    for name in each:
        found = study.study(name)
        refit, other = (study.values(found, w, "accuracy") for w in ("refit", "recalibrated"))
        gains.append(100 * (refit.mean() - other.mean()))
    assert (
        "{:+.1f} points on `digits`, {:+.1f} on `cluttered-digits`, {:+.1f} on "
        "`digits-events`".format(*gains)
    ) in text
    contrasts = {name: study.difference(study.study(name), "plain") for name in each}
    assert all(low < 0 < high for _, low, high in contrasts.values())  # "shown on none"
    others = [study.difference(study.study(name), "recalibrated")[1] for name in each]
    assert sum(low > 0 for low in others) == 2  # "on two of the three"
    for name in study.WORKLOADS:  # "the highest correlation on all five networks"
        found = study.study(name)
        every = [study.from_refit(found, scoring) for scoring in study.SCORINGS]
        assert max(every) == every[-1]
        assert found["fraction"] == 0.3
    ours = [study.from_refit(study.study(name), "refit") for name in study.WORKLOADS]
    assert f"{min(ours):.2f} to {max(ours):.2f}" in said("README.md")
    assert f"reaches {min(ours):.2f}" in text


# ------------------------------------------------------------------ spread


def test_spread_page() -> None:
    study, text = tables_of("spread-study"), said("results/spread.md")
    failed, passed = study.study("digits-events-0.3"), study.study("digits-events-0.15")
    assert failed["ratio"] < 3 <= passed["ratio"]
    assert f"that test failed, with {failed['ratio']:.2f}, and the step was not taken" in text
    assert f"differ by {passed['plan_std']:.3f}" in text


# ------------------------------------------------------------------ prediction


def test_lre_page() -> None:
    study, text = tables_of("lre-study"), said("results/lre.md")
    score, promise = tables_of("score-study"), tables_of("promise")

    def bias(workload: str) -> float:
        """On plans that a search chose without a prediction."""
        own = promise.of(workload, "none")
        return float(np.mean([r["before"]["search"] - r["estimate"] for r in own]))

    assert f"{bias('cluttered-digits'):+.3f} of the unpruned SynOps on `cluttered-digits`" in text
    assert f"{bias('digits-events'):+.3f} on `digits-events`" in text

    def drift(workload: str, scoring: str) -> float:
        plans = [p for p in score.study(workload)["plans"] if p["scoring"] == scoring]
        assert len(plans) == 60
        moved = [abs(p["finetuned_fraction"] - p["synops_fraction"]) for p in plans]
        return float(np.mean(moved))

    shown = [drift(w, s) for s in ("plain", "refit") for w in ("digits", "cluttered-digits")]
    assert (
        "{:.3f} on `digits` and {:.3f} on `cluttered-digits`, against {:.3f} and {:.3f}".format(
            *shown
        )
    ) in text
    events = [drift("digits-events", scoring) for scoring in ("plain", "refit")]
    assert "on `digits-events` it is {:.3f} against {:.3f}".format(*events) in text
    # Clopper-Pearson, 12 of 12.
    assert f"anything above {0.025 ** (1 / 12):.0%}".replace("%", " %") in text
    longest = max(p["epochs"] for w in study.LENGTHS for p in study.archive(w)["pools"])
    assert f"longest tried here is {longest} epochs" in text


# ------------------------------------------------------------------ promise


def test_promise_page() -> None:
    study, text = tables_of("promise"), said("results/promise.md")
    assert len(study.rows()) == 3 * 3 * 3 * 20
    assert {study.fitted(w, "bound") for w in study.WORKLOADS} == {study.FIT} == {19}
    more = []
    for workload in study.WORKLOADS:
        own = study.of(workload, "bound")
        assert not study.broken(own, "after")
        more.append(
            np.mean([study.epochs(r) for r in own])
            - np.mean([study.epochs(r) for r in study.of(workload, "none")])
        )
    extra = f"{min(more):.1f} to {max(more):.1f} more epochs"
    assert extra in text
    assert f"at {extra}, none of 180 was over, and 1 before repair" in said("README.md")
    own = [r for w in study.WORKLOADS for r in study.of(w, "bound")]
    assert (len(own), len(study.broken(own, "before"))) == (180, 1)
    repaired = [r for r in study.rows() if "after" in r]
    apart = max(abs(r["after"]["test"] / r["after"]["search"] - 1) for r in repaired)
    assert 0.007 < apart < 0.008
    assert "differ by less than 0.8 %" in text
    events = {arm: study.of("digits-events", arm) for arm in ("bound", "none")}
    ours, theirs = (study.accuracy(own, "before") for own in events.values())
    over = np.mean([r["before"]["test"] / r["target"] for r in events["none"]]) - 1
    assert (
        f"{ours:.3f} on `digits-events`, against {theirs:.3f} without a prediction (which is "
        f"{100 * over:.0f} % over the target"
    ) in text
    assert (
        f"After repair it is {study.accuracy(events['bound'], 'after'):.3f}, with "
        f"{more[study.WORKLOADS.index('digits-events')]:.1f} more epochs"
    ) in text
    margins, missed = [], []
    for workload in study.WORKLOADS:
        own = study.of(workload, "bound", 0.15)
        margins.append(100 * np.median([r["predicted"] - r["estimate"] for r in own]) / 0.15)
        missed.append(100 * study.distance(own, "before"))
    assert "that margin is {:.0f}, {:.0f} and {:.0f} % of the target".format(*margins) in text
    assert "of the {:.0f}, {:.0f} and {:.0f} % by which networks miss it".format(*missed) in text
    above = np.array([r["before"]["search"] - r["estimate"] for r in events["bound"]])
    assert f"lie {above.mean() / above.std(ddof=1):.1f} of their spread above" in text
    counts = [len(study.broken(study.of(w, "none"), "before")) for w in study.WORKLOADS]
    assert "broke {}, {} and {} of 60 targets".format(*counts) in said("README.md")
    assert f"[{counts[1] / 0.6:.0f} and {counts[2] / 0.6:.0f} %" in said("results/lre.md")


def test_coverage_given_the_fit() -> None:
    study, text = tables_of("promise"), said("results/promise.md")
    assert study.exact_chance() == pytest.approx(1 - 0.95**19)
    assert f"probability of {study.exact_chance():.2f}" in text
    assert 0.95**59 < 0.05 < 0.95**58
    for workload in study.WORKLOADS:
        given = study.coverage(workload).given_fit
        assert len(given) == study.REDRAWS
        assert given.mean() == pytest.approx(0.95, abs=0.01)
        assert (given < 0.9).mean() == pytest.approx(1 / 7, abs=0.03)  # "about one in seven"


def test_bounds_here_are_those_of_the_package() -> None:
    """The vectorised leave-one-out fits of the table, against the package's bound."""
    from spear_gym.lre import Sample, bounded, fit_estimator

    study = tables_of("promise")
    plans = study.pool("digits", "refit")["samples"][:25]
    samples = [Sample(**{**p, "counts": tuple(p["counts"])}) for p in plans]
    bound = bounded(fit_estimator("linear", samples[:19], {}), 0.95)
    before, after = (np.array([p[key] for p in plans]) for key in ("scored", "finetuned"))
    left_out, above, _ = study._leave_one_out(before[:19], after[:19], before[19:])
    ours = study.upper_bound(left_out, above, 0.95)
    assert ours == pytest.approx([bound.predict(s.scored, s.layers) for s in samples[19:]])


# ------------------------------------------------------------------ searches


def test_searches_page() -> None:
    study, text = tables_of("searches"), said("results/searches.md")

    def ahead(other: str) -> list[float]:
        rows = study.searches("cluttered-digits")
        return [
            100
            * (
                study.mean(study.of(rows, t, "spear-ddpg"), "test_accuracy")
                - study.mean(study.of(rows, t, other), "test_accuracy")
            )
            for t in study.TARGETS
        ]

    assert "{:.1f}, {:.1f} and {:.1f} points above `uniform`".format(*ahead("uniform")) in text
    below, *above = ahead("random")
    assert "{:.1f} below, {:.1f} and {:.1f} above `random`".format(-below, *above) in text
    rows = [row for workload in study.WORKLOADS for row in study.searches(workload)]
    over = [
        float(r["test_fraction"]) / float(r["target"]) - 1 for r in rows if r["kept"] == "False"
    ]
    assert f"{len(rows) - len(over)} of these {len(rows)} networks keep" in text
    assert f"end {100 * min(over):.1f} to {100 * max(over):.1f} % over" in text
    assert f"standard error of {100 * (0.92 * 0.08 / 497) ** 0.5:.1f} points" in text


def test_ten_times_as_long() -> None:
    study, text = tables_of("searches"), said("results/searches.md")
    rows = study.longer()
    assert len(rows) == 2 * 2 * (1 + 3 * 3)

    def accuracy(workload: str, agent: str, length: int) -> float:
        own = [r for r in rows if (r["workload"], r["agent"]) == (workload, agent)]
        epochs = ENTRIES[workload].finetune.epochs * length
        return 100 * study.mean([r for r in own if int(r["epochs"]) == epochs], "test_accuracy")

    def ahead(workload: str, length: int) -> tuple[float, ...]:
        control = accuracy(workload, "uniform", length)
        return tuple(accuracy(workload, a, length) - control for a in ("spear-ddpg", "random"))

    gains = [
        accuracy("cluttered-digits", a, 10) - accuracy("cluttered-digits", a, 1)
        for a in study.AGENTS
    ]
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in rows:
        if (r["workload"], r["agent"] != "unpruned") == ("cluttered-digits", True):
            runs[r["agent"], r["seed"]].append(100 * float(r["test_accuracy"]))
    each = [late - early for early, late in runs.values()]
    assert len(each) == 9
    assert (
        f"worth {min(gains):.0f} to {max(gains):.0f} points on `cluttered-digits` (means of three "
        f"plans; {min(each):.0f} to {max(each):.0f} plan by plan), more than the "
        f"{ahead('cluttered-digits', 1)[0]:.0f} that a search is ahead"
    ) in text
    assert (
        "by {:.1f} and {:.1f} points at the recipe's length, and by {:.1f} and {:.1f} after it; on "
        "`digits` by {:.1f} and {:.1f}, and then {:.1f} and {:.1f} behind".format(
            *ahead("cluttered-digits", 1),
            *ahead("cluttered-digits", 10),
            *ahead("digits", 1),
            *(-x for x in ahead("digits", 10)),
        )
    ) in text
    moved = {workload: [100 * x for x in study.drift(workload)] for workload in study.WORKLOADS}
    large, small = moved["cluttered-digits"], moved["digits"]
    assert f"rise, by {min(large):.0f} to {max(large):.0f} %" in text
    assert f"move by {min(small):.0f} to {max(small):.0f} %" in text
    assert f"single networks by up to {max(large):.0f} %" in said("results/lre.md")
    pruned = [
        r for r in rows if (r["workload"], r["agent"] != "unpruned") == ("cluttered-digits", True)
    ]
    over = {e: sum(study.over_target(r) for r in pruned if r["epochs"] == e) for e in ("2", "20")}
    assert over["2"] == 0
    assert f"{over['20']} of the 9 are over the target" in text
    unpruned = []
    for workload in ("cluttered-digits", "digits"):
        own = [r for r in rows if (r["workload"], r["agent"]) == (workload, "unpruned")]
        early, late = (float(r["test_fraction"]) for r in own)
        unpruned.append(100 * (late / early - 1))
    assert "by {:.0f} % on `cluttered-digits` and {:.0f} % on `digits`".format(*unpruned) in text


def test_fine_tuned_again_elsewhere() -> None:
    found = [np.abs(column) for column in zip(*tables_of("searches").again(), strict=True)]
    assert len(found[0]) == 18
    accuracy, synops = ((100 * x.mean(), 100 * x.max()) for x in found)
    text = said("results/searches.md")
    assert "by {:.1f} points in the mean and {:.1f} at most".format(*accuracy) in text
    assert "by {:.1f} and {:.1f} % of the target".format(*synops) in text
    assert "by {:.1f} points of accuracy in the mean and by {:.1f} at most".format(
        *accuracy
    ) in said("results/index.md")


# ------------------------------------------------------------------ definitions, agents, index


def test_energy_left_out() -> None:
    study, text = tables_of("analog-layer"), said("definitions.md")

    def ends(workload: str, macs: str) -> str:
        shares = study.of_searched(workload, macs)
        assert len(shares) == 6
        return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"

    assert f"{ends('cluttered-digits', 'macs')} of their arithmetic energy" in text
    assert f"({ends('cluttered-digits', 'macs_once')} if it is computed once an image)" in text
    assert f"and {ends('digits', 'macs')} on `digits` ({ends('digits', 'macs_once')})" in text
    images = [c for c in study.stored().values() if c["macs"]]
    whole, low = ([study.at_target(c, "macs", f) for c in images] for f in (1.0, study.LOW))
    readme = said("README.md")
    assert f"{100 * min(whole):.0f} to {100 * max(whole):.0f} % of the arithmetic" in readme
    assert f"{100 * min(low):.0f} to {100 * max(low):.0f} % at a target of 0.15" in readme


@pytest.mark.slow
def test_operations_of_the_shipped_networks_are_those_on_record() -> None:
    study = tables_of("analog-layer")
    for name, found in study.measure().items():
        assert found == pytest.approx(study.stored()[name], rel=1e-4), name


def test_agents_page_and_readme_tell_the_ablations_means() -> None:
    with (RESULTS / "ablation" / "cells.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 1040
    by_task: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        task = (cell["workload"], cell["target"])
        by_task[cell["agent"]][task].append(float(cell["test_accuracy"]))
        seconds[cell["agent"]].append(float(cell["search_seconds"]))

    def ahead(agent: str) -> float:
        """Points over `random`, the mean over tasks of the difference of means."""
        ours, control = by_task[agent], by_task["random"]
        gaps = [statistics.mean(ours[task]) - statistics.mean(control[task]) for task in control]
        return 100 * statistics.mean(gaps)

    text = said("agents.md")
    assert f"end {ahead('tpe'):.1f} and {ahead('cma-es'):.1f} points of test accuracy above" in text
    assert f"`spear-ddpg` and `evolution` {ahead('spear-ddpg'):.1f} each" in text
    assert f"{ahead('evolution'):.1f}" == f"{ahead('spear-ddpg'):.1f}"
    assert (
        f"`ppo` ends {-ahead('ppo'):.1f}, `uniform` {-ahead('uniform'):.1f} and `ddpg` "
        f"{-ahead('ddpg'):.1f} points below"
    ) in text
    took = [statistics.median(seconds[a]) for a in ("spear-ddpg", "tpe", "evolution", "cma-es")]
    assert (
        "took {:.0f} s with `spear-ddpg`, and {:.0f}, {:.0f} and {:.0f} s".format(*took)
    ) in text
    readme = said("README.md")
    assert f"`spear-ddpg` is {ahead('spear-ddpg'):.1f} points of test accuracy (" in readme
    assert f"and `tpe` {ahead('tpe'):.1f} (" in readme
    toys = (RESULTS / "toys" / "enumerated.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| `([\w-]+)` .* (\d+) of 30 \|", toys, re.MULTILINE))
    told = "in {ddpg-default} of 30 searches, random {random};".format_map(found)
    assert told in readme
    shares = []
    for agent in ("random", "spear-ddpg"):
        own = [cell["kept"] == "False" for cell in cells if cell["agent"] == agent]
        shares.append(100 * sum(own) / len(own))
    told = "{:.0f} % of the runs of `random` and {:.0f} % of those of `spear-ddpg`".format(*shares)
    assert told in said("results/searches.md")


def test_index_tells_sizes_and_recipes() -> None:
    text, stored = page("results/index.md"), tables_of("analog-layer").stored()
    for name in ("digits", "cluttered-digits", "digits-events"):
        entry = ENTRIES[name]
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        sizes = entry.data().named().values()
        assert ", ".join(f"{len(split):,}" for split in sizes) in row
        assert f"{entry.finetune.epochs} epochs, AdamW {entry.finetune.lr:g}" in row
        assert f"{stored[name]['synops']:,.0f}" in row
        parameters = sum(p.numel() for p in entry.network(0).parameters())
        assert f"{parameters:,} parameters" in row


# ------------------------------------------------------------------ speed, notebooks


def test_speed_page_tells_the_share_of_products() -> None:
    study, text = tables_of("speed"), said("speed.md")
    rows = study.rows_of(study.loaded("speed.json"), "evaluation")

    def ends(batch: int) -> tuple[float, float]:
        own = [r for r in rows if r["batch"] == batch and r["network"] in study.SMALL]
        shares = [100 / r["ours / products"] for r in own]
        return min(shares), max(shares)

    assert "{:.0f} to {:.0f} % on the small networks at batch 512".format(*ends(512)) in text
    assert "{:.0f} to {:.0f} % at batch 64".format(*ends(64)) in text
    assert min(100 / r["ours / products"] for r in rows if r["network"] == study.LARGE) > 80


def test_notebook_tells_what_refitted_scoring_takes_off_the_drift() -> None:
    study, off = tables_of("lre-study"), []
    for name in ("digits", "cluttered-digits", "digits-events"):
        found, drift = study.archive(name), []
        for scoring in ("refit", "plain"):
            before, after = study.both(
                study.pool(found, scoring, found["epochs"])["held_out"],
            )
            drift.append(np.abs(after - before).mean())
        off.append(100 * (1 - drift[0] / drift[1]))
    notebook = (RESULTS.parent / "05_how_sure_is_the_prediction.ipynb").read_text(encoding="utf-8")
    assert "refitted scoring takes {:.0f}, {:.0f} and {:.0f} % off".format(*off) in notebook
