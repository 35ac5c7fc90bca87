"""Samples of SynOps estimators: plans that were scored and really fine-tuned, kept on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import FileError, read_json, write_text
from spear_gym.boundary.ownership import Lease, own

MOST_FRACTION = 1e6
"""SynOps over those of the unpruned network; they are about 1 at most."""

LONGEST_REASON = 100_000

STORE_FORMAT = "spear-gym lre samples 1"


class LREError(ValueError):
    """An estimator's fit is impossible, damaged, or belongs to something else."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One plan that was scored and really fine-tuned.

    Attributes:
        counts: channels kept per group.
        scored: SynOps fraction before fine-tuning.
        finetuned: SynOps fraction after it; NaN when the fine-tune failed.
        accuracy: accuracy on search after it; NaN when the fine-tune failed.
        seconds: time of the fine-tune.
        layers: SynOps before fine-tuning by layer, over the unpruned total; their sum is
            ``scored``. Empty in fits made before they were kept.
        finetuned_layers: the same after fine-tuning.
        failed: why the fine-tune failed, empty when it did not. Failed samples are kept and
            counted; nothing is fitted to them.
    """

    counts: tuple[int, ...]
    scored: float
    finetuned: float
    accuracy: float
    seconds: float
    layers: tuple[float, ...] = ()
    finetuned_layers: tuple[float, ...] = ()
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is not a number becomes ``null``."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: Any) -> Sample:
        """Reads :meth:`to_json`'s form.

        Raises:
            FileError: when it is not such a form, or a value is out of range.
        """
        given = Fields(data, "a sample")
        given.only(cls.__slots__)
        failed = given.text("failed", LONGEST_REASON, lines=True) if "failed" in given else ""

        def fraction(name: str, most: float = MOST_FRACTION) -> float:
            # Only a fine-tune that failed leaves them open.
            undefined = failed and given.value(name) is None
            return math.nan if undefined else given.number(name, 0.0, most)

        return cls(
            given.wholes("counts", 1, 10**9),
            fraction("scored"),
            fraction("finetuned"),
            fraction("accuracy", 1.0),
            given.number("seconds", 0.0),
            given.numbers("layers", 0.0, MOST_FRACTION) if "layers" in given else (),
            given.numbers("finetuned_layers", 0.0, MOST_FRACTION)
            if "finetuned_layers" in given
            else (),
            failed,
        )


class SampleStore:
    """Samples as they come in, in one file, so that a killed fit loses none of them.

    A process that makes one owns the file until it closes it: use it as a context manager.

    Args:
        path: the file, made when missing; ``None`` keeps the samples in memory only.
        fingerprint: what the samples belong to.

    Raises:
        LREError: when the file is damaged or belongs to something else.
        OwnedError: when another process adds samples to it, and who.
        OSError: when its folder cannot be written.
    """

    def __init__(self, path: Path | None, fingerprint: dict[str, str]) -> None:
        self._path = path
        self._fingerprint = dict(fingerprint)
        self._samples: dict[tuple[int, tuple[int, ...]], Sample] = {}
        self._lease: Lease | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lease = own(path.with_name(f"{path.name}.owner"), f"the file of samples '{path}'")
        try:
            if path.exists():
                self._read(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets other processes add samples; a second call does nothing."""
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples.values())

    def get(self, counts: tuple[int, ...], seed: int) -> Sample | None:
        """The sample of a plan that was fine-tuned under a seed, if there is one."""
        return self._samples.get((seed, counts))

    def add(self, sample: Sample, seed: int) -> None:
        """Keeps a sample, on disk at once.

        Args:
            sample: what was measured.
            seed: of its fine-tune.

        Raises:
            OwnedError: when another process has taken the file over meanwhile.
        """
        self._samples[seed, sample.counts] = sample
        if self._path is None or self._lease is None:
            return
        self._lease.check()
        rows = [{"seed": s, **sample.to_json()} for (s, _), sample in self._samples.items()]
        content = {"format": STORE_FORMAT, "fingerprint": self._fingerprint, "samples": rows}
        write_text(self._path, json.dumps(content) + "\n")

    def _read(self, path: Path) -> None:
        try:
            given = Fields(read_json(path), "it")
            if given.value("format") != STORE_FORMAT:
                raise FileError(f"its 'format' is not '{STORE_FORMAT}'")
            fingerprint = given.mapping("fingerprint").text_of_each()
            for row in given.items("samples"):
                named = Fields(row, "a sample")
                seed = named.whole("seed", 0)
                sample = Sample.from_json({k: v for k, v in named.data.items() if k != "seed"})
                self._samples[seed, sample.counts] = sample
        except FileError as error:
            raise LREError(
                f"cannot read the samples in '{path}': {error}; remove the file to start again"
            ) from error
        if fingerprint != self._fingerprint:
            keys = sorted({*fingerprint, *self._fingerprint})
            differing = [k for k in keys if fingerprint.get(k) != self._fingerprint.get(k)]
            raise LREError(
                f"the samples in '{path}' belong to something else (different: "
                f"{', '.join(differing)}); choose another file, or remove this one"
            )
