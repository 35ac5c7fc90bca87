"""Output folders of searches: which are ours, what may be removed from them, and who writes."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from spear_gym.boundary import files
from spear_gym.boundary.files import FileError, check_writable, raised_as, temporary_for
from spear_gym.boundary.ownership import Lease, own
from spear_gym.checkpoint import is_checkpoint, remove_checkpoints
from spear_gym.pruning.keeping import NETWORK, PLAN, STRUCTURE

SETTINGS, RESULT = "settings.json", "result.json"
DELIVERY = "delivery.json"
OWNER = "owner.json"
RUN_FORMAT = "spear-gym run 1"
FRONT_FORMAT = "spear-gym front 1"

RUN_FILES = (
    PLAN, NETWORK, STRUCTURE, DELIVERY, RESULT, "curve.png", "plan.png", "ledger.log", "cell.json",
    SETTINGS,
)  # fmt: skip
"""What a run folder holds besides its owner's file. The settings, by which it is recognised, are
removed last."""

FRONT_FILES = ("front.json", "front.png")

State = Literal["missing", "empty", "begun", "run", "foreign"]
"""``begun``: a process was killed before the settings, which come first, were complete."""


class RunError(ValueError):
    """A run folder cannot be used."""


def state_of(folder: Path) -> State:
    """What a folder is.

    Raises:
        OSError: when it cannot be looked into, or is a file.
    """
    if not folder.exists():
        return "missing"
    if is_run(folder):
        return "run"
    names = [path.name for path in folder.iterdir()]
    if all(name == OWNER or _being_written(name) or _of_ledger(name) for name in names):
        return "begun" if names else "empty"
    return "foreign"


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder: its settings are those of a search."""
    try:
        found = files.read_json(folder / SETTINGS, undefined=True)
    except FileError:
        return False
    return is_identity(found)


def is_identity(found: Any) -> bool:
    """Whether this is what a run's settings file holds; versions before 0.1 had no format in it."""
    if not isinstance(found, dict) or found.get("format", RUN_FORMAT) != RUN_FORMAT:
        return False
    parts = [found.get(name) for name in ("settings", "fingerprint", "versions")]
    settings = parts[0]
    return all(isinstance(part, dict) for part in parts) and {"workload", "agent", "budget"} <= set(
        settings or ()
    )


def is_front(folder: Path) -> bool:
    """Whether a folder holds searches for several targets."""
    try:
        found = files.read_json(folder / "front.json")
    except FileError:
        found = None
    if isinstance(found, dict) and found.get("format") == FRONT_FORMAT:
        return True
    return any(_is_search(path) for path in folder.glob("target-*"))


def check_folder(
    folder: Path, *, overwrite: bool, resume: bool, may_be_missing: bool = False
) -> None:
    """Checks that a folder can become, or is, a run folder; changes nothing.

    Args:
        folder: the run folder.
        overwrite: the run in it is to be replaced.
        resume: the run in it is to be continued.
        may_be_missing: of a resumed run; so are those of several whose turn did not come.

    Raises:
        RunError: when it exists (unless told what to do), is no run folder, cannot be written, or
            there is nothing to resume.
    """
    if overwrite and resume:
        raise RunError("choose one of --overwrite and --resume")
    with _writable(folder / SETTINGS):
        state = state_of(folder)
        _check_place(folder, ours=state == "run")
        if state == "missing" and resume and not may_be_missing:
            raise RunError(_nothing_to_resume(folder))
        if state == "run" and not (overwrite or resume):
            raise RunError(_exists(folder))
        if state == "foreign":
            raise RunError(
                f"'{folder}' exists and is no run folder ({_why_foreign(folder)}), so it is "
                "left alone; choose another folder with --out"
            )


def check_front(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Checks that a folder can hold searches for several targets, or does; changes nothing.

    Raises:
        RunError: see :func:`check_folder`.
    """
    if overwrite and resume:
        raise RunError("choose one of --overwrite and --resume")
    with _writable(folder / "front.json"):
        state = state_of(folder)
        ours = state == "foreign" and is_front(folder)
        _check_place(folder, ours=ours)
        if state == "missing" and resume:
            raise RunError(_nothing_to_resume(folder))
        if state in ("run", "foreign") and not (overwrite or resume):
            raise RunError(_exists(folder))
        if state in ("run", "foreign") and not ours:
            raise RunError(
                f"'{folder}' exists and holds no searches for several targets (target-...), so it "
                "is left alone; choose another folder with --out"
            )


@contextmanager
def claimed(
    folder: Path, *, overwrite: bool = False, resume: bool = False, may_be_missing: bool = False
) -> Iterator[Lease]:
    """A run folder of this process alone, made when missing, empty unless it is resumed.

    What killed processes left half written is removed; what is not ours stays.

    Raises:
        RunError: see :func:`check_folder`.
        OwnedError: when another process writes there, and who.
    """
    told = {"overwrite": overwrite, "resume": resume, "may_be_missing": may_be_missing}
    check_folder(folder, **told)
    with owned(folder) as lease:
        # Once more, for another process may have been faster.
        check_folder(folder, **told | {"may_be_missing": True})
        if overwrite:
            remove_run(folder)
        yield lease


@contextmanager
def owned(folder: Path) -> Iterator[Lease]:
    """Makes this process the only one that writes to a folder, which is made when missing.

    A process may ask for this several times.

    Raises:
        RunError: when it cannot be written.
        OwnedError: when another process writes there, and who.
    """
    with _writable(folder / OWNER):
        folder.mkdir(parents=True, exist_ok=True)
        lease = own(folder / OWNER, f"the run in '{folder}'")
    with lease:
        # Nobody else writes here, so whoever began these has ended.
        _remove(path for path in folder.iterdir() if _being_written(path.name))
        yield lease


def remove_run(folder: Path) -> None:
    """Removes a run's files from its folder, and nothing else."""
    _remove(path for path in folder.iterdir() if _of_ledger(path.name))
    remove_checkpoints(folder)
    _remove(folder / name for name in RUN_FILES)


def remove_front(folder: Path) -> None:
    """Removes searches for several targets from a folder, and nothing else.

    Raises:
        OwnedError: when another process writes to one of them, and who.
    """
    for search in filter(_is_search, sorted(folder.glob("target-*"))):
        with owned(search):
            remove_run(search)
        with suppress(OSError):  # it holds something of somebody else's
            search.rmdir()
    _remove(folder / name for name in FRONT_FILES)


def read_json(path: Path) -> Any:
    """Reads a JSON file of a run folder.

    Raises:
        RunError: when it is missing or damaged.
    """
    with raised_as(RunError):
        return files.read_json(path, undefined=True)  # a fit's R^2 may be


def sums(folder: Path, result: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that belong together, the result's without these sums."""
    found = {name: files.sha256(folder / name) for name in (SETTINGS, PLAN, NETWORK)}
    return found | {RESULT: sum_of_result(result)}


def sum_of_result(result: dict[str, Any]) -> str:
    """SHA-256 of a result without the sums that it holds."""
    rest = {key: value for key, value in result.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_search(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and state_of(path) in ("begun", "run")


def _remove(paths: Iterator[Path]) -> None:
    for path in paths:
        if path.is_symlink() or path.is_file():
            path.unlink()


def _being_written(name: str) -> bool:
    """Whether this is the name of a temporary file for one of a run's files, or of their locks.

    Versions before 0.1 ended theirs in eight random characters.
    """
    if re.fullmatch(r"ledger\.log\.lock([0-9a-f-]{36}\.rename)?", name):  # of Optuna's journal
        return True
    known = (*RUN_FILES, *FRONT_FILES)
    earlier = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", name)
    begun = temporary_for(name)
    if begun is not None and is_checkpoint(begun):
        return True
    return begun in known or (earlier is not None and earlier[1] in known)


def _of_ledger(name: str) -> bool:
    """Whether this is what a killed owner of a ledger left, or a copy of it before a repair."""
    return bool(re.fullmatch(r"ledger\.log\.([0-9a-f]{8}\.owner|damaged-[0-9]{1,4})", name))


def _check_place(folder: Path, *, ours: bool) -> None:
    """Refuses folders that surely are not meant, empty or not."""
    place = folder.resolve()
    homes = [Path(place.anchor)]
    with suppress(RuntimeError):
        homes.append(Path.home().resolve())
    if place in homes:
        raise RunError(f"'{folder}' is '{place}', no folder for a run; choose another with --out")
    if place == Path.cwd().resolve() and not ours:
        raise RunError(
            f"'{folder}' is the working folder and holds no run; choose a folder for it with --out"
        )


def _exists(folder: Path) -> str:
    return (
        f"the output folder '{folder}' exists; choose another with --out, continue it with "
        "--resume, or replace it with --overwrite"
    )


def _nothing_to_resume(folder: Path) -> str:
    beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
    close = difflib.get_close_matches(folder.name, beside, n=2, cutoff=0.6)
    hint = f" (did you mean {' or '.join(repr(str(folder.with_name(c))) for c in close)}?)"
    return (
        f"there is no run in '{folder}' to continue{hint if close else ''}; leave --resume away to "
        "begin one"
    )


def _why_foreign(folder: Path) -> str:
    if is_front(folder):
        return "it holds searches for several targets"
    if (folder / SETTINGS).exists():
        return f"its {SETTINGS} is damaged, or of something else"
    return f"it has no {SETTINGS}"


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Refuses what cannot be written to a folder."""
    try:
        check_writable(path)
        yield
    except OSError as error:
        raise RunError(f"cannot write to the output folder '{path.parent}': {error}") from error
