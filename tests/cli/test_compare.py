"""`spear compare`, `spear report` and `spear sensitivity`."""

from __future__ import annotations

from pathlib import Path

from commands import Spear, assert_one_error
from searches import ENDED, RANDOM


def test_compare_and_report(spear: Spear, tmp_path: Path) -> None:
    arguments = ("--workload", "toys:tiny", "--lre", "none", "--targets", "0.4", "--budget", "5")
    grid = ("--agents", "random, uniform", "--seeds", "1", "--workers", "1")
    ran = spear("compare", *arguments, *grid, "--out", tmp_path)
    assert ran.code in ENDED, ran.err
    assert "2 cells; report:" in ran.out
    page = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    again = spear("report", tmp_path, "--out", tmp_path / "again")
    assert again.code in ENDED, again.err
    assert (tmp_path / "again" / "report.html").read_bytes() == page
    bad = spear("compare", *arguments, "--agents", "randon", "--out", tmp_path)
    assert_one_error(bad, "unknown agent 'randon'")
    bad = spear("compare", "--agents", "random", "--targets", "much")
    assert_one_error(bad, "targets are 'much'; they must be numbers")
    assert_one_error(spear("report", tmp_path / "nowhere"), "cannot read the comparison")


def test_sensitivity(spear: Spear, tmp_path: Path) -> None:
    grid = ("--workload", "toys:tiny", "--agent", "random", "--lre", "none", "--targets", "0.4")
    few = ("--seeds", "1", "--budget", "4", "--lambdas", "1,5", "--workers", "1")
    ran = spear("sensitivity", *grid, *few, "--out", tmp_path)
    assert ran.code in ENDED, ran.err
    text = (tmp_path / "report.md").read_text()
    assert "Sensitivity of random on toys:tiny" in text
    assert "without measured features" in text
    again = spear("report", tmp_path, "--out", tmp_path / "again", "--svg")
    assert again.code in ENDED, again.err
    assert (tmp_path / "again" / "report.md").read_text() == text
    assert (tmp_path / "again" / "figures" / "penalty.svg").is_file()
    bad = spear("sensitivity", *grid, "--lambdas", "1,-2", "--out", tmp_path / "new")
    assert_one_error(bad, "-2")
    bad = spear("sensitivity", *grid, "--agent", "randon", "--out", tmp_path / "new")
    assert_one_error(bad, "unknown agent 'randon'")
    bad = spear("search", *RANDOM, "--hide", "input_rat", "--out", tmp_path / "new")
    assert_one_error(bad, "unknown observation feature 'input_rat'")
    assert not (tmp_path / "new").exists()
