"""Studies of SynOps estimators: samples made once, kept, and read back."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest
import toys

from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import LREError
from spear_gym.report.page import markdown
from spear_gym.studies.lre import LREStudy, StudySettings, lre_study
from spear_gym.studies.lre_report import lre_page

SETTINGS = StudySettings(
    samples=22, length_samples=6, held_out=6, scorings=("plain",), lengths=(2.0,)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def study(folder: Path) -> LREStudy:
    return lre_study(toys.toy(), SETTINGS, folder=folder)


def test_pools_are_those_asked_for(study: LREStudy) -> None:
    found = {(p.scoring, p.epochs): (len(p.samples), len(p.held_out)) for p in study.pools}
    assert found == {
        ("recalibrated", 1): (22, 6),
        ("plain", 1): (22, 6),
        ("recalibrated", 2): (6, 6),
    }
    fitted = {sample.counts for sample in study.pool().samples}
    assert len(fitted) == 22
    assert fitted.isdisjoint(sample.counts for sample in study.pool().held_out)
    with pytest.raises(LREError, match="no samples of scoring 'refit' at 1 epochs"):
        study.pool("refit")


def test_samples_are_what_scoring_and_finetuning_give(study: LREStudy) -> None:
    workload = toys.toy()
    sample = study.pool("recalibrated", 2).held_out[0]
    evaluator = PlanEvaluator(workload)
    assert sample.scored == evaluator.evaluate(sample.counts).synops_fraction
    assert sum(sample.layers) == pytest.approx(sample.scored)
    recipe = dataclasses.replace(workload.finetune, epochs=2)
    tuned = evaluator.finetune(sample.counts, seed=7600, recipe=recipe)
    assert sample.finetuned == tuned.search.synops / evaluator.reference.synops
    assert sum(sample.finetuned_layers) == pytest.approx(sample.finetuned)


def test_a_study_goes_on(study: LREStudy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is not fine-tuned again, and a larger study makes only what is missing."""
    calls = []
    real = PlanEvaluator.finetune
    monkeypatch.setattr(
        PlanEvaluator, "finetune", lambda *a, **k: calls.append(a[1]) or real(*a, **k)
    )
    assert lre_study(toys.toy(), SETTINGS, folder=folder) == study
    assert calls == []
    more = lre_study(toys.toy(), dataclasses.replace(SETTINGS, length_samples=8), folder=folder)
    assert len(calls) == 2
    assert more.pool("recalibrated", 2).samples[:6] == study.pool("recalibrated", 2).samples


def test_files(study: LREStudy, tmp_path: Path) -> None:
    path = tmp_path / "study.json.gz"
    study.save(path)
    assert LREStudy.load(path) == study
    content = path.read_bytes()
    study.save(path)
    assert path.read_bytes() == content
    for damaged in (content[:-20], b"", gzip.compress(b"{}"), gzip.compress(b'{"format": 1}')):
        path.write_bytes(damaged)
        with pytest.raises(LREError, match=r"study\.json\.gz"):
            LREStudy.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 4}, "samples is 4; .* at least 5"),
        ({"samples": 601}, "at most 600"),
        ({"lengths": (0.0,)}, "lengths are 0; they must be positive"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(LREError, match=message):
        StudySettings(**settings)  # type: ignore[arg-type]


def test_report(study: LREStudy) -> None:
    text = markdown(lre_page([study, dataclasses.replace(study, workload="twin")], repeats=2))
    for part in ("How many samples", "From one workload to another", "Why it is linear", "twin"):
        assert part in text
    assert "nan" not in text
