"""The ledger: every evaluation ever paid for, on disk, as an Optuna study.

One study per search, one trial per paid evaluation, so that optuna-dashboard shows any search.
It is our record, not a sampler's memory: rewards in it are for show, what counts are the
measurements. What all rows of a search share (settings with the seed, versions, the workload's
fingerprint) stands once, with the study, which refuses rows made under anything else.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spear_gym.evaluation import Counts, Evaluation
from spear_gym.pruning.plan import PlanSpace
from spear_gym.storage import LedgerError, open_storage, refused, shown
from spear_gym.target import Candidate

if TYPE_CHECKING:
    from optuna import Study


class Ledger:
    """A search's record.

    Args:
        where: a journal file or the address of a database, see
            :func:`spear_gym.storage.open_storage`; made when missing. Several processes may write
            to one, each to its own study.
        study: name of the study.
        space: the plan space, for the widths.
        identity: what the record belongs to; an existing study must have the same.
        overwrite: forget a study of this name.

    Raises:
        LedgerError: when it cannot be opened, is damaged, or belongs to something else.
    """

    def __init__(
        self,
        where: Path | str,
        study: str,
        space: PlanSpace,
        identity: dict[str, Any],
        *,
        overwrite: bool = False,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._name = shown(where)
        self._space = space
        storage = open_storage(where)
        with refused("open", where):
            if overwrite and study in optuna.get_all_study_names(storage):
                optuna.delete_study(study_name=study, storage=storage)
            self._study = optuna.create_study(
                storage=storage, study_name=study, direction="maximize", load_if_exists=True
            )
        found = _identity_of(self._study)
        if found is None:
            with refused("write", where):
                _name_the_value(self._study)
                for section, content in identity.items():
                    self._study.set_user_attr(section, content)
                # Last, for a process may be killed before it has written them all.
                self._study.set_user_attr("identity", list(identity))
        elif found != identity:
            differing = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            raise LedgerError(
                f"the ledger '{self._name}' belongs to another search (different: "
                f"{', '.join(differing)}); choose another folder or --overwrite"
            )

    def evaluations(self) -> list[Evaluation]:
        """The paid evaluations in order.

        Raises:
            LedgerError: when a row is damaged.
        """
        rows = []
        for trial in self._study.get_trials(deepcopy=False):
            try:
                rows.append(Evaluation.from_json(trial.user_attrs["evaluation"]))
            except (KeyError, TypeError) as error:
                raise LedgerError(
                    f"row {trial.number} of the ledger '{self._name}' is damaged: {error!r}"
                ) from error
        return rows

    def append(self, candidate: Candidate) -> None:
        """Writes a paid evaluation.

        Raises:
            LedgerError: when it cannot be written.
        """
        import optuna

        evaluation = candidate.evaluation
        widths = dict(zip([g.name for g in self._space.groups], evaluation.counts, strict=True))
        limits: dict[str, optuna.distributions.BaseDistribution] = {
            group.name: optuna.distributions.IntDistribution(1, group.channels)
            for group in self._space.groups
        }
        ratios = [
            1 - kept / group.channels
            for kept, group in zip(evaluation.counts, self._space.groups, strict=True)
        ]
        row = optuna.trial.create_trial(
            params=widths,
            distributions=limits,
            value=candidate.reward,
            user_attrs={
                "accuracy": evaluation.accuracy,
                "synops_fraction": evaluation.synops_fraction,
                "predicted_synops_fraction": candidate.predicted_fraction,
                "reward_terms": candidate.terms,
                "prune_ratios": [round(ratio, 4) for ratio in ratios],
                "layer_synops": list(evaluation.layer_synops),
                "evaluation": evaluation.to_json(),
            },
            # The best trial that Optuna and its dashboard show is one that keeps the target. The
            # dashboard reads this form of constraints only.
            system_attrs={"constraints": [candidate.ratio - 1.0]},
        )
        assert row.datetime_complete is not None
        row.datetime_start = row.datetime_complete - timedelta(seconds=evaluation.seconds)
        with refused("write", self._name):
            self._study.add_trial(row)


def _identity_of(study: Study) -> dict[str, Any] | None:
    """What a study's rows share: the attributes that "identity" lists, or once held itself."""
    attributes = study.user_attrs
    names = attributes.get("identity")
    if names is None or isinstance(names, dict):
        return names
    return {name: attributes.get(name) for name in names}


def _name_the_value(study: Study) -> None:
    """Dashboards then write "reward" where they wrote "Objective 0"."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(["reward"])


class Replay:
    """Checks that a resumed search asks for the recorded plans in the recorded order.

    Args:
        recorded: the plans in the order in which they were paid.
    """

    def __init__(self, recorded: list[Counts]) -> None:
        self._recorded = recorded
        self._position = 0

    def check(self, counts: Counts) -> bool:
        """Whether a paid plan is already recorded.

        Raises:
            LedgerError: when it is not the recorded one.
        """
        if self._position >= len(self._recorded):
            return False
        expected = self._recorded[self._position]
        self._position += 1
        if counts != expected:
            raise LedgerError(
                f"the resumed search diverged at evaluation {self._position}: it asks for plan "
                f"{counts}, the ledger has {expected}; resume with the same versions and threads, "
                "or start again with --overwrite"
            )
        return True
