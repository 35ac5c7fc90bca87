"""Training and measuring, converted into evaluations by counting, never by a clock.

One evaluation is one forward pass of the unpruned network over the samples that scoring runs: the
search split, and the calibration set unless scoring is `plain`. One training sample is three
forward passes, for a backward pass costs about two: the usual count (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). That pruned plans are cheaper to evaluate is left out, which
favours the agents that train.
"""

from __future__ import annotations

from math import ceil

from spear_gym.evaluation import PlanEvaluator

from .base import AgentError, SearchSession
from .bisection import EVALUATIONS

FORWARDS = 3
"""Forward passes that a training sample counts as."""


def samples_per_evaluation(evaluator: PlanEvaluator) -> int:
    """Samples that one evaluation runs."""
    workload = evaluator.workload
    calibrating = 0 if evaluator.scoring == "plain" else len(workload.calibration)
    return len(workload.splits.search) + calibrating


def charge_training(session: SearchSession, batches: int, batch_samples: int) -> int:
    """Charges training before it is done, less of it when the budget is short.

    Args:
        session: whose budget is charged.
        batches: that the agent wants to train.
        batch_samples: samples of a batch.

    Returns:
        The batches that it may train: as many as leave enough for the bisection, perhaps 0.
    """
    each = samples_per_evaluation(session.evaluator)
    room = max(0, session.budget - session.spent - EVALUATIONS)
    done = min(batches, room * each // (FORWARDS * batch_samples))
    samples = done * batch_samples
    charge = ceil(FORWARDS * samples / each)
    words = (
        f"{samples} training samples, each {FORWARDS} forward passes (forward, and backward at "
        f"about twice that), at {each} samples an evaluation"
    )
    if 0 < done < batches:
        words += (
            f"; cut from {batches} to {done} batches so that {EVALUATIONS} of {session.budget} "
            "evaluations are left"
        )
    if done == 0 < batches:
        words = (
            f"no training: a budget of {session.budget} leaves nothing beside {EVALUATIONS} "
            "evaluations"
        )
    session.charge(charge, words)
    return done


def charge_forward(session: SearchSession, samples: int, agent: str) -> None:
    """Charges one forward pass.

    Raises:
        AgentError: when that would leave no evaluation.
    """
    each = samples_per_evaluation(session.evaluator)
    charge = ceil(samples / each)
    if session.spent + charge >= session.budget:
        raise AgentError(
            f"budget is {session.budget}, but agent '{agent}' needs at least {charge + 1}: "
            f"{charge} for its pass over {samples} samples, and one to evaluate a plan"
        )
    session.charge(
        charge, f"1 forward pass over {samples} samples, at {each} samples an evaluation"
    )
