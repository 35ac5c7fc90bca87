"""The command `spear` as the tests run it, and what they ask of its mistakes."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from spear_gym.agents.folders import sums
from spear_gym.cli import common, main


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Spear = Callable[..., Ran]


def runner(patch: pytest.MonkeyPatch) -> Spear:
    """Runs `spear` in this process, as the installed script does."""
    patch.setattr(sys, "path", list(sys.path))
    patch.setattr(common.out, "width", 160)
    patch.setattr(common.err, "width", 160)

    def run(*arguments: object) -> Ran:
        patch.setattr(sys, "argv", ["spear", *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    return run


def assert_one_error(ran: Ran, message: str, code: int = 2) -> None:
    """One line that names the mistake, perhaps below a progress bar, and no traceback."""
    assert ran.code == code, ran
    assert "Traceback" not in ran.err + ran.out
    *bars, last = ran.err.strip().splitlines()
    assert all(bar.startswith(("search (", "fine-tune ", "cells ")) for bar in bars), ran.err
    assert last.startswith("error: ")
    assert message in last


def assert_one_clear_error(ran: Ran, *said: str) -> None:
    """Exit status 2, one line that says what is wrong, perhaps below a progress bar; no more."""
    assert ran.code == 2, ran
    assert "Traceback" not in ran.err + ran.out
    assert ran.err.count("error:") == 1, ran.err
    *bars, last = ran.err.strip().splitlines()
    assert all(bar.startswith(("search (", "fine-tune", "cells ")) for bar in bars), ran.err
    assert last.startswith("error: ")
    assert 10 < len(last) < 1000, last
    for text in said:
        assert text in last


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def seal(folder: Path) -> None:
    """Makes a changed run's checksums right again, as one who knows them would."""
    result = read(folder / "result.json")
    digests = sums(folder, result)
    if "sha256" in result:
        (folder / "result.json").write_text(json.dumps(result | {"sha256": digests}))


def ledger_rows(folder: Path) -> list[dict[str, Any]]:
    """Evaluations in the journal, read without Optuna."""
    rows = []
    path = folder / "ledger.log"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found = json.loads(line).get("user_attrs", {})
        except json.JSONDecodeError:
            continue
        if "evaluation" in found:
            rows.append(found["evaluation"])
    return rows
