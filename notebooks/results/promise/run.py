"""How often is a SynOps target broken: with a bound and repair, a line alone, or neither?

    .venv/bin/python notebooks/results/promise/run.py [WORKLOAD ...]

Runs the searches that are missing in `data/rows.jsonl`; `tables.py` makes the tables from it. The
arm that is called "plain + line" in the texts has the key `paper` in the data: plain scoring and a
line without a bound or a repair. It is not the paper's procedure, of which search, recipe and
scoring are unknown or differ. Its samples are those of `spear lre-study`, in `../lre-study/data/`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spear_gym.agents import make_agent, run_search
from spear_gym.agents.repair import repair
from spear_gym.boundary.files import write_json, write_text
from spear_gym.evaluation import Finetuned, PlanEvaluator
from spear_gym.judge import Judge, make_judge
from spear_gym.lre import (
    FittedEstimator,
    NoEstimator,
    SynopsEstimator,
    estimate_of,
    fit_estimator,
    load_estimator,
)
from spear_gym.lre.fit import Stopping, fit_lre
from spear_gym.reward import TargetAwareReward
from spear_gym.studies.lre import LREStudy
from spear_gym.workers.tasks import run_tasks
from spear_gym.workload import Workload, load_workload, measure

HERE = Path(__file__).parent
DATA = HERE / "data"
ROWS = DATA / "rows.jsonl"
STUDIES = HERE.parent / "lre-study" / "data"
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
    path = DATA / f"{arm}.{workload.name}.json"
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
        study = LREStudy.load(STUDIES / f"{workload.name}.json.gz")
        fingerprint = PlanEvaluator(workload, scoring="plain").fingerprint()
        fit = fit_estimator("linear", study.pool("plain").samples, fingerprint)
    write_json(path, fit.to_json())
    return fit


def main(names: Sequence[str]) -> None:
    """Runs what is missing."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    done = {Search(*(row[key] for key in ("workload", "arm", "target", "seed"))) for row in rows}
    loaded = {name: load_workload(name) for name in names}
    pairs = list(itertools.product(names, ARMS))
    studied = {n for n in names if (STUDIES / f"{n}.json.gz").is_file()}
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


if __name__ == "__main__":
    main(sys.argv[1:] or WORKLOADS)
