"""Where fits lie, and those that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import on_line

from spear_gym.boundary.files import write_json
from spear_gym.envs_registry import ENTRIES
from spear_gym.envs_registry.fits import SHIPPED, shipped_path, stored_lre, user_path
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import fit_line, load_estimator
from spear_gym.workload import Workload, load_workload

SHIPPED_FITS = sorted(SHIPPED.glob("*.json"))


def test_users_own_fit_comes_first(
    toy: Workload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPEAR_GYM_HOME", str(tmp_path))
    evaluator = PlanEvaluator(toy)
    assert stored_lre(evaluator) is None
    own = fit_line(on_line(0.9, 0.01, [0.1, 0.5, 0.9]), evaluator.fingerprint())
    path = user_path(evaluator)
    assert path.is_relative_to(tmp_path)
    assert path != user_path(PlanEvaluator(toy, scoring="plain"))
    write_json(path, own.to_json())
    assert stored_lre(evaluator) == own


@pytest.mark.parametrize("path", SHIPPED_FITS, ids=lambda path: path.stem)
def test_shipped_fit(path: Path) -> None:
    name, scoring, criterion = path.stem.rsplit(".", 2)
    evaluator = PlanEvaluator(load_workload(name), scoring=scoring, criterion=criterion)
    assert shipped_path(evaluator) == path
    fit = load_estimator(path)
    fit.check(evaluator.fingerprint())
    assert fit.held_out is not None
    assert fit.held_out.r2 >= 0.97
    assert fit.held_out.samples >= 10
    again = fit_line(
        fit.samples[: fit.fit.samples], fit.fingerprint, fit.samples[fit.fit.samples :]
    )
    assert again.held_out is not None
    assert (again.weight, again.intercept) == pytest.approx((fit.weight, fit.intercept))
    assert again.held_out.r2 == pytest.approx(fit.held_out.r2)
    counts = fit.samples[0].counts
    assert evaluator.evaluate(counts).synops_fraction == pytest.approx(
        fit.samples[0].scored, rel=1e-4
    )


def test_shipped_fits_are_of_the_catalogue() -> None:
    assert {path.stem.rsplit(".", 2)[0] for path in SHIPPED_FITS} <= set(ENTRIES)
