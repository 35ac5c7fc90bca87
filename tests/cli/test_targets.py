"""`spear search --targets`: one network for each, of plans that all of them share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import Spear, assert_one_error, ledger_rows, read, runner

from spear_gym.evaluation import PlanEvaluator

RANDOM = ("search", "--workload", "toys:twin", "--lre", "none", "--agent", "random")
TPE = (*RANDOM[:-1], "tpe", "--budget", "14", "--seed", "1", "--targets", "0.5,0.3,0.2")
NAMES = ("target-0.5", "target-0.3", "target-0.2")
FRONT = {*NAMES, "front.json", "front.png"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished search for three targets, and what it printed; tests copy it."""
    folder = tmp_path_factory.mktemp("runs") / "front"
    with pytest.MonkeyPatch.context() as patch:
        ran = runner(patch)(*TPE, "--out", folder)
    assert ran.code == 0, ran
    return folder, ran.out


@pytest.fixture
def front(made: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "front"))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each target, without what a clock and earlier interruptions change."""
    found = {name: read(folder / name / "result.json") for name in NAMES}
    for result in found.values():
        for key in ("seconds", "statistics", "simulator_runs", "sha256"):
            del result[key]
    return found


def test_one_folder_for_each_target_and_a_front(made: tuple[Path, str]) -> None:
    folder, out = made
    assert {path.name for path in folder.iterdir()} == FRONT
    assert (folder / "front.png").read_bytes()[:4] == b"\x89PNG"
    front = read(folder / "front.json")
    assert (front["format"], front["workload"]) == ("spear-gym front 1", "twin")
    for point, name, target in zip(front["points"], NAMES, (0.5, 0.3, 0.2), strict=True):
        result = read(folder / name / "result.json")
        assert (point["target"], point["folder"], result["target"]) == (target, name, target)
        assert point["outcome"] == result["outcome"]
        assert point["accuracy"] == result["test"]["accuracy"]
        assert point["unpruned_accuracy"] == result["test_unpruned"]["accuracy"]
        assert point["fraction"] == result["test_synops_fraction"] <= target
        assert point["counts"] == result["plan"]
        settings = read(folder / name / "settings.json")["settings"]
        assert (settings["target"], settings["seed"]) == (target, 1)
        assert f"tiny: target {target:.3f}" in out or f"twin: target {target:.3f}" in out
        assert str(folder / name) in out
    assert "one network for each target (test)" in out


def test_plans_scored_for_one_target_can_be_chosen_for_another(made: tuple[Path, str]) -> None:
    """The best of all of them, by the rule of the best plan."""
    folder, out = made
    rows = {name: ledger_rows(folder / name) for name in NAMES}
    pool = {tuple(row["counts"]): row for found in rows.values() for row in found}
    assert max(map(len, rows.values())) == 14 < len(pool)
    elsewhere = 0
    for name, target in zip(NAMES, (0.5, 0.3, 0.2), strict=True):
        feasible = [row for row in pool.values() if row["synops_fraction"] <= target]
        best = max(feasible, key=lambda row: (row["accuracy"], -row["synops"]))
        result = read(folder / name / "result.json")
        assert result["scored"]["plan"] == best["counts"]
        assert (result["paid"], result["scored_plans"]) == (14, len(pool))
        elsewhere += best["counts"] not in [row["counts"] for row in rows[name]]
    assert elsewhere, "choose another seed: no plan crossed over"
    assert f"chosen from {len(pool)} scored for any target" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--targets", "0.5,0.3,0.5"), "targets are '0.5,0.3,0.5'; give one or more, and each"),
        (("--targets", "0.5, 0.50"), "give one or more, and each once"),
        (("--targets", ""), "targets are ''; give one or more"),
        (("--targets", ","), "targets are ','; give one or more"),
        (("--targets", "much"), "targets are 'much'; they must be numbers"),
        (("--targets", "0.5,2"), "target is 2; it must lie in (0, 1]"),
        (("--targets", "0.5,0.0001"), "target is 0.0001, but the lowest that can be reached"),
        (("--targets", "0.5,nan"), "nan"),
        (("--targets", "0.5", "--target", "0.3"), "one of --target, --target-synops and --targets"),
        (("--targets", "0.5", "--target-synops", "9"), "one of --target, --target-synops and"),
        (("--targets", "0.5,0.3", "--overwrite", "--resume"), "choose one of --overwrite and"),
    ],
)
def test_targets_that_cannot_be(
    spear: Spear, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert_one_error(spear(*RANDOM, *options, "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_a_single_target_is_a_front_too(spear: Spear, tmp_path: Path) -> None:
    run = (*RANDOM, "--budget", "3", "--targets", "0.8")
    ran = spear(*run, "--out", tmp_path / "run")
    assert ran.code == 0, ran
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "target-0.8", "front.json", "front.png",
    }  # fmt: skip
    assert "scored for any target" not in ran.out


def test_broken_when_any_is(spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fractions = {0.9: "kept", 0.3: "broken"}

    def outcome(_: Any, target: float, __: Any) -> str:
        return fractions[target]

    monkeypatch.setattr("spear_gym.agents.run_folder.SearchReport.outcome", outcome)
    run = (*RANDOM, "--budget", "4", "--targets", "0.9,0.3", "--out", tmp_path / "run")
    ran = spear(*run)
    assert ran.code == 3, ran
    points = read(tmp_path / "run" / "front.json")["points"]
    assert [point["outcome"] for point in points] == ["kept", "broken"]


# The folder.


def test_a_folder_that_exists(spear: Spear, front: Path, tmp_path: Path) -> None:
    for out in (front, front / "target-0.5"):
        before = {path: path.stat().st_mtime_ns for path in front.rglob("*")}
        ran = spear(*RANDOM, "--targets", "0.7,0.6", "--out", out)
        assert_one_error(ran, f"the output folder '{out}' exists; choose another with --out")
        assert {path: path.stat().st_mtime_ns for path in front.rglob("*")} == before
    single = spear(*RANDOM, "--target", "0.7", "--out", front)
    assert_one_error(single, "is no run folder (it holds searches for several targets)")


@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
def test_foreign_folders_are_left_alone(
    spear: Spear, front: Path, tmp_path: Path, flag: str
) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("years of work", encoding="utf-8")
    ran = spear(*TPE, "--out", thesis, flag)
    assert_one_error(ran, "holds no searches for several targets")
    assert [path.name for path in thesis.iterdir()] == ["thesis.tex"]
    # The run of one target is no front, and a front no run of one target.
    assert_one_error(spear(*TPE, "--out", front / "target-0.5", flag), "holds no searches for")
    assert_one_error(spear(*RANDOM, "--target", "0.5", "--out", front, flag), "is no run folder")
    assert {path.name for path in front.iterdir()} == FRONT


def test_overwrite_leaves_no_other_targets(spear: Spear, front: Path) -> None:
    run = (*RANDOM, "--budget", "3", "--targets", "0.8,0.7", "--out", front, "--overwrite")
    mistake = spear(*run, "--min-channels", "99")
    assert_one_error(mistake, "min_channels is 99")
    assert {path.name for path in front.iterdir()} == FRONT, "a mistake destroys nothing"
    assert spear(*run).code == 0
    left = {path.name for path in front.iterdir()}
    assert left == {"target-0.8", "target-0.7", "front.json", "front.png"}


def test_overwrite_leaves_what_is_not_ours(spear: Spear, front: Path) -> None:
    (front / "target-0.5" / "notes.txt").write_text("mine", encoding="utf-8")
    (front / "target-audience").mkdir()
    (front / "target-audience" / "notes.txt").write_text("mine", encoding="utf-8")
    ran = spear(*RANDOM, "--budget", "3", "--targets", "0.5", "--out", front, "--overwrite")
    assert ran.code == 0, ran
    assert {path.name for path in front.iterdir()} == {
        "target-0.5", "target-audience", "front.json", "front.png",
    }  # fmt: skip
    for folder in ("target-0.5", "target-audience"):
        assert (front / folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_targets_that_are_hardly_different_have_folders_of_their_own(
    spear: Spear, tmp_path: Path
) -> None:
    run = (*RANDOM, "--budget", "2", "--targets", "0.7,0.70000001", "--out", tmp_path / "run")
    ran = spear(*run)
    assert ran.code == 0, ran
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"target-0.7", "target-0.70000001", "front.json", "front.png"}
    assert read(tmp_path / "run" / "target-0.70000001" / "result.json")["target"] == 0.70000001


def test_evaluate_names_the_runs(spear: Spear, front: Path) -> None:
    ran = spear("evaluate", front)
    assert_one_error(
        ran, "holds several runs; choose one of them: target-0.2, target-0.3, target-0.5"
    )
    one = spear("evaluate", front / "target-0.3", "--workload", "toys:twin")
    assert one.code == 0, one
    assert "equal to the recorded row" in one.out


# Resuming.


def test_resume_of_a_finished_front_changes_nothing(
    spear: Spear, front: Path, made: tuple[Path, str]
) -> None:
    ran = spear(*TPE, "--out", front, "--resume")
    assert ran.code == 0, ran
    assert results(front) == results(made[0])
    assert (front / "front.json").read_bytes() == (made[0] / "front.json").read_bytes()


@pytest.mark.parametrize("evaluations", [5, 20, 40])
def test_a_disturbed_front_ends_as_an_undisturbed_one(
    spear: Spear,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: tuple[Path, str],
    evaluations: int,
) -> None:
    """Interrupted in the search for the first, the second or the last target."""
    real, asked = PlanEvaluator.evaluate, []

    def evaluate(self: PlanEvaluator, counts: Any) -> Any:
        asked.append(counts)
        if len(asked) == evaluations:
            raise KeyboardInterrupt
        return real(self, counts)

    folder = tmp_path / "front"
    with monkeypatch.context() as patch:
        patch.setattr(PlanEvaluator, "evaluate", evaluate)
        ran = spear(*TPE, "--out", folder)
    assert ran.code == 130, ran
    assert "continue with --resume" in ran.out
    assert not (folder / "front.json").exists()
    before = {name: ledger_rows(folder / name) for name in NAMES}
    assert 0 < sum(map(len, before.values())) < evaluations
    ran = spear(*TPE, "--out", folder, "--resume")
    assert ran.code == 0, ran
    assert results(folder) == results(made[0])
    assert (folder / "front.json").read_bytes() == (made[0] / "front.json").read_bytes()
    for name in NAMES:
        rows = ledger_rows(folder / name)
        assert rows[: len(before[name])] == before[name]
        assert len(rows) == 14, "nothing is paid twice"


def test_an_interrupt_while_finishing_is_resumed(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: tuple[Path, str]
) -> None:
    """After the first network was fine-tuned."""
    real, tuned = PlanEvaluator.finetune, []

    def finetune(self: PlanEvaluator, counts: Any, **options: Any) -> Any:
        tuned.append(counts)
        if len(tuned) == 2:
            raise KeyboardInterrupt
        return real(self, counts, **options)

    folder = tmp_path / "front"
    with monkeypatch.context() as patch:
        patch.setattr(PlanEvaluator, "finetune", finetune)
        assert spear(*TPE, "--out", folder).code == 130
    assert spear(*TPE, "--out", folder, "--resume").code == 0
    assert results(folder) == results(made[0])


def test_resume_of_other_searches(spear: Spear, front: Path) -> None:
    before = (front / "front.json").read_bytes()
    ran = spear(*TPE, "--seed", "2", "--out", front, "--resume")
    assert_one_error(ran, "target-0.5' is another search (different: seed)")
    assert (front / "front.json").read_bytes() == before
