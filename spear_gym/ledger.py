"""The ledger: every evaluation ever paid for, on disk, as an Optuna study.

One study per search, one trial per paid evaluation, so that optuna-dashboard shows any search.
It is our record, not a sampler's memory: rewards in it are for show, what counts are the
measurements.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spear_gym.evaluation import Counts, Evaluation
from spear_gym.pruning.plan import PlanSpace
from spear_gym.target import Candidate

LOCK_SECONDS = 5
"""A ledger's lock of this age was left behind; writing a row takes milliseconds."""


class LedgerError(ValueError):
    """A ledger cannot be read or written, or belongs to something else."""


class Ledger:
    """A search's record.

    Args:
        path: the journal file; created when missing.
        study: name of the study.
        space: the plan space, for the widths.
        identity: what the record belongs to; an existing study must have the same.

    Raises:
        LedgerError: when the file is damaged, or belongs to something else.
    """

    def __init__(self, path: Path, study: str, space: PlanSpace, identity: dict[str, Any]) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = path
        self._space = space
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_unfinished_line(path)
            # The lock is a link to the file. With a relative path it would dangle, and one left
            # behind by a killed process would never be seen to be old.
            absolute = str(path.resolve())
            lock = JournalFileSymlinkLock(absolute, grace_period=LOCK_SECONDS)
            storage = JournalStorage(JournalFileBackend(absolute, lock_obj=lock))
            self._study = optuna.create_study(
                storage=storage, study_name=study, direction="maximize", load_if_exists=True
            )
        except Exception as error:
            raise LedgerError(f"cannot open the ledger '{path}': {error}") from error
        found = self._study.user_attrs.get("identity")
        if found is None:
            self._study.set_user_attr("identity", identity)
        elif found != identity:
            differing = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            raise LedgerError(
                f"the ledger '{path}' belongs to another search (different: "
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
                    f"row {trial.number} of the ledger '{self.path}' is damaged: {error!r}"
                ) from error
        return rows

    def append(self, candidate: Candidate) -> None:
        """Writes a paid evaluation."""
        import optuna

        evaluation = candidate.evaluation
        widths = dict(zip([g.name for g in self._space.groups], evaluation.counts, strict=True))
        limits: dict[str, optuna.distributions.BaseDistribution] = {
            group.name: optuna.distributions.IntDistribution(1, group.channels)
            for group in self._space.groups
        }
        self._study.add_trial(
            optuna.trial.create_trial(
                params=widths,
                distributions=limits,
                value=candidate.reward,
                user_attrs={
                    "evaluation": evaluation.to_json(),
                    "accuracy": evaluation.accuracy,
                    "synops_fraction": evaluation.synops_fraction,
                    "predicted_synops_fraction": candidate.predicted_fraction,
                    "reward_terms": candidate.terms,
                },
            )
        )


def _drop_unfinished_line(path: Path) -> None:
    """Cuts off a row that a killed process did not finish; the next one would run into it."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


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
