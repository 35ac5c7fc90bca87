"""Black-box agents: Optuna's samplers, and regularised evolution, over the prune ratios.

A sampler sees one ratio in [0, max_ratio] per group and, for each plan, the reward; none is told
more than the RL agents are. What it remembers lives in memory only: the ledger on disk is the
project's record, not a sampler's. Optuna's settings are its defaults unless given.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler, QMCSampler, TPESampler
from optuna.study import StudyDirection

from spear_gym.evaluation import EvaluationFailed

from .base import AgentError, SearchSession, check_settings
from .evolution import RegularizedEvolutionSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from spear_gym.judge import Candidate


@dataclass(frozen=True)
class Kind:
    """A sampler that is offered.

    Attributes:
        sampler: its class.
        fixed: arguments that a search sets itself.
        objectives: 1, the reward; or 2, accuracy and predicted SynOps.
    """

    sampler: Callable[..., BaseSampler]
    fixed: dict[str, Any] = field(default_factory=dict)
    objectives: int = 1


SAMPLERS: dict[str, Kind] = {
    "qmc": Kind(
        QMCSampler,
        {"scramble": True, "warn_independent_sampling": False, "warn_asynchronous_seeding": False},
    ),
    "tpe": Kind(TPESampler),
    # Scoring gives one plan one score. A trial takes up to a second once 200 are known.
    "gp": Kind(GPSampler, {"deterministic_objective": True, "warn_independent_sampling": False}),
    "cma-es": Kind(CmaEsSampler, {"warn_independent_sampling": False}),
    "nsga-ii": Kind(NSGAIISampler),
    "nsga-ii-2": Kind(NSGAIISampler, objectives=2),
    "evolution": Kind(RegularizedEvolutionSampler),
}
"""Samplers by agent name."""


DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


class OptunaAgent:
    """A sampler of Optuna as an agent.

    Args:
        name: a name in :data:`SAMPLERS`: quasi-random (scrambled Sobol), TPE, Gaussian process,
            CMA-ES, NSGA-II on the reward or on accuracy and SynOps, regularised evolution.
        settings: arguments of the sampler.

    Raises:
        AgentError: for an unknown setting, with near matches, or one that Optuna refuses.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = name
        self.settings = settings
        kind = SAMPLERS[name]
        accepted = inspect.signature(kind.sampler).parameters
        check_settings(name, settings, [p for p in accepted if p != "seed" and p not in kind.fixed])
        self._sampler(seed=0)

    def search(self, session: SearchSession, seed: int) -> None:
        """Asks the sampler for plans until the budget is spent."""
        objectives = SAMPLERS[self.name].objectives
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=self._sampler(seed), directions=DIRECTIONS[:objectives])
        space = session.evaluator.space
        limits: dict[str, BaseDistribution] = {
            f"{index} {group.name}": FloatDistribution(0.0, space.max_ratio)
            for index, group in enumerate(space.groups)
        }
        while not session.done:
            trial = study.ask(limits)
            try:
                values = _values(session.submit([trial.params[key] for key in limits]), objectives)
            except EvaluationFailed:
                values = _worst(session, objectives)
            study.tell(trial, values)

    def _sampler(self, seed: int) -> BaseSampler:
        kind = SAMPLERS[self.name]
        with warnings.catch_warnings():
            # Some samplers are marked as experimental; the versions of a search are recorded.
            warnings.simplefilter("ignore", ExperimentalWarning)
            try:
                return kind.sampler(seed=seed, **kind.fixed, **self.settings)
            except (TypeError, ValueError) as error:
                raise AgentError(
                    f"agent '{self.name}' refuses its settings {self.settings}: {error}"
                ) from error


def _values(candidate: Candidate, objectives: int) -> list[float]:
    """What a sampler is told of a plan."""
    if objectives == 1:
        return [candidate.reward]
    return [candidate.accuracy, candidate.predicted_fraction]


def _worst(session: SearchSession, objectives: int) -> list[float]:
    """What it is told of a plan that could not be evaluated."""
    if objectives == 1:
        return [session.judge.reward_bounds[0]]
    return [0.0, session.judge.estimator.max_prediction]
