"""`spear search` and `spear evaluate` with a workload that has rules of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Spear, read

RUN = ("--lre", "none", "--agent", "random", "--budget", "6", "--target", "0.9")


@pytest.mark.parametrize(("name", "metric"), [("population", "accuracy"), ("regression", "r2")])
def test_searched_and_evaluated(spear: Spear, tmp_path: Path, name: str, metric: str) -> None:
    folder, workload = tmp_path / "run", f"toys:{name}"
    ran = spear("search", "--workload", workload, *RUN, "--out", folder)
    assert ran.code in (0, 3), ran
    header = next(line for line in ran.out.splitlines() if "SynOps" in line and "params" in line)
    assert metric in header
    result = read(folder / "result.json")
    assert 0 <= result["test"]["accuracy"] <= 1
    if name == "population":
        assert result["test_unpruned"]["accuracy"] > 0.7, "argmax over outputs reaches 0.1"
    again = spear("evaluate", folder, "--workload", workload)
    assert again.code == 0, again
    assert "equal to the recorded row" in again.out


def test_scoring_that_is_not_defined(spear: Spear, tmp_path: Path) -> None:
    run = ("search", "--workload", "toys:regression", *RUN, "--scoring", "refit")
    ran = spear(*run, "--out", tmp_path / "run")
    assert ran.code == 2, ran
    assert "'refit'" in ran.err
    assert "use 'recalibrated'" in ran.err
    assert "Traceback" not in ran.err
