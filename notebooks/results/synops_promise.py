"""How often is a SynOps target broken: with a bound and repair, the paper's line, or neither?

    .venv/bin/python notebooks/results/synops_promise.py [WORKLOAD ...]

The protocol is in `PROTOCOL.md`. Finished searches are kept in `promise/rows.jsonl`; the table is
written to `promise/table.md`. The arm `paper` takes its samples from `lre-study/`, which
`spear lre-study` makes.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from spear_gym.agents import make_agent, run_search
from spear_gym.agents.repair import repair
from spear_gym.evaluation import Finetuned, PlanEvaluator
from spear_gym.files import write_json, write_text
from spear_gym.lre import (
    FittedEstimator,
    NoEstimator,
    SynopsEstimator,
    estimate_of,
    fit_estimator,
    load_estimator,
)
from spear_gym.lre_fit import Stopping, fit_lre
from spear_gym.lre_study import LREStudy
from spear_gym.reward import TargetAwareReward
from spear_gym.target import Judge, make_judge
from spear_gym.tasks import run_tasks
from spear_gym.workload import Workload, load_workload, measure

HERE = Path(__file__).parent
FOLDER = HERE / "promise"
ROWS = FOLDER / "rows.jsonl"
WORKLOADS = ("digits", "cluttered-digits", "digits-events")
ARMS = ("bound", "paper", "none")
TARGETS = (0.5, 0.3, 0.15)
SEEDS, BUDGET, AGENT, CONFIDENCE = range(20), 60, "tpe", 0.95


@dataclass(frozen=True)
class Search:
    """One search."""

    workload: str
    arm: str
    target: float
    seed: int


@dataclass
class Bench:
    """What searches are run with; a worker keeps it from search to search."""

    workloads: dict[str, Workload]
    estimators: dict[tuple[str, str], SynopsEstimator]
    evaluators: dict[tuple[str, str], PlanEvaluator] = field(default_factory=dict)

    def evaluator(self, workload: str, arm: str) -> PlanEvaluator:
        """The evaluator of a workload and arm; two arms share one, and with it all scores."""
        scoring = "plain" if arm == "paper" else self.workloads[workload].scoring
        if (workload, scoring) not in self.evaluators:
            made = PlanEvaluator(self.workloads[workload], scoring=scoring)
            self.evaluators[workload, scoring] = made
        return self.evaluators[workload, scoring]

    def judge(self, search: Search) -> Judge:
        """The judge of a search."""
        return make_judge(
            self.evaluator(search.workload, search.arm),
            self.estimators[search.workload, search.arm],
            TargetAwareReward(),
            target=search.target,
            confidence=CONFIDENCE if search.arm == "bound" else None,
        )


def run(bench: Bench, search: Search) -> dict[str, Any]:
    """Searches, fine-tunes and, in the arm `bound`, repairs."""
    evaluator, judge = bench.evaluator(search.workload, search.arm), bench.judge(search)
    found = run_search(make_agent(AGENT), evaluator, judge, budget=BUDGET, seed=search.seed)
    best = found.best
    tuned = evaluator.finetune(best.evaluation.counts, seed=search.seed)
    row = asdict(search) | {
        "plan": list(best.evaluation.counts),
        "scored": best.evaluation.synops_fraction,
        "predicted": best.predicted_fraction,
        "estimate": estimate_of(judge.estimator).predict(best.evaluation.synops_fraction),
        "feasible": best.feasible,
        "before": figures(evaluator, tuned),
    }
    if search.arm == "bound":
        done = repair(evaluator, judge, tuned, seed=search.seed, use_slack=True)
        row["after"] = figures(evaluator, done.tuned)
        row["steps"] = [asdict(step) for step in done.steps]
        row["evaluations"] = done.evaluations
    return row


def figures(evaluator: PlanEvaluator, tuned: Finetuned) -> dict[str, Any]:
    """Fractions and accuracies of a fine-tuned network on search and test."""
    workload = evaluator.workload
    test, unpruned = measure(workload, tuned.model, "test"), workload.reference("test")
    return {
        "search": tuned.search.synops / evaluator.reference.synops,
        "test": test.synops / unpruned.synops,
        "search_accuracy": tuned.search.accuracy,
        "test_accuracy": test.accuracy,
        "seconds": tuned.seconds,
    }


def estimator_of(workload: Workload, arm: str) -> SynopsEstimator:
    """The estimator of an arm; the stopping rule's is fitted once and kept."""
    if arm == "none":
        return NoEstimator()
    path = FOLDER / f"{arm}.{workload.name}.json"
    if path.is_file():
        return load_estimator(path)
    fit: FittedEstimator
    if arm == "bound":
        store = path.with_suffix(".samples.json")
        evaluator = PlanEvaluator(workload)
        stopping = Stopping(TARGETS, confidence=CONFIDENCE)
        fit = fit_lre(evaluator, stopping=stopping, workers=2, store=store)
        store.unlink()
    else:
        study = LREStudy.load(HERE / "lre-study" / f"{workload.name}.json.gz")
        fingerprint = PlanEvaluator(workload, scoring="plain").fingerprint()
        fit = fit_estimator("linear", study.pool("plain").samples, fingerprint)
    write_json(path, fit.to_json())
    return fit


# ------------------------------------------------------------------ the table


def table(rows: Sequence[dict[str, Any]], fits: dict[tuple[str, str], SynopsEstimator]) -> str:
    """One line per workload and arm, and per target below, as Markdown."""
    heads = (
        "workload", "arm", "fine-tuned for the fit", "epochs per network", "over on search",
        "over on test", "over on test after repair", "distance", "distance after repair",
        "test accuracy", "after repair",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for workload, arm in itertools.product(WORKLOADS, ARMS):
        own = [r for r in rows if (r["workload"], r["arm"]) == (workload, arm)]
        if own:
            lines.append(_line(own, f"`{workload}`", arm, fits.get((workload, arm))))
    lines += ["", "By target:", "", lines[0], lines[1]]
    for workload, target, arm in itertools.product(WORKLOADS, TARGETS, ARMS):
        wanted = (workload, arm, target)
        own = [r for r in rows if (r["workload"], r["arm"], r["target"]) == wanted]
        if own:
            name = f"`{workload}`, {target:g}"
            lines.append(_line(own, name, arm, fits.get((workload, arm))))
    bounds = [r for r in rows if r["arm"] == "bound"]
    lines += ["", "The 95 % bound on plans that a search chose:", ""]
    lines += ["| workload | held | share | margin of the bound |", "|---|---|---|---|"]
    for workload in WORKLOADS:
        own = [r for r in bounds if r["workload"] == workload]
        if own:
            held = sum(r["before"]["search"] <= r["predicted"] for r in own)
            margin = np.mean([r["predicted"] - r["estimate"] for r in own])
            text = f"{held} of {len(own)} | {_share(held, len(own))} | {margin:.4f}"
            lines.append(f"| `{workload}` | {text} |")
    return "\n".join(lines) + "\n"


def _line(rows: Sequence[dict[str, Any]], name: str, arm: str, fit: SynopsEstimator | None) -> str:
    samples = len(fit.samples) + fit.failed if isinstance(fit, FittedEstimator) else 0
    own = load_workload(rows[0]["workload"]).finetune.epochs
    epochs = [own + sum(step["epochs"] for step in r.get("steps", ())) for r in rows]
    cells = [name, arm, str(samples), f"{np.mean(epochs):.1f}"]
    cells += [_over(rows, "before", split) for split in ("search", "test")]
    after = [r for r in rows if "after" in r]
    cells.append(_over(after, "after", "test") if after else "–")
    cells.append(f"{_distance(rows, 'before'):.1%}")
    cells.append(f"{_distance(after, 'after'):.1%}" if after else "–")
    cells.append(f"{np.mean([r['before']['test_accuracy'] for r in rows]):.3f}")
    cells.append(f"{np.mean([r['after']['test_accuracy'] for r in after]):.3f}" if after else "–")
    return f"| {' | '.join(cells)} |"


def _over(rows: Sequence[dict[str, Any]], when: str, split: str) -> str:
    over = sum(r[when][split] > r["target"] for r in rows)
    return f"{over} of {len(rows)}: {_share(over, len(rows))}"


def _share(count: int, total: int) -> str:
    interval = binomtest(count, total).proportion_ci(method="exact")
    return f"{count / total:.0%} ({interval.low:.1%} to {interval.high:.1%})"


def _distance(rows: Sequence[dict[str, Any]], when: str) -> float:
    return float(np.median([abs(r[when]["test"] - r["target"]) / r["target"] for r in rows]))


def main(names: Sequence[str]) -> None:
    """Runs what is missing, and writes the table."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    done = {Search(*(row[key] for key in ("workload", "arm", "target", "seed"))) for row in rows}
    loaded = {name: load_workload(name) for name in names}
    pairs = list(itertools.product(names, ARMS))
    studied = {n for n in names if (HERE / "lre-study" / f"{n}.json.gz").is_file()}
    pairs = [(n, arm) for n, arm in pairs if arm != "paper" or n in studied]
    fits = {(name, arm): estimator_of(loaded[name], arm) for name, arm in pairs}
    grid = itertools.product(SEEDS, pairs, TARGETS)
    waiting = [Search(name, arm, target, seed) for seed, (name, arm), target in grid]
    waiting = [search for search in waiting if search not in done]
    bench = Bench(loaded, fits)
    for _, row in run_tasks(run, waiting, context=bench, workers=2):
        rows.append(row)
        write_text(ROWS, "".join(json.dumps(r) + "\n" for r in rows))
    order = {name: place for place, name in enumerate((*WORKLOADS, *ARMS))}
    rows.sort(key=lambda r: (order[r["workload"]], order[r["arm"]], -r["target"], r["seed"]))
    write_text(ROWS, "".join(json.dumps(r) + "\n" for r in rows))
    write_text(FOLDER / "table.md", table(rows, fits))


if __name__ == "__main__":
    main(sys.argv[1:] or WORKLOADS)
