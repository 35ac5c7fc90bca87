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
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    TPESampler,
)
from optuna.samplers.nsgaii import BaseCrossover, BaseMutation
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from spear_gym.boundary.text import shown
from spear_gym.evaluation import EvaluationFailed

from .base import AgentError, SearchSession, check_settings
from .evolution import RegularizedEvolutionSampler
from .ranges import (
    FLAG,
    FUNCTION,
    MAPPING,
    NOTHING,
    POSITIVE,
    SHARE,
    Range,
    check_values,
    choice,
    made_by,
    real,
    whole,
)

if TYPE_CHECKING:
    from spear_gym.judge import Candidate


@dataclass(frozen=True)
class SamplerKind:
    """A sampler that is offered.

    Attributes:
        sampler: its class.
        fixed: arguments that a search sets itself.
        objectives: 1, the reward; or 2, accuracy and predicted SynOps.
    """

    sampler: Callable[..., BaseSampler]
    fixed: dict[str, Any] = field(default_factory=dict)
    objectives: int = 1


SAMPLERS: dict[str, SamplerKind] = {
    "qmc": SamplerKind(
        QMCSampler,
        {"scramble": True, "warn_independent_sampling": False, "warn_asynchronous_seeding": False},
    ),
    "tpe": SamplerKind(TPESampler),
    # Scoring gives one plan one score. A trial takes up to a second once 200 are known.
    "gp": SamplerKind(
        GPSampler, {"deterministic_objective": True, "warn_independent_sampling": False}
    ),
    "cma-es": SamplerKind(CmaEsSampler, {"warn_independent_sampling": False}),
    "nsga-ii": SamplerKind(NSGAIISampler),
    "nsga-ii-2": SamplerKind(NSGAIISampler, objectives=2),
    "evolution": SamplerKind(RegularizedEvolutionSampler),
}
"""Samplers by agent name."""


def _are_trials(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(isinstance(each, FrozenTrial) for each in value)
    )


WITHOUT_EFFECT = ("restart_strategy", "inc_popsize", "warn_independent_sampling")
"""Arguments that Optuna still takes and does not heed, or that say when it warns."""

_OTHER_SAMPLER = made_by("a sampler (from Python only)", BaseSampler) | NOTHING
_FUNCTION = FUNCTION | NOTHING
_FLAG = FLAG | NOTHING
RANGES: dict[str, Range] = {
    "qmc_type": choice("sobol", "halton"),
    "independent_sampler": _OTHER_SAMPLER,
    "consider_prior": _FLAG,
    "prior_weight": POSITIVE | NOTHING,
    "consider_magic_clip": _FLAG,
    "consider_endpoints": _FLAG,
    "n_startup_trials": whole(0),
    "n_ei_candidates": whole(1, 10_000),
    "gamma": _FUNCTION,
    "weights": _FUNCTION,
    "multivariate": _FLAG,
    "group": FLAG,
    "constant_liar": FLAG,
    "constraints_func": _FUNCTION,
    "x0": MAPPING | NOTHING,
    "sigma0": POSITIVE | NOTHING,
    "consider_pruned_trials": FLAG,
    "popsize": whole(4, 10_000) | NOTHING,
    "use_separable_cma": FLAG,
    "with_margin": FLAG,
    "lr_adapt": FLAG,
    "source_trials": NOTHING | Range("a list of trials (from Python only)", _are_trials),
    "population_size": whole(2, 10_000),
    "mutation": NOTHING | made_by("a mutation (from Python only)", BaseMutation),
    "mutation_prob": SHARE | NOTHING,
    "crossover": NOTHING | made_by("a crossover (from Python only)", BaseCrossover),
    "crossover_prob": SHARE,
    "swapping_prob": SHARE,
    "elite_population_selection_strategy": _FUNCTION,
    "child_generation_strategy": _FUNCTION,
    "after_trial_strategy": _FUNCTION,
    "population": whole(1, 10_000),
    "sample": whole(1, 10_000),
    "step": POSITIVE,
}
"""What the arguments of all samplers may be; a name means the same in each."""

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


class OptunaAgent:
    """A sampler of Optuna as an agent.

    Args:
        name: a name in :data:`SAMPLERS`: quasi-random (scrambled Sobol), TPE, Gaussian process,
            CMA-ES, NSGA-II on the reward or on accuracy and SynOps, regularised evolution.
        settings: arguments of the sampler.

    Raises:
        AgentError: for an unknown setting, with near matches, for one that is out of range, and
            for what else Optuna refuses.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = name
        kind = SAMPLERS[name]
        accepted = inspect.signature(kind.sampler).parameters
        ours = ("seed", *kind.fixed, *WITHOUT_EFFECT)
        check_settings(name, settings, [p for p in accepted if p not in ours])
        self.settings = check_values(name, settings, RANGES)
        self._sampler(seed=0)

    def search(self, session: SearchSession, seed: int) -> None:
        """Asks the sampler for plans until the budget is spent.

        Raises:
            AgentError: when ``x0`` does not fit the network.
        """
        objectives = SAMPLERS[self.name].objectives
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=self._sampler(seed), directions=DIRECTIONS[:objectives])
        space = session.evaluator.space
        limits: dict[str, BaseDistribution] = {
            f"{index} {group.name}": FloatDistribution(0.0, space.ratios[index])
            for index, group in enumerate(space.groups)
        }
        if self.settings.get("x0") is not None:
            _check_start(self.name, self.settings["x0"], limits)
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
            # Experimental, or to be dropped one day: the versions of a search are recorded.
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)
            try:
                return kind.sampler(seed=seed, **kind.fixed, **self.settings)
            except (TypeError, ValueError) as error:
                raise AgentError(
                    f"agent '{self.name}' refuses its settings {shown(self.settings)}: {error}"
                ) from error


def _check_start(agent: str, start: dict[str, Any], limits: dict[str, Any]) -> None:
    """Refuses a start of CMA-ES that does not give a ratio for each group."""
    check_settings(agent, start, tuple(limits))
    missing = [name for name in limits if name not in start]
    if missing:
        raise AgentError(f"x0 of agent '{agent}' lacks {', '.join(map(repr, missing))}")
    check_values(agent, start, {name: real(0, limits[name].high) for name in limits})


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
