"""`spear search`: how it says whether the target is kept, and how sure it was beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
import toys
from commands import Spear, assert_one_error, ledger_rows, read
from torch import nn

from spear_gym.agents.repair import AIM
from spear_gym.boundary.files import write_json
from spear_gym.evaluation import Finetuned, PlanEvaluator
from spear_gym.lre import FittedEstimator, bounded, fit_line
from spear_gym.lre.sampling import spanning_plans
from spear_gym.workload import measure

RANDOM = ("--agent", "random", "--budget", "8", "--seed", "3")
TWIN = ("search", "--workload", "toys:twin", "--lre", "none", *RANDOM)
TINY = ("search", "--workload", "toys:tiny", *RANDOM)


# Kept, repaired or broken.


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The final fine-tune makes neurons fire much more, which nothing predicted."""
    real = PlanEvaluator.finetune

    def finetune(self: PlanEvaluator, counts: Any, **options: Any) -> Finetuned:
        found = real(self, counts, **options)
        if options.get("recipe") is not None:
            return found  # of a repair
        with torch.no_grad():
            for layer in found.model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.bias += 0.5
        return replace(found, search=measure(self.workload, found.model, "search"))

    monkeypatch.setattr(PlanEvaluator, "finetune", finetune)


def test_kept(spear: Spear, tmp_path: Path) -> None:
    ran = spear(*TWIN, "--target", "0.9", "--out", tmp_path / "run")
    assert ran.code == 0, ran
    assert "target kept\n" in ran.out
    assert "trim" not in ran.out
    result = read(tmp_path / "run" / "result.json")
    assert (result["outcome"], result["kept"], result["repairs"]) == ("kept", True, [])
    assert (result["repair_evaluations"], result["plan"]) == (0, result["scored"]["plan"])


def test_an_excluded_layer_stays_whole(spear: Spear, tmp_path: Path) -> None:
    first = toys.tiny().graph.groups[0]
    options = ("--lre", "none", "--target", "0.8", "--exclude", first.name)
    ran = spear(*TINY, *options, "--out", tmp_path / "run")
    assert ran.code in (0, 3), ran
    assert read(tmp_path / "run" / "settings.json")["settings"]["exclude"] == [first.name]
    plan = read(tmp_path / "run" / "plan.json")
    assert first.name not in [group["name"] for group in plan["groups"]]
    again = spear("evaluate", tmp_path / "run", "--workload", "toys:tiny")
    assert "equal to the recorded row" in again.out, again
    assert spear(*TINY, *options, "--resume", "--out", tmp_path / "run").code == ran.code
    assert_one_error(
        spear(*TINY, "--exclude", "conv", "--out", tmp_path / "other"), "exclude: unknown group"
    )


def test_repaired(spear: Spear, tmp_path: Path, restless: None) -> None:
    folder = tmp_path / "run"
    ran = spear(*TWIN, "--target", "0.4", "--out", folder)
    assert ran.code == 0, ran
    assert "target repaired\n" in ran.out
    result = read(folder / "result.json")
    assert (result["outcome"], result["kept"]) == ("repaired", True)
    assert result["test_synops_fraction"] <= AIM * 0.4
    steps = result["repairs"]
    assert steps[-1]["counts"] == result["plan"] != result["scored"]["plan"]
    assert steps[-1]["fraction"] == result["test_synops_fraction"]
    for step in steps:
        plan = "-".join(map(str, step["counts"]))
        assert f"trim: to {plan}, {step['epochs']} epoch" in ran.out
    assert f"{result['repair_evaluations']} evaluations, beside those of the search" in ran.out
    assert result["scored"]["plan"] in [row["counts"] for row in ledger_rows(folder)]
    # The network is read back as the one that was measured.
    again = spear("evaluate", folder, "--workload", "toys:twin")
    assert again.code == 0, again
    assert "equal to the recorded row" in again.out


def test_broken_when_it_is_not_repaired(spear: Spear, tmp_path: Path, restless: None) -> None:
    ran = spear(*TWIN, "--target", "0.4", "--no-repair", "--out", tmp_path / "run")
    assert ran.code == 3, ran
    assert "target broken: it was not repaired\n" in ran.out
    result = read(tmp_path / "run" / "result.json")
    assert (result["outcome"], result["kept"]) == ("broken", False)
    assert result["test_synops_fraction"] > 0.4
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"network.safetensors"}


def test_broken_at_the_floor(spear: Spear, tmp_path: Path, restless: None) -> None:
    limits = ("--max-ratio", "0.3", "--target", "0.6", "--out", tmp_path / "run")
    ran = spear(*TWIN, *limits)
    assert ran.code == 3, ran
    assert "target broken: every group is at its smallest; raise the target or --max-ra" in ran.out
    assert read(tmp_path / "run" / "result.json")["plan"] == [4, 6, 6]


def test_broken_on_test_alone(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repair sees search only; that the splits differ is said."""

    def much(*arguments: Any) -> Any:
        found = measure(*arguments)
        return replace(found, synops=3 * found.synops)

    monkeypatch.setattr("spear_gym.agents.pipeline.measure", much)
    ran = spear(*TWIN, "--target", "0.5", "--out", tmp_path / "run")
    assert ran.code == 3, ran
    assert "target broken on test, though kept on search (0." in ran.out
    assert "aim a little lower" in ran.out


def test_slack_is_used_on_request(spear: Spear, tmp_path: Path) -> None:
    """The widest of random plans is far under a target that nearly all of the network keeps."""
    run = (*TWIN, "--max-ratio", "0.9", "--target", "0.97")
    assert spear(*run, "--out", tmp_path / "as-found").code == 0
    ran = spear(*run, "--use-slack", "--out", tmp_path / "wide")
    assert ran.code == 0, ran
    found, wide = (read(tmp_path / name / "result.json") for name in ("as-found", "wide"))
    assert wide["scored"] == found["scored"]
    assert wide["repairs"][0]["action"] == "widen"
    assert wide["outcome"] in ("kept", "repaired")
    after = "search_after_finetuning"
    assert wide[after]["accuracy"] >= found[after]["accuracy"]
    assert "widen: to " in ran.out
    for step in wide["repairs"]:
        assert step["adopted"] or "; not adopted, for it is not better on search" in ran.out


# How sure.


def fit_of(count: int, spread: float = 0.01) -> FittedEstimator:
    evaluator = PlanEvaluator(toys.tiny())
    plans = spanning_plans(evaluator, count, 0)
    made = [jobs.near_a_line(evaluator, (p, i), spread=spread) for i, p in enumerate(plans)]
    return fit_line(made, evaluator.fingerprint())


@pytest.fixture(scope="module")
def fit_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit that nothing was fine-tuned for."""
    path = tmp_path_factory.mktemp("fit") / "fit.json"
    write_json(path, fit_of(30).to_json())
    return path


def scored_of(folder: Path) -> dict[str, Any]:
    scored: dict[str, Any] = read(folder / "result.json")["scored"]
    return scored


def test_plans_are_judged_by_the_bound(spear: Spear, tmp_path: Path, fit_path: Path) -> None:
    ran = spear(*TINY, "--lre", fit_path, "--target", "0.6", "--out", tmp_path / "run")
    assert ran.code in (0, 3), ran
    assert "bound at 95% (search)" in ran.out
    assert "predicted (search)" in ran.out
    scored, fit = scored_of(tmp_path / "run"), fit_of(30)
    bound = bounded(fit, 0.95).predict(scored["synops_fraction"])
    assert scored["predicted_synops_fraction"] == bound > fit.predict(scored["synops_fraction"])
    assert f"{bound:.4f}" in ran.out
    assert f"{fit.predict(scored['synops_fraction']):.4f}" in ran.out
    result = read(tmp_path / "run" / "result.json")
    assert (result["lre"]["confidence"], result["lre"]["widened"]) == (0.95, False)
    assert read(tmp_path / "run" / "settings.json")["settings"]["confidence"] == 0.95


@pytest.mark.parametrize("confidence", ["off", "0.5"])
def test_without_a_bound(spear: Spear, tmp_path: Path, fit_path: Path, confidence: str) -> None:
    options = ("--confidence", confidence, "--target", "0.6", "--out", tmp_path / "run")
    ran = spear(*TINY, "--lre", fit_path, *options)
    assert ran.code in (0, 3), ran
    assert "bound at" not in ran.out
    scored = scored_of(tmp_path / "run")
    expected = fit_of(30).predict(scored["synops_fraction"])
    assert scored["predicted_synops_fraction"] == expected
    assert "confidence" not in read(tmp_path / "run" / "result.json")["lre"]


def test_a_bound_chooses_smaller_plans(spear: Spear, tmp_path: Path, fit_path: Path) -> None:
    """A plan predicted to keep the target by a hair is not sure to."""
    run = (*TINY, "--lre", fit_path)
    assert spear(
        *run, "--target", "0.3", "--confidence", "off", "--out", tmp_path / "first"
    ).code in (0, 3)
    first = scored_of(tmp_path / "first")
    target = first["predicted_synops_fraction"] + 0.001
    for confidence in ("off", "0.95"):
        options = ("--target", target, "--confidence", confidence, "--out", tmp_path / confidence)
        assert spear(*run, *options).code in (0, 3)
    off, sure = scored_of(tmp_path / "off"), scored_of(tmp_path / "0.95")
    assert off == first
    assert sure["synops_fraction"] < off["synops_fraction"]
    assert sure["predicted_synops_fraction"] <= target


@pytest.mark.parametrize(
    ("confidence", "message"),
    [
        ("abc", "confidence is 'abc'; it must be a number such as 0.95, or off"),
        ("95%", "confidence is '95%'; it must be a number such as 0.95, or off"),
        ("1.5", "confidence is 1.5; it must lie inside (0, 1), e.g. 0.95, or be 'off'"),
        ("95", "confidence is 95; it must lie inside (0, 1)"),
        ("0", "confidence is 0; it must lie inside (0, 1)"),
        ("nan", "confidence is nan; it must lie inside (0, 1)"),
        ("0.99", "the fit has 30 samples, and a bound at confidence 0.99 needs 99; fit more"),
    ],
)
def test_confidence_that_cannot_be(
    spear: Spear, tmp_path: Path, fit_path: Path, confidence: str, message: str
) -> None:
    out = tmp_path / "run"
    ran = spear(*TINY, "--lre", fit_path, "--confidence", confidence, "--out", out)
    assert_one_error(ran, message)
    assert not out.exists()


def test_no_prediction_has_no_bound(spear: Spear, tmp_path: Path) -> None:
    run = (*TINY, "--lre", "none", "--target", "0.6")
    ran = spear(*run, "--confidence", "0.95", "--out", tmp_path / "run")
    assert_one_error(ran, "without a prediction of SynOps (lre 'none') there is no bound")
    assert not (tmp_path / "run").exists()
    assert spear(*run, "--confidence", "off", "--out", tmp_path / "off").code in (0, 3)
    assert spear(*run, "--out", tmp_path / "default").code in (0, 3)
    results = [read(tmp_path / name / "result.json")["scored"] for name in ("off", "default")]
    assert results[0] == results[1]


def test_a_confidence_that_no_fit_can_be_made_for(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before the forty fine-tunes, with a way out that `search` has."""
    monkeypatch.setenv("SPEAR_GYM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("spear_gym.lre.fit.sample_plan", lambda *_: pytest.fail("sampled"))
    ran = spear(*TINY, "--confidence", "0.99", "--out", tmp_path / "run")
    assert_one_error(ran, "a bound at confidence 0.99 needs 99; raise it (`spear lre --samples`)")


@pytest.mark.parametrize("command", [TINY, ("lre", "toys:tiny")], ids=["search", "lre"])
def test_a_home_that_cannot_be_written(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Said before any fine-tune; an explicit fit, or none, needs no home."""
    home = tmp_path / "home"
    home.write_text("no folder")
    monkeypatch.setenv("SPEAR_GYM_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert_one_error(spear(*command), "set SPEAR_GYM_HOME to a folder that can be written")
    assert list(tmp_path.iterdir()) == [home]


def test_a_poor_fit_is_said(spear: Spear, tmp_path: Path) -> None:
    poor = fit_of(40, spread=0.2)
    assert poor.poor
    write_json(tmp_path / "fit.json", poor.to_json())
    run = (*TINY, "--lre", tmp_path / "fit.json", "--target", "0.9")
    ran = spear(*run, "--out", tmp_path / "run")
    assert ran.code in (0, 3), ran
    said = f"the prediction of SynOps fits poorly (R2 {poor.fit.r2:.3f}); bounds on it are widened"
    assert said in ran.out
    assert read(tmp_path / "run" / "result.json")["lre"]["widened"] is True


# How far.


def test_targets_outside_the_fitted_range(spear: Spear, tmp_path: Path) -> None:
    whole = fit_of(40)
    inside = [s for s in whole.samples if 0.2 <= s.finetuned <= 0.7]
    narrow = fit_line(inside, whole.fingerprint)
    assert narrow.range is not None
    low, high = narrow.range
    write_json(tmp_path / "fit.json", narrow.to_json())
    run = (*TINY, "--lre", tmp_path / "fit.json", "--confidence", "0.8")
    for target in (low - 0.03, high + 0.03):
        ran = spear(*run, "--target", target, "--out", tmp_path / "run")
        message = f"outside the SynOps fractions {low:.3f} to {high:.3f} that the prediction was"
        assert_one_error(ran, message)
        assert "--extrapolate" in ran.err
        assert not (tmp_path / "run").exists()
    for number, target in enumerate((low - 0.01, high + 0.01)):
        assert spear(*run, "--target", target, "--out", tmp_path / f"{number}").code in (0, 3)
    beyond = spear(*run, "--target", high + 0.03, "--extrapolate", "--out", tmp_path / "far")
    assert beyond.code in (0, 3), beyond


def test_a_target_below_the_bound_of_the_smallest_plan(
    spear: Spear, tmp_path: Path, fit_path: Path
) -> None:
    run = (*TINY, "--lre", fit_path, "--max-ratio", "0.5", "--out", tmp_path / "run")
    ran = spear(*run, "--target", "0.1")
    assert_one_error(ran, "SynOps bounded at confidence 0.95, which may be lowered")
