"""The samples of a study of SynOps estimators: several scorings and lengths of fine-tuning.

What the samples say is worked out in :mod:`spear_gym.lre.analysis`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import FileError, file_name, read_packed_json, write_bytes
from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.lre import LREError, Sample, SampleStore
from spear_gym.lre.fit import sample_plan
from spear_gym.lre.sampling import spanning_plans, spread_plans
from spear_gym.simulation.simulate import SCORINGS, Scoring
from spear_gym.snn.graph import counted_synapses
from spear_gym.workers.tasks import run_tasks
from spear_gym.workload import Workload

STUDY_FORMAT = "spear-gym lre study 1"
SEED = 7000
"""Seeds of fine-tunes begin here, apart from those of shipped fits."""

MOST_EPOCHS = 1_000_000

MOST_SAMPLES = 600
"""Held-out plans have the seeds behind."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Samples of one scoring and length of fine-tuning.

    Attributes:
        scoring: the plans' way of scoring, which fine-tuning starts from.
        epochs: of fine-tuning.
        samples: plans that span the SynOps; to fit to.
        held_out: further random plans of the whole range, to judge on.
    """

    scoring: str
    epochs: int
    samples: tuple[Sample, ...]
    held_out: tuple[Sample, ...]


@dataclass(frozen=True)
class LREStudy:
    """All pools of one workload.

    Attributes:
        workload: its name.
        scoring: its default way of scoring.
        epochs: its own length of fine-tuning.
        layers: names of its connection layers, in execution order.
        pools: the samples.
    """

    workload: str
    scoring: str
    epochs: int
    layers: tuple[str, ...]
    pools: tuple[Pool, ...]

    def pool(self, scoring: str | None = None, epochs: int | None = None) -> Pool:
        """The pool of a scoring and length, the workload's own by default.

        Raises:
            LREError: when the study has none.
        """
        wanted = (scoring or self.scoring, epochs or self.epochs)
        for pool in self.pools:
            if (pool.scoring, pool.epochs) == wanted:
                return pool
        raise LREError(
            f"the study of '{self.workload}' has no samples of scoring '{wanted[0]}' at "
            f"{wanted[1]} epochs"
        )

    def save(self, path: Path) -> None:
        """Writes the study, compressed; the same study gives the same bytes."""
        pools = [
            asdict(pool)
            | {
                "samples": [sample.to_json() for sample in pool.samples],
                "held_out": [sample.to_json() for sample in pool.held_out],
            }
            for pool in self.pools
        ]
        content = {"format": STUDY_FORMAT, **asdict(self), "pools": pools}
        text = json.dumps(content, separators=(",", ":"))
        write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))

    @classmethod
    def load(cls, path: Path) -> LREStudy:
        """Reads a study; nothing is unpickled.

        Raises:
            LREError: when it is missing, truncated or something else.
        """
        try:
            given = Fields(read_packed_json(path), "it")
            if given.value("format") != STUDY_FORMAT:
                raise FileError(f"its format is not '{STUDY_FORMAT}'")
            return cls(
                given.text("workload"),
                given.choice("scoring", SCORINGS),
                given.whole("epochs", 1, MOST_EPOCHS),
                given.texts("layers"),
                tuple(_pool(Fields(pool, "a pool")) for pool in given.items("pools")),
            )
        except FileError as error:
            raise LREError(f"cannot read the study '{path}': {error}") from error


def _pool(given: Fields) -> Pool:
    return Pool(
        given.choice("scoring", SCORINGS),
        given.whole("epochs", 1, MOST_EPOCHS),
        tuple(map(Sample.from_json, given.items("samples"))),
        tuple(map(Sample.from_json, given.items("held_out"))),
    )


def is_study(path: Path) -> bool:
    """Whether this is a file that :meth:`LREStudy.save` wrote."""
    try:
        LREStudy.load(path)
    except LREError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How many samples of what.

    Attributes:
        samples: of the workload's own length of fine-tuning, for each scoring.
        length_samples: of the other lengths, default scoring only.
        held_out: further ones for each pool.
        scorings: ways of scoring beside the workload's default.
        lengths: other lengths of fine-tuning, as multiples of the workload's.
        seed: of plans and fine-tunes.
    """

    samples: int = 100
    length_samples: int = 40
    held_out: int = 40
    scorings: tuple[Scoring, ...] = ("plain",)
    lengths: tuple[float, ...] = (0.25, 0.5, 2.0, 4.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "length_samples", "held_out"):
            if getattr(self, name) < 5:
                raise LREError(f"{name} is {getattr(self, name)}; a study needs at least 5")
        if self.samples > MOST_SAMPLES:
            raise LREError(f"samples is {self.samples}; a study takes at most {MOST_SAMPLES}")
        if any(length <= 0 for length in self.lengths):
            raise LREError(
                f"lengths are {', '.join(f'{length:g}' for length in self.lengths)}; they must be "
                "positive multiples of the workload's own"
            )

    def jobs(self, workload: Workload) -> dict[tuple[Scoring, int], int]:
        """Samples to fit to by scoring and epochs."""
        own = workload.finetune.epochs
        jobs = {(scoring, own): self.samples for scoring in (workload.scoring, *self.scorings)}
        for length in self.lengths:
            jobs.setdefault((workload.scoring, max(1, round(length * own))), self.length_samples)
        return jobs


@dataclass(frozen=True, slots=True)
class _Item:
    scoring: Scoring
    epochs: int
    counts: Counts
    seed: int


def lre_study(
    workload: Workload,
    settings: StudySettings,
    *,
    folder: Path | None = None,
    workers: int = 1,
    on_sample: Callable[[int, int], None] | None = None,
) -> LREStudy:
    """Makes the samples of a study; one that was interrupted goes on.

    Args:
        workload: network and data.
        settings: how many samples of what.
        folder: where samples are kept as they come in.
        workers: worker processes.
        on_sample: called with samples done and samples in all.

    Raises:
        LREError: when samples in the folder are damaged or belong to something else.
        OwnedError: when another process adds samples to the folder.
    """
    jobs = settings.jobs(workload)
    evaluators = {
        scoring: PlanEvaluator(workload, scoring=scoring) for scoring in {s for s, _ in jobs}
    }
    plans = _plans(evaluators[workload.scoring], settings)
    items: list[_Item] = []
    for (scoring, epochs), count in jobs.items():
        chosen = [*plans[0][:count], *plans[1]]
        seeds = [SEED + 1000 * settings.seed + place for place in range(len(chosen))]
        # Held-out plans have seeds of their own whatever the number of the others.
        seeds[count:] = [
            SEED + 1000 * settings.seed + MOST_SAMPLES + i for i in range(len(plans[1]))
        ]
        items += [_Item(scoring, epochs, c, s) for c, s in zip(chosen, seeds, strict=True)]
    with ExitStack() as open_stores:
        stores = {
            job: open_stores.enter_context(_store(evaluators[job[0]], job, folder)) for job in jobs
        }
        _sample_all(items, stores, evaluators, workers, on_sample)
    pools = []
    for (scoring, epochs), count in jobs.items():
        own = [i for i in items if (i.scoring, i.epochs) == (scoring, epochs)]
        found = [stores[scoring, epochs].get(i.counts, i.seed) for i in own]
        samples = tuple(sample for sample in found if sample is not None)
        pools.append(Pool(scoring, epochs, samples[:count], samples[count:]))
    layers = tuple(each.name for each in counted_synapses(workload.graph))
    own_epochs = workload.finetune.epochs
    return LREStudy(workload.name, workload.scoring, own_epochs, layers, tuple(pools))


def _sample_all(
    items: Sequence[_Item],
    stores: Mapping[tuple[Scoring, int], SampleStore],
    evaluators: dict[Scoring, PlanEvaluator],
    workers: int,
    on_sample: Callable[[int, int], None] | None,
) -> None:
    """Makes the samples that are missing in the stores."""
    waiting = [i for i in items if stores[i.scoring, i.epochs].get(i.counts, i.seed) is None]
    done = len(items) - len(waiting)
    with closing(run_tasks(_sample, waiting, context=evaluators, workers=workers)) as running:
        for index, sample in running:
            item = waiting[index]
            stores[item.scoring, item.epochs].add(sample, item.seed)
            done += 1
            if on_sample is not None:
                on_sample(done, len(items))


def _plans(
    evaluator: PlanEvaluator, settings: StudySettings
) -> tuple[Sequence[Counts], Sequence[Counts]]:
    fitted = spanning_plans(evaluator, settings.samples, settings.seed)
    return fitted, spread_plans(evaluator, settings.held_out, settings.seed + 1, exclude=fitted)


def _store(evaluator: PlanEvaluator, job: tuple[Scoring, int], folder: Path | None) -> SampleStore:
    fingerprint: dict[str, Any] = evaluator.fingerprint() | {"epochs": str(job[1])}
    if folder is None:
        return SampleStore(None, fingerprint)
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{file_name(evaluator.workload.name)}.{job[0]}.{job[1]}-epochs.{digest}.samples.json"
    return SampleStore(folder / name, fingerprint)


def _sample(evaluators: dict[Scoring, PlanEvaluator], item: _Item) -> Sample:
    evaluator = evaluators[item.scoring]
    recipe = replace(evaluator.workload.finetune, epochs=item.epochs)
    return sample_plan(evaluator, (item.counts, item.seed), recipe=recipe)
