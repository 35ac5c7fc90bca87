"""The committed sensitivity study: its archives give the reports, and the page its figures."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.sensitivity import read_study
from spear_gym.agents.compare.sensitivity_report import write_study_report
from spear_gym.agents.compare.statistics import Interval, task_mean_interval
from spear_gym.agents.spear_ddpg import SpearDDPGSettings
from spear_gym.report.page import table_markdown

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "notebooks" / "results"
STUDY = RESULTS / "sensitivity"
PAGE = (ROOT / "docs" / "results" / "sensitivity.md").read_text(encoding="utf-8")
SAID = " ".join(PAGE.replace("*", "").split())


@pytest.mark.parametrize("workload", ["digits", "cluttered-digits"])
def test_the_archives_give_the_report(workload: str, tmp_path: Path) -> None:
    write_study_report(*read_study(STUDY / workload / "data"), tmp_path)
    for name in ("report.md", "study.csv"):
        assert (tmp_path / name).read_bytes() == (STUDY / workload / name).read_bytes(), name
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {path.name for path in (STUDY / workload / "figures").glob("*.png")}


def test_page_shows_the_tables() -> None:
    spec = spec_from_file_location("sensitivity_tables", STUDY / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for name, table in module.tables().items():
        shown = PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0].strip()
        assert shown == table_markdown(table), name


def test_page_tells_how_often_five_runs_lie_apart_by_chance() -> None:
    rng, trials = np.random.default_rng(0), 400

    def interval() -> Interval:
        return task_mean_interval(list(rng.normal(size=(1, 5))), resamples=500)

    pairs = [(interval(), interval()) for _ in range(trials)]
    apart = sum(x.low > y.high or x.high < y.low for x, y in pairs) / trials
    assert apart == pytest.approx(0.05, abs=0.025)
    assert "lie apart by chance 5 times in 100, for each of nine comparisons" in SAID


def test_page_tells_where_the_default_row_comes_from() -> None:
    """Five cells of the ablation, the same searches; the ablation has five more seeds of them."""
    here = Comparison.load(STUDY / "cluttered-digits" / "data" / "penalty=5" / ARCHIVE).records
    ablation = Comparison.load(RESULTS / "ablation" / "data" / ARCHIVE).records
    same = sorted(
        (
            r
            for r in ablation
            if r["cell"]
            == {"workload": "cluttered-digits", "agent": "spear-ddpg", "target": 0.3}
            | {"seed": r["cell"]["seed"]}
        ),
        key=lambda r: r["cell"]["seed"],
    )
    mine = sorted(here, key=lambda r: r["cell"]["seed"])
    for one, other in zip(mine, same[:5], strict=True):
        for key in ("plans", "accuracy", "test_accuracy", "test_fraction"):
            assert one[key] == other[key]
    accuracies = np.array([r["test_accuracy"] for r in same])
    assert set(np.argsort(accuracies)[:2]) < set(range(5)), "the two worst of ten are among them"
    assert f"{accuracies[:5].mean():.3f}. Seeds 5 to 9" in SAID
    assert f"of that cell give {accuracies[5:].mean():.3f} and" in SAID
    assert f"all ten {accuracies.mean():.3f}, within the range of the other weights" in SAID
    rows = re.findall(
        r"^\| lambda [\d.]+ \| ([\d.]+) ", PAGE.split("<!-- cluttered-digits -->")[1], re.M
    )
    others = [float(mean) for mean in rows]
    assert len(others) == 6
    assert f"({min(others):.3f} to {max(others):.3f})" in SAID
    assert sum(mean > accuracies.mean() for mean in others) == 5  # "below five of the six"
    smaller = 100 * (accuracies.mean() - accuracies[:5].mean())
    assert f"every difference of that table is {smaller:.1f} points smaller" in SAID


def test_page_tells_of_the_floor() -> None:
    settings = SpearDDPGSettings()
    assert settings.reward_floor == 0
    assert f"cuts it {settings.reward_clip:g} away from its moving average" in SAID
    ends = ", ".join(f"{100 * 0.4 / weight:g}" for weight in (0.5, 5, 50))
    assert ends == "80, 8, 0.8"
    assert "80 % over the target for lambda 0.5, 8 % for 5 and 0.8 % for 50" in SAID
