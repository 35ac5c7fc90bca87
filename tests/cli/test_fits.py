"""`spear lre` with a search behind it: fits are kept, used and made when they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import toys
from commands import Spear, assert_one_error, read
from searches import ENDED

from spear_gym.envs_registry.fits import stored_lre
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import load_estimator
from spear_gym.lre.fit import Stopping, fit_lre


def test_lre_is_kept_and_used(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAR_GYM_HOME", str(tmp_path / "home"))
    sizes = ("--samples", "4", "--tolerance", "0", "--held-out", "2", "--confidence", "off")
    sizes = (*sizes, "--workers", "1")
    ran = spear("lre", "toys:toy", *sizes)
    assert ran.code in ENDED, ran.err
    assert "R2" in ran.out
    fit = stored_lre(PlanEvaluator(toys.toy()))
    assert fit is not None
    assert (fit.fit.samples, fit.held_out is not None) == (4, True)

    path = tmp_path / "fit.json"
    assert spear("lre", "toys:toy", *sizes, "--out", path).code in ENDED
    again = load_estimator(path)
    assert (again.weight, again.intercept) == (fit.weight, fit.intercept)

    run = ("search", "--workload", "toys:toy", "--agent", "random", "--budget", "4")
    run = (*run, "--confidence", "off")
    for lre in ("auto", path):
        ran = spear(*run, "--target", "0.6", "--lre", lre, "--out", tmp_path / "run", "--overwrite")
        assert ran.code in ENDED, ran.err
        scored = read(tmp_path / "run" / "result.json")["scored"]
        assert scored["predicted_synops_fraction"] == fit.predict(scored["synops_fraction"])
    foreign = spear(*run, "--lre", path, "--scoring", "plain", "--out", tmp_path / "other")
    assert_one_error(foreign, "scoring: fitted under recalibrated, used under plain")
    path.write_bytes(path.read_bytes()[:200])
    truncated = spear(*run, "--lre", path, "--out", tmp_path / "other")
    assert_one_error(truncated, "cannot read an LRE fit")


def test_missing_fit_is_made_after_the_checks(
    spear: Spear, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty fine-tunes are no way to learn that the target or the folder is wrong."""
    fit = "spear_gym.cli.lre.fit_with_progress"
    monkeypatch.setattr(fit, lambda *_: pytest.fail("a fit was started"))
    run = ("search", "--workload", "toys:tiny", "--agent", "random")
    assert_one_error(spear(*run, "--target", "2", "--out", tmp_path / "new"), "target is 2")
    assert_one_error(spear(*run, "--out", folder), "exists")


def test_a_target_out_of_reach_costs_one_fine_tune(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the smallest plan, which a fit begins with, so it is not paid again."""
    monkeypatch.setenv("SPEAR_GYM_HOME", str(tmp_path / "home"))
    fit = "spear_gym.cli.lre.fit_with_progress"
    with monkeypatch.context() as patch:
        patch.setattr(fit, lambda *_: pytest.fail("a fit was started"))
        run = ("search", "--workload", "toys:tiny", "--agent", "random", "--min-channels", "5")
        for _ in range(2):
            ran = spear(*run, "--target", "0.2", "--out", tmp_path / "new")
            assert_one_error(ran, "target is 0.2, but the smallest plan has 0.")
    assert not (tmp_path / "new").exists()
    (samples,) = (tmp_path / "home" / "lre").glob("*.samples.json")
    (row,) = read(samples)["samples"]
    evaluator = PlanEvaluator(toys.tiny(), min_channels=5)
    assert tuple(row["counts"]) == evaluator.space.smallest_counts()
    again = fit_lre(evaluator, stopping=Stopping(cap=4, tolerance=0), store=samples)
    assert (again.samples[0].counts, again.samples[0].seconds) == (
        evaluator.space.smallest_counts(), row["seconds"],
    )  # fmt: skip


def test_lre_mistakes(spear: Spear, tmp_path: Path) -> None:
    assert_one_error(spear("lre", "digit"), "unknown workload 'digit'")
    assert_one_error(spear("lre", "toys:toy", "--scoring", "plan"), "unknown scoring 'plan'")
    out = tmp_path / "fit.json"
    assert_one_error(spear("lre", "toys:toy", "--samples", "2", "--out", out), "in 3..100,000")
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "fit.json"
    assert_one_error(spear("lre", "toys:toy", "--out", below), "cannot write")
