"""Tuning of the algorithms' settings: Optuna's TPE over short searches on one workload.

Settings are tuned on a workload on which nothing is compared, and what it cost is written beside
them. The library's own settings are the first trial, so tuned ones are never worse than these on
the tuning searches.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from spear_gym.boundary.files import write_json, write_text
from spear_gym.boundary.text import unknown
from spear_gym.lre.targets import check_fraction
from spear_gym.record.storage import mend_end, open_storage, open_study, own_study
from spear_gym.settings import Goal, PlanSettings, flat

from .algorithms import ALGORITHMS, ENVIRONMENT, WRAPPERS
from .base import AgentError, check_budget, run_search
from .compare.curves import Anytime
from .sb3 import named_agent

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

    from spear_gym.boundary.ownership import Lease
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.judge import Judge

Space = Callable[["optuna.Trial"], dict[str, Any]]

TRIALS = "trials.log"

FIRST_SEED = 1000
"""Tuning searches have seeds of their own."""


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """How an algorithm is tuned.

    Attributes:
        algorithm: its name.
        workload: on which one.
        targets: SynOps fractions.
        trials: settings tried, the library's included.
        seeds: searches per trial and target.
        budget: paid evaluations of each search.
        seed: of the sampler.
        plans: the plans that may be made, and how they are scored.
        goal: what they are judged by, but for the target.
    """

    algorithm: str
    workload: str = "digits"
    targets: tuple[float, ...] = (0.3,)
    trials: int = 16
    seeds: int = 2
    budget: int = 200
    seed: int = 0
    plans: PlanSettings = field(default_factory=PlanSettings)
    goal: Goal = field(default_factory=Goal)

    def to_json(self) -> dict[str, Any]:
        """As files hold them; the targets stand for that of the goal."""
        values = flat(self)
        return {name: values[name] for name in values if name not in ("target", "target_synops")}


def off_policy(trial: optuna.Trial) -> dict[str, Any]:
    """DDPG, TD3, SAC, TQC and CrossQ."""
    width = trial.suggest_categorical("width", [64, 256])
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128, 256]),
        "learning_starts": trial.suggest_categorical("learning_starts", [20, 60, 120]),
        "gradient_steps": trial.suggest_categorical("gradient_steps", [1, 2, 4]),
        "gamma": trial.suggest_categorical("gamma", [0.9, 0.99, 1.0]),
        "buffer_size": 10_000,
        "policy_kwargs": {"net_arch": [width, width]},
    }


def averaged(trial: optuna.Trial) -> dict[str, Any]:
    """Those with target networks that follow slowly."""
    return off_policy(trial) | {"tau": trial.suggest_categorical("tau", [0.005, 0.02, 0.05])}


def deterministic(trial: optuna.Trial) -> dict[str, Any]:
    """Those that explore by added noise."""
    return averaged(trial) | {
        "noise_type": "normal",
        "noise_std": trial.suggest_categorical("noise_std", [0.1, 0.2, 0.3, 0.5]),
    }


def on_policy(trial: optuna.Trial) -> dict[str, Any]:
    """PPO, A2C, TRPO and recurrent PPO."""
    width = trial.suggest_categorical("width", [64, 256])
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "n_steps": trial.suggest_categorical("n_steps", [16, 32, 64]),
        "gamma": trial.suggest_categorical("gamma", [0.9, 0.99, 1.0]),
        "gae_lambda": trial.suggest_categorical("gae_lambda", [0.9, 0.95, 1.0]),
        "policy_kwargs": {
            "net_arch": [width, width],
            "log_std_init": trial.suggest_categorical("log_std_init", [-1.0, -0.5, 0.0]),
        },
    }


def in_epochs(trial: optuna.Trial) -> dict[str, Any]:
    """PPO: several passes over what was collected."""
    return on_policy(trial) | {
        "batch_size": 16,
        "n_epochs": trial.suggest_categorical("n_epochs", [5, 10, 20]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-4, 1e-1, log=True),
    }


def entropic(trial: optuna.Trial) -> dict[str, Any]:
    """A2C: one step, with an entropy bonus."""
    return on_policy(trial) | {
        "ent_coef": trial.suggest_float("ent_coef", 1e-4, 1e-1, log=True),
        "normalize_advantage": trial.suggest_categorical("normalize_advantage", [True, False]),
    }


def trust_region(trial: optuna.Trial) -> dict[str, Any]:
    """TRPO."""
    return on_policy(trial) | {
        "batch_size": 16,
        "target_kl": trial.suggest_float("target_kl", 0.005, 0.1, log=True),
    }


def random_directions(trial: optuna.Trial) -> dict[str, Any]:
    """ARS; the policy is linear."""
    return {
        "n_delta": trial.suggest_categorical("n_delta", [1, 2, 4, 8]),
        "delta_std": trial.suggest_float("delta_std", 0.02, 1.0, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 1.0, log=True),
        "zero_policy": trial.suggest_categorical("zero_policy", [True, False]),
    }


SPACES: dict[str, Space] = {
    "ddpg": deterministic,
    "td3": deterministic,
    "sac": averaged,
    "tqc": averaged,
    "crossq": off_policy,
    "ppo": in_epochs,
    "recurrent-ppo": in_epochs,
    "a2c": entropic,
    "trpo": trust_region,
    "ars": random_directions,
}
"""What is tuned, *reconstructed* from the usual ranges; budgets here are short."""


def check_tuning(settings: TuningSettings) -> None:
    """Refuses what cannot be tuned, before any work.

    Raises:
        AgentError: for an unknown algorithm, or numbers below 1.
        TargetError: for a target that is no fraction.
    """
    if settings.algorithm not in SPACES:
        raise AgentError(unknown("algorithm to tune", settings.algorithm, tuple(SPACES)))
    check_budget(settings.budget)
    for name in ("trials", "seeds"):
        if getattr(settings, name) < 1:
            raise AgentError(f"{name} is {getattr(settings, name)}; it must be at least 1")
    if not settings.targets:
        raise AgentError("tuning needs at least one target")
    for target in settings.targets:
        check_fraction(target)


def tune(
    settings: TuningSettings,
    evaluator: PlanEvaluator,
    folder: Path,
    *,
    on_trial: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Tunes an algorithm; goes on where an earlier call with the same settings stopped.

    Args:
        settings: how.
        evaluator: of the workload's plans, as the settings make it.
        folder: its ``trials.log`` keeps the trials; ``<algorithm>.yml`` and
            ``<algorithm>.tuning.json`` are written there at the end.
        on_trial: called after each trial with its value.

    Returns:
        The settings found.

    Raises:
        AgentError: for settings that cannot be tuned, or a folder of another tuning.
        LedgerError: when the trials are damaged, and how to keep what is whole.
        OwnedError: when another process tunes into the folder.
        ValueError: other subclasses that name what does not fit a target.
    """
    check_tuning(settings)
    judges = {target: settings.goal.at(target).judge(evaluator) for target in settings.targets}
    storage = open_storage(folder / TRIALS)
    with own_study(storage, folder / TRIALS, _name(settings)) as lease:
        study = _study(settings, folder / TRIALS, storage)
        return _tuned(settings, judges, evaluator, folder, study, lease, on_trial)


def _tuned(
    settings: TuningSettings,
    judges: dict[float, Judge],
    evaluator: PlanEvaluator,
    folder: Path,
    study: optuna.Study,
    lease: Lease,
    on_trial: Callable[[float], None] | None,
) -> dict[str, Any]:
    while len(done := _done(study)) < settings.trials:
        trial = study.ask()
        tried = SPACES[settings.algorithm](trial) if _library(done) else {}
        areas, paid = [], 0
        for target, judge in judges.items():
            for seed in range(FIRST_SEED, FIRST_SEED + settings.seeds):
                agent = named_agent(settings.algorithm, tuned=False, **tried)
                found = run_search(agent, evaluator, judge, budget=settings.budget, seed=seed)
                curve = Anytime(
                    tuple(point.spent for point in found.curve),
                    tuple(point.best_feasible_accuracy for point in found.curve),
                )
                areas.append(curve.area(settings.budget))
                paid += found.paid
                trial.set_user_attr(f"best at {target:g}, seed {seed}", curve.best[-1])
        trial.set_user_attr("settings", tried)
        trial.set_user_attr("paid", paid)
        lease.check()
        study.tell(trial, float(np.mean(areas)))
        if on_trial is not None:
            on_trial(float(np.mean(areas)))
    steps = settings.budget * len(evaluator.space)
    return _written(settings, study, folder, steps)


def _name(settings: TuningSettings) -> str:
    return f"tune {settings.algorithm}"


def _study(settings: TuningSettings, path: Path, storage: BaseStorage) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(storage, _name(settings))
    mend_end(storage)
    asked = json.loads(json.dumps(settings.to_json() | {"trials": None}))  # as it will be read
    found = study.user_attrs.get("settings")
    if found is None:
        study.set_user_attr("settings", asked)
    # Earlier versions wrote neither the plans' settings nor the goal's.
    elif found != {name: value for name, value in asked.items() if name in found}:
        raise AgentError(f"'{path}' holds a tuning with other settings; choose another --out")
    for unfinished in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(unfinished.number, state=optuna.trial.TrialState.FAIL)
    # Seeded by the trials so far, so that one that goes on does not repeat itself.
    study.sampler = optuna.samplers.TPESampler(
        seed=settings.seed + len(study.trials), n_startup_trials=5
    )
    return study


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that are whole; a killed process leaves one that is not."""
    whole = {"settings", "paid"}
    return [t for t in study.trials if t.value is not None and whole <= t.user_attrs.keys()]


def _library(done: list[optuna.trial.FrozenTrial]) -> optuna.trial.FrozenTrial | None:
    """The trial of the library's own settings."""
    return next((trial for trial in done if not trial.user_attrs["settings"]), None)


def _written(
    settings: TuningSettings, study: optuna.Study, folder: Path, steps: int
) -> dict[str, Any]:
    name = settings.algorithm
    done = _done(study)
    best, first = max(done, key=lambda trial: trial.value or 0.0), _library(done)
    assert first is not None
    # rl-baselines3-zoo asks for n_timesteps; here the budget decides.
    tuned = {
        "n_timesteps": steps,
        "policy": ALGORITHMS[name].policy,
        "env_wrapper": WRAPPERS,
        **best.user_attrs["settings"],
    }
    text = yaml.safe_dump({ENVIRONMENT: tuned}, sort_keys=False)
    write_text(folder / f"{name}.yml", text)
    record = {
        **settings.to_json(),
        "objective": "mean area under the anytime curve of the best score that keeps the target",
        "sampler": "TPE, random for 5 trials; the first one has the library's settings",
        "evaluations": sum(trial.user_attrs["paid"] for trial in done),
        "value": best.value,
        "value_of_library_settings": first.value,
        "values": [trial.value for trial in done],
    }
    write_json(folder / f"{name}.tuning.json", record)
    return tuned
