"""A whole search: plans, fine-tuning, one look at the test split, and a folder with the results."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spear_gym.boundary.files import uninterrupted, write_json
from spear_gym.boundary.ownership import Lease
from spear_gym.checkpoint import remove_checkpoints
from spear_gym.evaluation import Counts, EvaluationFailed, Finetuned, PlanEvaluator
from spear_gym.judge import Candidate, Judge
from spear_gym.record.ledger import Failure, Ledger, Replay
from spear_gym.workload import Measurement, Workload, measure

from .base import Agent, SearchResult, SearchSession, run_search
from .delivery import Delivered, digest_of, read_delivery, write_delivery
from .folders import RUN_FORMAT, SETTINGS, RunError, is_identity, owned, read_json
from .repair import OnStep, RepairStep, repair
from .run_folder import (
    Phases,
    SearchReport,
    SearchSettings,
    estimator_json,
    write_best_plan,
    write_run,
)


def environment_versions() -> dict[str, str]:
    """Versions that a result was made with."""
    packages = ("spear-gym", "torch", "snntorch", "stable-baselines3", "gymnasium", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def search_in_folder(
    agent: Agent,
    evaluator: PlanEvaluator,
    judge: Judge,
    settings: SearchSettings,
    folder: Path,
    *,
    storage: str | None = None,
    overwrite: bool = False,
    on_candidate: Callable[[SearchSession, Candidate], None] | None = None,
) -> SearchResult:
    """Searches; every paid evaluation goes to the ledger, the best plan into the folder.

    Recorded evaluations of an earlier, interrupted run are replayed, not paid for again.

    Args:
        agent: who searches.
        evaluator: scores plans.
        judge: target, estimator and reward.
        settings: what was asked for.
        folder: the run folder.
        storage: of the ledger, see :func:`spear_gym.record.storage.open_storage`; ``ledger.log``
            in the folder by default. Searches in one storage are told apart by what they were
            asked for.
        overwrite: forget what an equal search recorded there.
        on_candidate: called after each paid evaluation.

    Raises:
        RunError: when the folder holds another search.
        OwnedError: when another process writes to the folder, and who.
        LedgerError: when the ledger belongs to another search, or the replay diverges.
    """
    conditions = {
        "settings": {k: v for k, v in settings.to_json().items() if k != "top"},
        "fingerprint": evaluator.fingerprint(),
        "lre": estimator_json(judge.estimator),
        "versions": environment_versions(),
    }
    identity = json.loads(json.dumps(conditions))  # as it will be read back: lists, no tuples
    with owned(folder) as lease:
        _claim_settings(folder, identity)
        study = f"{evaluator.workload.name} {agent.name} seed {settings.seed}"
        if storage is not None:
            digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
            study = f"{study} target {judge.target:g} {digest}"
        where = folder / "ledger.log" if storage is None else storage
        with Ledger(where, study, evaluator.space, identity, overwrite=overwrite) as ledger:
            return _search_with(
                ledger, lease, agent, evaluator, judge, settings, folder, on_candidate
            )


def _search_with(
    ledger: Ledger,
    lease: Lease,
    agent: Agent,
    evaluator: PlanEvaluator,
    judge: Judge,
    settings: SearchSettings,
    folder: Path,
    on_candidate: Callable[[SearchSession, Candidate], None] | None,
) -> SearchResult:
    """The search with its record: what stands in it is replayed, the rest is added."""
    recorded = ledger.evaluations()
    earlier_runs = sum(evaluation.counts not in evaluator.known for evaluation in recorded)
    for evaluation in recorded:
        evaluator.remember(evaluation)
    replay = Replay([evaluation.counts for evaluation in recorded], ledger.lost)
    best: list[Candidate] = []

    def record(session: SearchSession, candidate: Candidate) -> None:
        with uninterrupted():
            lease.check()
            if not replay.check(candidate.evaluation.counts):
                ledger.append(candidate)
            if session.best is not None and [session.best] != best:
                best[:] = [session.best]
                plan = evaluator.space.plan(session.best.evaluation.counts)
                write_best_plan(plan, folder)
        if on_candidate is not None:
            on_candidate(session, candidate)

    def record_failure(counts: Counts, error: EvaluationFailed) -> None:
        with uninterrupted():
            ledger.append_failure(Failure(counts, error.kind, str(error)))

    found = run_search(
        agent,
        evaluator,
        judge,
        budget=settings.budget,
        seed=settings.seed,
        on_candidate=record,
        hidden_features=settings.hidden_features,
        failures={f.counts: EvaluationFailed(f.message, f.kind) for f in ledger.failures()},
        on_failure=record_failure,
    )
    # Once more, for an interrupt may have come between a row and the plan.
    write_best_plan(evaluator.space.plan(found.best.evaluation.counts), folder)
    return replace(found, runs=found.runs + earlier_runs)


def _claim_settings(folder: Path, identity: dict[str, Any]) -> None:
    """Makes a folder that of a search, or sees that it is: that is its first file.

    Raises:
        RunError: when it is that of other settings, another network or other versions.
    """
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, {"format": RUN_FORMAT, **identity})
        return
    found = read_json(path)
    if not is_identity(found):
        raise RunError(f"'{path}' is damaged: it holds no settings of a search")
    found.pop("format", None)
    then, now = _flat(found), _flat(identity)
    differing = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if differing:
        raise RunError(
            f"the run in '{folder}' is another search (different: {', '.join(differing)}); repeat "
            "its settings, choose another folder with --out, or replace it with --overwrite"
        )


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Settings, fingerprint and versions by dotted name; settings without a prefix."""
    flat: dict[str, Any] = {}
    for section, values in identity.items():
        if not isinstance(values, dict):
            flat[section] = values
            continue
        prefix = "" if section == "settings" else f"{section}."
        flat |= {f"{prefix}{key}": value for key, value in values.items()}
    return flat


def finish(
    evaluator: PlanEvaluator,
    judge: Judge,
    settings: SearchSettings,
    found: SearchResult,
    folder: Path,
    *,
    scored: Sequence[Candidate] | None = None,
    on_batch: Callable[[int, int, int, float], None] | None = None,
    on_step: OnStep | None = None,
) -> SearchReport:
    """Fine-tunes the best plans, chooses on search, looks at test once, writes the results.

    Where the settings ask for it, the chosen network is repaired before test is looked at.
    Fine-tunes have a checkpoint after every epoch, and the network is written before test is looked
    at: a run that was stopped goes on from there, and one whose network is there only measures it.

    Args:
        evaluator: scores and fine-tunes.
        judge: the target.
        settings: of the search.
        found: its result.
        folder: the run folder.
        scored: plans to choose from, judged for this target; those of the search by default.
        on_batch: called with (plan number, batches done, batches in all, loss).
        on_step: called after each step of a repair.

    Raises:
        RunError: when the network cannot be measured on test; it is kept in the folder.
    """
    candidates = found.candidates if scored is None else scored
    ranked = sorted(candidates, key=Candidate.order)[: settings.top]
    asked = digest_of(
        [
            settings.to_json(),
            evaluator.fingerprint(),
            judge.target,
            [candidate.evaluation.counts for candidate in ranked],
        ]
    )
    with owned(folder):
        made = read_delivery(evaluator, asked, folder)
        if made is None:
            made = _made(evaluator, judge, settings, ranked, folder, on_batch, on_step)
            write_delivery(made, asked, folder)
        remove_checkpoints(folder)
    start = time.perf_counter()
    unpruned, measured = _on_test(evaluator.workload, made.tuned, folder)
    end = time.perf_counter()
    report = SearchReport(
        found,
        ranked[made.chosen],
        made.tuned,
        unpruned,
        measured,
        len(ranked),
        len(candidates),
        Phases(found.seconds, made.seconds, end - start),
        made.steps,
        made.evaluations,
    )
    with owned(folder):
        write_run(report, evaluator, judge, settings, folder)
    return report


def _made(
    evaluator: PlanEvaluator,
    judge: Judge,
    settings: SearchSettings,
    ranked: Sequence[Candidate],
    folder: Path,
    on_batch: Callable[[int, int, int, float], None] | None,
    on_step: OnStep | None,
) -> Delivered:
    """The best of the fine-tuned plans, repaired where that is asked for."""
    start = time.perf_counter()
    tuned = []
    for number, candidate in enumerate(ranked):
        progress = None if on_batch is None else _numbered(on_batch, number)
        tuned.append(
            evaluator.finetune(
                candidate.evaluation.counts,
                seed=settings.seed,
                on_batch=progress,
                checkpoints=folder,
            )
        )
    limit = judge.target * evaluator.reference.synops
    chosen = min(range(len(tuned)), key=lambda i: _final_order(tuned[i], limit))
    network = tuned[chosen]
    steps: tuple[RepairStep, ...] = ()
    extra = 0
    if settings.repair:
        delivery = repair(
            evaluator,
            judge,
            network,
            seed=settings.seed,
            use_slack=settings.use_slack,
            on_step=on_step,
            checkpoints=folder,
        )
        network, steps, extra = delivery.tuned, delivery.steps, delivery.evaluations
    return Delivered(network, chosen, steps, extra, time.perf_counter() - start)


def _on_test(
    workload: Workload, network: Finetuned, folder: Path
) -> tuple[Measurement, Measurement]:
    """The unpruned and the fine-tuned network on test."""
    try:
        return workload.reference("test"), measure(workload, network.model, "test")
    except (MemoryError, RuntimeError) as error:  # torch's for memory are of both kinds
        raise RunError(
            f"the fine-tuned network is kept in '{folder}', but measuring it on the test split "
            f"failed: {error}"
        ) from error


def _numbered(
    on_batch: Callable[[int, int, int, float], None], number: int
) -> Callable[[int, int, float], None]:
    return lambda done, total, loss: on_batch(number, done, total, loss)


def _final_order(tuned: Finetuned, limit: float) -> tuple[bool, float, float]:
    """Sort key on search, best first: within the target by accuracy, else by SynOps."""
    figures = tuned.search
    if figures.synops <= limit:
        return (False, -figures.accuracy, figures.synops)
    return (True, figures.synops, -figures.accuracy)
