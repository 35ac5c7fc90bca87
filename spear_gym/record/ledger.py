"""The ledger: every evaluation ever paid for, on disk, as an Optuna study.

One study per search, one trial per paid evaluation, so that optuna-dashboard shows any search.
It is our record, not a sampler's memory: rewards in it are for show, what counts are the
measurements. What all rows of a search share (settings with the seed, versions, the workload's
fingerprint) stands once, with the study, which refuses rows made under anything else.
"""

from __future__ import annotations

import shlex
import warnings
import weakref
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spear_gym.evaluation import Counts, Evaluation
from spear_gym.judge import Candidate
from spear_gym.pruning.plan import PlanSpace
from spear_gym.record.soundness import (
    REPAIRED,
    Failure,
    checksum,
    evaluation_of,
    failure_of,
    lost_in,
)
from spear_gym.record.storage import (
    LedgerError,
    mend_end,
    open_storage,
    open_study,
    own_study,
    place_of,
    refused,
    shown,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["Failure", "Ledger", "LedgerError", "Replay"]


class Ledger:
    """A search's record; this process owns it until it is closed.

    Args:
        where: a journal file or the address of a database, see
            :func:`spear_gym.record.storage.open_storage`; made when missing. Several processes may
            write to one, each to its own study.
        study: name of the study.
        space: the plan space, for the widths.
        identity: what the record belongs to; an existing study must have the same.
        overwrite: forget a study of this name.

    Raises:
        LedgerError: when it cannot be opened, is damaged, or belongs to something else.
        OwnedError: when another process writes to the study.
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
        self._where = where
        self._name = shown(where)
        self._space = space
        self._storage = open_storage(where)
        with refused("open", where):
            study = self._known_as(study, identity)
            self._study = open_study(self._storage, study)
            self._lease = own_study(self._storage, where, study)
            if overwrite and self._study.get_trials(deepcopy=False):
                optuna.delete_study(study_name=study, storage=self._storage)
                self._study = open_study(self._storage, study)
                # In a database it is another study now, which nobody owns.
                self._lease.release()
                self._lease = own_study(self._storage, where, study)
            # The lease's thread would keep it for ever, were the ledger dropped and not closed.
            self.close = weakref.finalize(self, self._lease.release)
        try:
            lacking = self._check_identity(identity)
            self.evaluations()
            self._write_identity(identity, lacking)
            with refused("open", where):
                mend_end(self._storage)
        except BaseException:
            self.close()
            raise
        self._rows = len(self._study.get_trials(deepcopy=False))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known_as(self, study: str, identity: dict[str, Any]) -> str:
        """The study's name, or the one that a repair gave it when its own was lost."""
        import optuna

        if not isinstance(self._where, Path):
            return study
        names = optuna.get_all_study_names(self._storage)
        if study in names:
            return study
        for found in self._storage.get_all_studies():
            attributes = found.user_attrs
            if _identity_of(attributes) == identity:
                return found.study_name
            # What else was lost is written again; what is left must not differ.
            same = all(attributes.get(k, identity[k]) == identity[k] for k in identity)
            if found.study_name.startswith(REPAIRED) and same:
                return found.study_name
        return study

    def _check_identity(self, identity: dict[str, Any]) -> set[str]:
        """Compares what the record belongs to, and returns the sections that are not written."""
        attributes = self._study.user_attrs
        found = _identity_of(attributes)
        given = {} if found is None else found
        differing = {k for k in {*given, *identity} if given.get(k) != identity.get(k)}
        if found is None:
            # A killed process may not have written all, but then it had paid for nothing.
            paid = bool(self._study.get_trials(deepcopy=False))
            wrong = {k for k in differing if k in attributes and paid}
            wrong = {k for k in wrong if attributes[k] != identity.get(k)}
        else:
            wrong = {k for k in differing if k in attributes or k not in found}
            if isinstance(attributes["identity"], dict):
                wrong = differing
        if wrong:
            raise LedgerError(
                f"the ledger '{self._name}' belongs to another search (different: "
                f"{', '.join(sorted(wrong))}); choose another folder or --overwrite"
            )
        return differing | ({"identity"} if found is None else set())

    def _write_identity(self, identity: dict[str, Any], lacking: set[str]) -> None:
        with refused("write", self._where):
            if "identity" in lacking:
                _name_the_value(self._study)
            # The list of sections last, for a process may be killed before it has written them all.
            for section, content in {**identity, "identity": list(identity)}.items():
                if section in lacking:
                    self._study.set_user_attr(section, content)

    def evaluations(self) -> list[Evaluation]:
        """The paid evaluations in order.

        Raises:
            LedgerError: when a row is damaged, or a plan stands there twice.
        """
        rows: dict[Counts, str] = {}
        evaluations = []
        for trial in self._study.get_trials(deepcopy=False):
            if "failure" in trial.user_attrs:
                continue
            place = place_of(self._storage, trial)
            try:
                evaluation = evaluation_of(trial)
                self._check_fits(evaluation.counts)
            except ValueError as error:
                raise self._damaged(place, str(error)) from error
            if evaluation.counts in rows:
                earlier = rows[evaluation.counts]
                raise self._damaged(place, f"records the plan of {earlier} once more")
            rows[evaluation.counts] = place
            evaluations.append(evaluation)
        return evaluations

    def failures(self) -> list[Failure]:
        """The plans that could not be evaluated, in order.

        Raises:
            LedgerError: when a row is damaged.
        """
        failures = []
        for trial in self._study.get_trials(deepcopy=False):
            if "failure" in trial.user_attrs:
                try:
                    failures.append(failure_of(trial))
                except ValueError as error:
                    raise self._damaged(place_of(self._storage, trial), str(error)) from error
        return failures

    @property
    def lost(self) -> int:
        """How many rows a repair may have lost."""
        return lost_in(self._study.user_attrs)

    def append(self, candidate: Candidate) -> None:
        """Writes a paid evaluation.

        Raises:
            LedgerError: when it cannot be written, or another process wrote to the study.
            OwnedError: when another process has taken over.
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
                "checksum": checksum(evaluation.to_json()),
            },
            # The best trial that Optuna and its dashboard show is one that keeps the target. The
            # dashboard reads this form of constraints only.
            system_attrs={"constraints": [candidate.ratio - 1.0]},
        )
        assert row.datetime_complete is not None
        row.datetime_start = row.datetime_complete - timedelta(seconds=evaluation.seconds)
        self._write(row)

    def append_failure(self, failure: Failure) -> None:
        """Writes that a plan could not be evaluated, so that a resumed search does not try again.

        Raises:
            LedgerError: as :meth:`append`.
        """
        import optuna

        content = failure._asdict() | {"counts": list(failure.counts)}
        self._write(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL, user_attrs={"failure": content}
            )
        )

    def _write(self, row: FrozenTrial) -> None:
        with refused("write", self._where):
            self._lease.check()
            others = len(self._study.get_trials(deepcopy=False)) - self._rows
            if others:
                raise LedgerError(
                    f"another process wrote {others} rows to '{self._study.study_name}' in "
                    f"'{self._name}' meanwhile; end it, look with {self._command('check')}, and "
                    "continue with --resume"
                )
            self._study.add_trial(row)
            self._rows += 1

    def _check_fits(self, counts: Counts) -> None:
        groups = self._space.groups
        fits = (1 <= kept <= group.channels for kept, group in zip(counts, groups, strict=False))
        if len(counts) != len(groups) or not all(fits):
            raise ValueError(f"holds a plan of another network: {counts}")

    def _damaged(self, place: str, problem: str) -> LedgerError:
        return LedgerError(
            f"{place} of the ledger '{self._name}' is damaged: it {problem}; see what is whole "
            f"with {self._command('check')}, keep it with {self._command('repair')}"
        )

    def _command(self, verb: str) -> str:
        return f"'spear ledger {verb} {shlex.quote(self._name)}'"


def _identity_of(attributes: dict[str, Any]) -> dict[str, Any] | None:
    """What a study's rows share: the attributes that "identity" lists, or once held itself."""
    names = attributes.get("identity")
    if names is None or isinstance(names, dict):
        return names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
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
        lost: how many a repair may have lost. So many more are paid for again, and the order is
            no longer known.
    """

    def __init__(self, recorded: list[Counts], lost: int = 0) -> None:
        self._recorded = recorded
        self._left = set(recorded)
        self._lost = lost
        self._repaired = lost > 0

    def check(self, counts: Counts) -> bool:
        """Whether a paid plan is already recorded.

        Raises:
            LedgerError: when it is not the recorded one.
        """
        if not self._left:
            return False
        position = len(self._recorded) - len(self._left)
        expected = self._recorded[position]
        if counts == expected or (self._repaired and counts in self._left):
            self._left.discard(counts)
            return True
        if self._lost:
            self._lost -= 1
            return False
        raise LedgerError(
            f"the resumed search diverged at evaluation {position + 1}: it asks for plan "
            f"{counts}, the ledger has {expected}; resume with the same versions and threads, or "
            "start again with --overwrite"
        )
