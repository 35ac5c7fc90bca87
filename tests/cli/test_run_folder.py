"""`spear search`: its run folder, and which folders it leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import toys
from commands import Spear, assert_one_error, ledger_rows, read
from searches import ENDED, FILES, RANDOM, result_of

from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.keeping import load_network
from spear_gym.workload import measure


def test_search_leaves_a_run_folder(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FILES
    result, settings = read(finished / "result.json"), read(finished / "settings.json")
    assert (result["paid"], result["agent"], result["target"]) == (12, "random", 0.4)
    assert result["episodes"] >= 12
    assert result["simulator_runs"] <= 12
    assert settings["settings"]["workload"] == "toys:tiny"
    assert (settings["settings"]["seed"], settings["settings"]["budget"]) == (3, 12)
    assert set(settings["versions"]) >= {"python", "torch", "snntorch"}
    rows = ledger_rows(finished)
    assert len(rows) == len({tuple(row["counts"]) for row in rows}) == 12
    assert result["plan"] in [row["counts"] for row in rows]


def test_result_is_of_the_tuned_plan(finished: Path) -> None:
    """Chosen, fine-tuned and measured again without the pipeline."""
    workload, result = toys.tiny(), read(finished / "result.json")
    rows = ledger_rows(finished)
    feasible = [row for row in rows if min(row["synops_fraction"], 1.0) <= 0.4]
    assert feasible
    best = max(feasible, key=lambda row: (row["accuracy"], -row["synops"]))
    assert result["plan"] == best["counts"]
    assert result["scored"]["accuracy"] == best["accuracy"]
    tuned = PlanEvaluator(workload).finetune(best["counts"], seed=3)
    expected = measure(workload, tuned.model, "test")
    assert result["test"]["accuracy"] == expected.accuracy
    assert result["test"]["synops"] == expected.synops
    unpruned = measure(workload, workload.graph.model, "test")
    assert result["test_synops_fraction"] == expected.synops / unpruned.synops
    assert result["kept"] == (expected.synops / unpruned.synops <= 0.4)


def test_a_run_folder_gives_its_network_without_the_data(folder: Path) -> None:
    workload = toys.tiny()
    kept = load_network(folder, model=lambda: workload.graph.model)
    measured = measure(workload, kept, "test")
    result = read(folder / "result.json")
    assert result["test"]["synops"] == measured.synops
    assert result["test"]["accuracy"] == measured.accuracy
    (folder / "network.json").unlink()  # as versions before wrote folders
    again = load_network(folder, workload=workload)
    state = kept.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())


def test_table_shows_the_result(spear: Spear, tmp_path: Path) -> None:
    ran = spear("search", *RANDOM, "--out", tmp_path / "run", "--top", "2", "--budget", "5")
    assert ran.code in ENDED, ran.err
    result = read(tmp_path / "run" / "result.json")
    for text in (
        "unpruned (test)",
        "predicted (search)",
        "measured (test)",
        f"{result['test']['accuracy']:.4f}",
        f"{result['test']['synops']:,.0f}",
        f"{result['test']['parameters']:,}",
        "paid evaluations: 5",
        "plans fine-tuned: 2",
        "channels kept: conv1 ",
    ):
        assert text in ran.out, text
    kept = "target kept" if result["kept"] else "target broken"
    assert kept in ran.out
    assert result["tuned_plans"] == 2


def test_same_command_same_result(spear: Spear, finished: Path, tmp_path: Path) -> None:
    assert spear("search", *RANDOM, "--out", tmp_path / "run").code in ENDED
    assert result_of(tmp_path / "run") == result_of(finished)
    for name in ("plan.json", "settings.json", "network.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_absolute_target(spear: Spear, tmp_path: Path) -> None:
    unpruned = toys.tiny().reference("search").synops
    arguments = ("--workload", "toys:tiny", "--lre", "none", "--agent", "uniform", "--budget", "9")
    ran = spear("search", *arguments, "--target-synops", unpruned / 2, "--out", tmp_path / "run")
    assert ran.code in ENDED, ran.err
    assert read(tmp_path / "run" / "result.json")["target"] == pytest.approx(0.5)


def test_overwrite_removes_our_files_only(spear: Spear, folder: Path, tmp_path: Path) -> None:
    foreign = {"thesis.tex": "years of work", ".settings.json.swp": "an editor's", "a/b.txt": "b"}
    (folder / "a").mkdir()
    for name, text in foreign.items():
        (folder / name).write_text(text, encoding="utf-8")
    (tmp_path / "mine.png").write_text("mine", encoding="utf-8")
    (folder / "curve.png").unlink()
    (folder / "curve.png").symlink_to(tmp_path / "mine.png")
    ran = spear("search", *RANDOM, "--budget", "4", "--out", folder, "--overwrite")
    assert ran.code in ENDED, ran.err
    assert {path.name for path in folder.iterdir()} == FILES | {
        "thesis.tex", ".settings.json.swp", "a",
    }  # fmt: skip
    for name, text in foreign.items():
        assert (folder / name).read_text(encoding="utf-8") == text
    assert (tmp_path / "mine.png").read_text(encoding="utf-8") == "mine"
    assert read(folder / "result.json")["paid"] == 4
    assert len(ledger_rows(folder)) == 4


def test_output_folder_that_exists(spear: Spear, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ran = spear("search", *RANDOM, "--out", folder)
    assert_one_error(ran, f"the output folder '{folder}' exists")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_mistake_beside_overwrite_destroys_nothing(spear: Spear, folder: Path) -> None:
    ran = spear("search", *RANDOM, "--out", folder, "--overwrite", "--target", "0.0001")
    assert_one_error(ran, "the lowest that can be reached")
    assert {path.name for path in folder.iterdir()} == FILES


@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
def test_foreign_folders_are_left_alone(spear: Spear, tmp_path: Path, flag: str) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    ran = spear("search", *RANDOM, "--out", tmp_path, flag)
    assert_one_error(ran, "is no run folder")
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_overwrite_of_the_working_folder(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ("", "settings.json"):
        if content:
            Path(content).write_text('{"editor.tabSize": 4}', encoding="utf-8")
        for flag in ("--overwrite", "--resume"):
            ran = spear("search", *RANDOM, "--out", ".", flag)
            assert_one_error(ran, "'.' is the working folder and holds no run")
            assert os.listdir() == ([content] if content else [])  # noqa: PTH208


def test_output_folder_that_cannot_be_written(spear: Spear, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert_one_error(
            spear("search", *RANDOM, "--out", out), "cannot write to the output folder"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(spear: Spear, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_one_error(spear("search", *RANDOM, "--out", tmp_path / "run"), "is not writable")
