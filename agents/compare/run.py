"""Runs the cells of a comparison in worker processes, and keeps what came of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from spear_gym.agents.folders import RunError, owned, read_json
from spear_gym.agents.pipeline import environment_versions
from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import FileError, read_packed_json, write_bytes, write_json
from spear_gym.record.storage import check_storage
from spear_gym.settings import flat
from spear_gym.workers.tasks import run_tasks
from spear_gym.workload import Workload

from .archive import LONGEST_FAILURE, check_records, check_size, read_fingerprints, read_settings
from .cells import (
    ADDED,
    RECORD,
    Bench,
    Cell,
    CompareSettings,
    check_comparison,
    read_records,
    run_cell,
)

ARCHIVE = "comparison.json.gz"
ARCHIVE_FORMAT = "spear-gym comparison 1"
CONDITIONS = "conditions.json"
ATTEMPTS = 2

OnCell = Callable[[Cell, str | None], None]
"""Called after each cell with what went wrong, ``None`` when nothing did."""


@dataclass(frozen=True)
class Comparison:
    """A comparison as it is kept: everything that its report is made from.

    Attributes:
        settings: what was asked for.
        versions: of the libraries.
        records: one per finished cell, see ``cells.record_of``.
        failures: what went wrong, by cell, for cells that failed twice.
        fingerprints: of each network's evaluator, by workload; ``data`` is that of its splits, by
            which networks of the same data are told.
    """

    settings: CompareSettings
    versions: dict[str, str]
    fingerprints: dict[str, dict[str, str]]
    records: tuple[dict[str, Any], ...]
    failures: dict[str, str]

    def save(self, path: Path) -> None:
        """Writes the archive; the same comparison gives the same bytes."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        content = {"format": ARCHIVE_FORMAT, **values, "settings": self.settings.to_json()}
        text = json.dumps(content, separators=(",", ":"))
        write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """Reads an archive; nothing is unpickled.

        Raises:
            RunError: when it is missing, truncated or something else.
        """
        try:
            given = Fields(read_packed_json(path), f"'{path}'")
            if given.value("format") != ARCHIVE_FORMAT:
                raise FileError(f"its format is not '{ARCHIVE_FORMAT}'")
            settings = read_settings(given.mapping("settings"))
            return cls(
                settings,
                given.mapping("versions").text_of_each(),
                read_fingerprints(given.mapping("fingerprints"), settings),
                tuple(check_records(given.items("records"), settings, given.name)),
                given.mapping("failures").text_of_each(LONGEST_FAILURE, lines=True),
            )
        except ValueError as error:
            raise RunError(f"cannot read the comparison '{path}': {error}") from error


def compare(
    settings: CompareSettings,
    workloads: Mapping[str, Workload],
    top: Path,
    *,
    workers: int = 1,
    storage: str | None = None,
    on_cell: OnCell | None = None,
) -> Comparison:
    """Runs all cells that are not done yet, and writes the archive.

    A cell that fails is run once more; if it fails again it is kept as a failure. One that was
    interrupted goes on where it stopped, with nothing paid twice. Cells whose folders are gone are
    taken from the archive, if the folder holds one.

    Args:
        settings: what to compare.
        workloads: those of the settings, by name.
        top: folder of the comparison.
        workers: processes of one thread each.
        storage: of all ledgers; each cell's own folder by default.
        on_cell: called after each cell that ran.

    Raises:
        ValueError: a subclass that names what does not fit, before any cell is run; among them
            a folder whose cells were run with another budget, reward, network or version, or
            which another process writes to.
    """
    bench = Bench(settings, workloads, top, storage)
    check_size(settings)
    check_comparison(bench)
    check_storage(storage)
    cells = settings.cells()
    fingerprints = bench.fingerprints()
    with owned(top):
        _claim(top, settings, fingerprints)
        failures = _run(bench, unfinished(top, cells), workers, on_cell)
        records = tuple(check_records(read_records(top, cells), settings, f"'{top}'"))
        comparison = Comparison(settings, environment_versions(), fingerprints, records, failures)
        comparison.save(top / ARCHIVE)
    return comparison


def is_comparison(folder: Path) -> bool:
    """Whether a folder is that of a comparison: it says what its cells were run under."""
    try:
        return bool(_conditions_in(folder))
    except RunError:
        return False


def _conditions_in(top: Path) -> dict[str, str]:
    """What the cells of a folder were run under; nothing when it does not say.

    Raises:
        RunError: when what stands there is not ours.
    """
    path = top / CONDITIONS
    if not path.exists():
        return {}
    found = read_json(path)
    texts = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    if not texts or not {"budget", "reward"} <= found.keys():
        raise RunError(f"'{path}' holds no conditions of a comparison; choose another --out")
    return dict(found)


def _claim(top: Path, settings: CompareSettings, fingerprints: dict[str, dict[str, str]]) -> None:
    """Makes a folder that of a comparison, or sees that it is; restores cells from its archive.

    Raises:
        RunError: when its cells were run under other conditions: none of them may be mixed in.
    """
    path, archive = top / CONDITIONS, top / ARCHIVE
    ours = _conditions(settings, environment_versions(), fingerprints)
    restored: tuple[dict[str, Any], ...] = ()
    before = _conditions_in(top)
    if archive.exists() and not before:
        kept = Comparison.load(archive)
        before = _conditions(kept.settings, kept.versions, kept.fingerprints)
        restored = kept.records
    if before:  # Earlier versions did not say what they could not be asked for.
        usual = _asked(CompareSettings((), (), ()))
        before = {name: usual[name] for name in ADDED} | before
    for name in sorted(before.keys() & ours.keys()):
        if before[name] != ours[name]:
            raise RunError(
                f"the cells in '{top}' were run with {name} = {before[name]}, and this comparison "
                f"has {ours[name]}; give it a folder of its own (--out)"
            )
    for record in restored:
        write_json(Cell(**record["cell"]).folder(top) / RECORD, record)
    write_json(path, before | ours)


def _asked(settings: CompareSettings) -> dict[str, str]:
    """What all cells of a folder must have been asked for."""
    grows = ("workloads", "agents", "targets", "seeds", "target", "target_synops")
    values = flat(settings)
    return {
        name: json.dumps(value, sort_keys=True)
        for name, value in values.items()
        if name not in grows
    }


def _conditions(
    settings: CompareSettings,
    versions: dict[str, str],
    fingerprints: dict[str, dict[str, str]],
) -> dict[str, str]:
    """What all cells of a folder must share, as texts by name."""
    return (
        _asked(settings)
        | {f"version of {name}": version for name, version in versions.items()}
        | {
            f"network and data of {name}": json.dumps(fingerprint, sort_keys=True)
            for name, fingerprint in fingerprints.items()
        }
    )


def unfinished(top: Path, cells: list[Cell]) -> list[Cell]:
    """The cells without a record."""
    return [cell for cell in cells if not (cell.folder(top) / RECORD).is_file()]


def _run(bench: Bench, waiting: list[Cell], workers: int, on_cell: OnCell | None) -> dict[str, str]:
    """Runs cells, the failed ones once more; what went wrong by cell."""
    failures: dict[str, str] = {}
    for attempt in range(1, ATTEMPTS + 1):
        failed: list[Cell] = []
        with closing(run_tasks(run_cell, waiting, context=bench, workers=workers)) as running:
            for index, problem in running:
                cell = waiting[index]
                last = attempt == ATTEMPTS
                if problem is not None:
                    failed.append(cell)
                    failures[str(cell)] = problem
                else:
                    failures.pop(str(cell), None)
                if on_cell is not None and (problem is None or last):
                    on_cell(cell, problem)
        waiting = failed
    return failures
