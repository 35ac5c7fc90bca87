"""`spear lre`: what it says, what it refuses, and that it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jobs
import pytest
import toys
from commands import Spear, assert_one_error, read

from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import fit as lre_fit
from spear_gym.lre import load_estimator

TINY = ("lre", "toys:tiny", "--held-out", "0", "--workers", "1")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples close to a line instead of fine-tunes; the seeds of those that were made."""
    seeds: list[int] = []

    def sample(evaluator: PlanEvaluator, item: Any) -> Any:
        seeds.append(item[1])
        return jobs.close_to_a_line(evaluator, item)

    monkeypatch.setattr(lre_fit, "sample_plan", sample)
    return seeds


def test_says_how_sure_it_is(spear: Spear, tmp_path: Path, made: list[int]) -> None:
    path = tmp_path / "fit.json"
    ran = spear(*TINY, "--out", path, "--targets", "0.2,0.6")
    assert ran.code == 0, ran
    fit = load_estimator(path)
    assert fit.fit.samples == 19 == len(made)
    widths = lre_fit.Stopping((0.2, 0.6)).widths(fit.fitted)
    assert widths is not None
    assert (
        f"mean within ±{widths[0]:.4f} (asked: 0.02), one plan within ±{widths[1]:.4f}" in ran.out
    )
    assert "95 % intervals of the line at 0.2, 0.6" in ran.out
    assert "after = 0.9" in ran.out
    assert "the samples ended" not in ran.out
    assert f"wrote {path}" in ran.out
    assert "mean within ±" in ran.err, "beside the progress bar, as it shrinks"


def test_says_what_is_wrong_with_the_fit(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(evaluator: PlanEvaluator, item: Any) -> Any:
        if item[1] == 2:
            return dataclasses.replace(toys.failed(), counts=item[0])
        return jobs.near_a_line(evaluator, item, spread=0.2)

    monkeypatch.setattr(lre_fit, "sample_plan", sample)
    ran = spear(*TINY, "--samples", "20", "--confidence", "0.9", "--out", tmp_path / "fit.json")
    assert ran.code == 0, ran
    assert "1 fine-tunes failed and were left out" in ran.out
    assert "the samples ended before the mean was as sure as asked; raise --samples" in ran.out
    assert "the prediction fits poorly" in ran.out
    assert read(tmp_path / "fit.json")["failed"] == 1


@pytest.mark.parametrize("estimator", ["proportional", "quadratic", "per-layer", "trees", "gp"])
def test_other_estimators(spear: Spear, tmp_path: Path, made: list[int], estimator: str) -> None:
    path = tmp_path / "fit.json"
    ran = spear(*TINY, "--estimator", estimator, "--confidence", "off", "--out", path)
    assert ran.code == 0, ran
    fit = load_estimator(path)
    assert fit.family == estimator
    fit.check(PlanEvaluator(toys.tiny()).fingerprint())


def test_goes_on_where_it_was_interrupted(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real fine-tunes: none is made twice, and the fit is that of an undisturbed one."""
    real, asked = lre_fit.sample_plan, []

    def sample(evaluator: PlanEvaluator, item: Any) -> Any:
        if len(asked) == 4 and asked[-1] is not None:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(item)
        return real(evaluator, item)

    sizes = ("--samples", "7", "--tolerance", "0", "--confidence", "off")
    whole = spear(*TINY, *sizes, "--out", tmp_path / "whole.json")
    monkeypatch.setattr(lre_fit, "sample_plan", sample)
    path = tmp_path / "fit.json"
    ran = spear(*TINY, *sizes, "--out", path)
    assert ran.code == 130, ran
    assert "interrupted; the samples so far are kept: the same command goes on" in ran.out
    assert not path.exists()
    again = spear(*TINY, *sizes, "--out", path)
    assert again.code == whole.code == 0, again
    items = [item for item in asked if item is not None]
    assert len(items) == len(set(items)) == 7
    assert timeless(read(path)) == timeless(read(tmp_path / "whole.json"))


def timeless(fit: dict[str, Any]) -> dict[str, Any]:
    for sample in fit["samples"]:
        del sample["seconds"]
    return fit


def test_more_samples_are_added_to_those_there_are(
    spear: Spear, tmp_path: Path, made: list[int]
) -> None:
    path = tmp_path / "fit.json"
    assert spear(*TINY, "--confidence", "off", "--out", path).code == 0
    assert spear(*TINY, "--out", path).code == 0
    assert made == list(range(19))


def test_samples_of_another_network(spear: Spear, tmp_path: Path, made: list[int]) -> None:
    path = tmp_path / "fit.json"
    assert spear(*TINY, "--confidence", "off", "--out", path).code == 0
    ran = spear("lre", "toys:toy", *TINY[2:], "--confidence", "off", "--out", path)
    assert_one_error(ran, "fit.samples.json' belong to something else (different: workload)")
    (tmp_path / "fit.samples.json").write_text("{", encoding="utf-8")
    ran = spear(*TINY, "--out", path)
    assert_one_error(ran, "cannot read the samples in")
    assert "remove the file to start again" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--estimator", "liner"), "unknown estimator 'liner'; did you mean 'linear'"),
        (("--targets", ""), "targets are none; give one or more in (0, 1]"),
        (("--targets", "15"), "targets are 15.0; give one or more in (0, 1]"),
        (("--targets", "much"), "targets are 'much'; they must be numbers"),
        (("--tolerance", "2"), "tolerance is 2; it must lie in [0, 1)"),
        (("--tolerance", "nan"), "tolerance is nan"),
        (("--confidence", "sure"), "confidence is 'sure'; it must be a number"),
        (("--confidence", "1.5"), "confidence is 1.5; it must lie inside (0, 1)"),
        (("--confidence", "0.99"), "samples is 40, and a bound at confidence 0.99 needs 99"),
        (("--samples", "10"), "samples is 10, and a bound at confidence 0.95 needs 19"),
        (("--held-out", "-1"), "held_out is -1"),
        (
            ("--estimator", "per-layer", "--samples", "5", "--confidence", "off"),
            "samples is 5; the estimator 'per-layer' needs at least 6 on this network",
        ),
    ],
)
def test_mistakes(
    spear: Spear, tmp_path: Path, made: list[int], options: tuple[str, ...], message: str
) -> None:
    ran = spear(*TINY, *options, "--out", tmp_path / "fit.json")
    assert ran.code == 2
    assert message in ran.err.splitlines()[-1], ran.err
    assert "Traceback" not in ran.err
    assert made == []
    assert list(tmp_path.iterdir()) == []


def test_too_few_plans_to_hold_some_out(spear: Spear, tmp_path: Path, made: list[int]) -> None:
    (tmp_path / "narrow.py").write_text(
        "import toys\ndef make(): return toys.trained((2, 2), name='narrow')\n", encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(str(tmp_path))
        ran = spear("lre", "narrow:make", "--workers", "1", "--out", tmp_path / "fit.json")
    assert ran.code == 2
    assert "too few plans for 4 samples and 12 held out; lower one of them" in ran.err
    assert made == []
