"""The command line: results that can be repeated, and one clear line for each mistake."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from commands import Spear, assert_one_error, ledger_rows, read, seal
from safetensors.torch import load_file, save_file

from spear_gym.agents import AGENTS
from spear_gym.cli import main
from spear_gym.envs_registry import ENTRIES
from spear_gym.envs_registry.fits import stored_lre
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import load_estimator
from spear_gym.lre.fit import Stopping, fit_lre
from spear_gym.pruning.keeping import load_network
from spear_gym.training import Recipe
from spear_gym.workload import measure

FILES = {
    "curve.png",
    "ledger.log",
    "network.json",
    "network.safetensors",
    "plan.json",
    "plan.png",
    "result.json",
    "settings.json",
}
ENDED = (0, 3)
"""Exit status of a search that ended; 3 when the target is broken on a toy's few test images."""

TINY = ("--workload", "toys:tiny", "--lre", "none", "--no-repair", "--target", "0.4")
RANDOM = (*TINY, "--agent", "random", "--budget", "12", "--seed", "3")

BROKEN = """
import torch
from torch import nn
import snntorch as snn
from spear_gym import Workload

class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = middle
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)
        self.fc = nn.Linear(4 * 64, 3)
    def forward(self, x):
        return self.fc(self.lif(self.middle(self.conv(x))).flatten(1))

class Shallow(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 3)
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)
    def forward(self, x):
        return self.lif(self.fc(x.flatten(1)))

class Branching(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 3 else 2 * x)

X, Y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])

def make(model=None, x=X, y=Y):
    data = (x, y)
    return Workload(model=model or Net(nn.Identity()), train=data, search=data, test=data,
                    num_steps=2)

def unknown_module(): return make(Net(nn.Softshrink()))
def shallow(): return make(Shallow())
def branching(): return make(Branching(nn.Identity()))
def nan_data(): return make(x=X / 0 * 0)
def wrong_rank(): return make(x=X[0, 0, 0])
def wrong_channels(): return make(x=X.repeat(1, 3, 1, 1))
def wrong_labels(): return make(y=Y + 1)
def empty(): return make(x=X[:0], y=Y[:0])
def nothing(): return 3
NOT_A_FUNCTION = 3
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search; tests copy it before they touch it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spear", "search", *RANDOM, "--out", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in ENDED
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def result_of(folder: Path) -> dict[str, Any]:
    """The result without what a clock says and what depends on when it was interrupted."""
    result = read(folder / "result.json")
    statistics = result.pop("statistics")
    assert set(result.pop("sha256")) == FILES - {
        "ledger.log",
        "network.json",
        "curve.png",
        "plan.png",
    }
    assert not any("PyTorch" in way for way in statistics)
    assert set(result.pop("seconds")) == {"search", "finetune", "test"}
    return result


# A search and its folder.


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


# Evaluating a run.


def test_evaluate_reproduces_the_measured_row(spear: Spear, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ran = spear("evaluate", folder, "--workload", "toys:tiny")
    assert ran.code in ENDED, ran.err
    result = read(folder / "result.json")
    assert "equal to the recorded row" in ran.out
    assert f"{result['test']['accuracy']:.4f}" in ran.out
    assert f"{result['test']['synops']:,.0f}" in ran.out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_folder_gives_its_network_without_the_data(folder: Path) -> None:
    workload = toys.tiny()
    kept = load_network(folder, model=lambda: workload.graph.model)
    measured = measure(workload, kept, "test")
    result = json.loads((folder / "result.json").read_text())
    assert result["test"]["synops"] == measured.synops
    assert result["test"]["accuracy"] == measured.accuracy
    (folder / "network.json").unlink()  # as versions before wrote folders
    again = load_network(folder, workload=workload)
    state = kept.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())


def test_evaluate_sees_another_network(spear: Spear, folder: Path) -> None:
    tensors = load_file(folder / "network.safetensors")
    tensors["conv2.weight"] = -tensors["conv2.weight"]
    save_file(tensors, folder / "network.safetensors")
    ran = spear("evaluate", folder, "--workload", "toys:tiny")
    assert_one_error(ran, "network.safetensors' was changed since the run ended")
    seal(folder)
    ran = spear("evaluate", folder, "--workload", "toys:tiny")
    assert ran.code == 1
    assert "the recorded row differs" in ran.err


HOSTILE = """
from pathlib import Path
Path("ran").touch()
from toys import tiny
"""


def test_evaluate_runs_no_code_that_a_file_names(
    spear: Spear, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module beside the run, which its settings name; the working folder is not searched."""
    (tmp_path / "hostile_module.py").write_text(HOSTILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = read(folder / "settings.json")
    settings["settings"]["workload"] = "hostile_module:tiny"
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    before = list(sys.path)
    ran = spear("evaluate", folder)
    assert_one_error(ran, f"repeat it: spear evaluate {folder} --workload hostile_module:tiny")
    assert (sys.path, "hostile_module" in sys.modules) == (before, False)
    assert not Path("ran").exists()
    seal(folder)
    trusted = spear("evaluate", folder, "--workload", "hostile_module:tiny")
    assert trusted.code == 0, trusted.err
    assert Path("ran").exists()
    sys.modules.pop("hostile_module")


@pytest.mark.parametrize("name", ["os:getcwd", ":", "a:", ":b", "../mine:make", "toys:tiny:x"])
def test_names_of_code_in_settings_are_refused(spear: Spear, folder: Path, name: str) -> None:
    settings = read(folder / "settings.json")
    settings["settings"] |= {"workload": name, "agent": "os:abort", "lre": "/dev/zero"}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    assert_one_error(spear("evaluate", folder), "no code is run because a file names it")


def damage_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)


def damage_unfinished(folder: Path) -> None:
    (folder / "result.json").unlink()


def truncate(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    damage.__name__ = f"{name}-{share}"
    return damage


def replace(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    damage.__name__ = f"{name}-{content[:20]}"
    return damage


def damage_foreign_plan(folder: Path) -> None:
    plan = PlanEvaluator(toys.toy()).space.plan((3, 3))
    (folder / "plan.json").write_text(json.dumps(plan.to_json()), encoding="utf-8")


def damage_other_plan(folder: Path) -> None:
    plan = PlanEvaluator(toys.tiny()).space.plan((1, 1, 1))
    (folder / "plan.json").write_text(json.dumps(plan.to_json()), encoding="utf-8")


def damage_nan_weights(folder: Path) -> None:
    tensors = load_file(folder / "network.safetensors")
    tensors["conv1.weight"][0] = float("nan")
    save_file(tensors, folder / "network.safetensors")


def damage_foreign_weights(folder: Path) -> None:
    save_file(dict(toys.toy().graph.model.state_dict()), folder / "network.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing_there, "settings.json"),
        (damage_unfinished, "has not finished; continue it with --resume"),
        (truncate("settings.json", 0.5), "settings.json"),
        (truncate("settings.json", 0), "settings.json"),
        (truncate("result.json", 0.9), "result.json"),
        (truncate("plan.json", 0.5), "plan"),
        (truncate("network.safetensors", 0.5), "is no safetensors file, or is damaged"),
        (truncate("network.safetensors", 0), "is no safetensors file, or is damaged"),
        (replace("network.safetensors", "foreign"), "is no safetensors file, or is damaged"),
        (replace("plan.json", '{"a": 1}'), "this is no plan"),
        (replace("plan.json", '{"format": "spear-gym plan 1"}'), "the plan is damaged"),
        (replace("settings.json", "[1, 2]"), "settings.json' is damaged"),
        (replace("settings.json", '{"settings": {"speed": 1}}'), "settings.json' is damaged"),
        (replace("result.json", '{"format": "other"}'), "no result of spear-gym"),
        (replace("result.json", '{"format": "spear-gym result 1"}'), "result.json' is damaged"),
        (damage_foreign_plan, "the plan is for groups"),
        (
            damage_other_plan,
            "network.safetensors' has float32",
        ),
        (damage_foreign_weights, "network.safetensors' has float32 (12,) for 'bn1.bias', not"),
        (damage_nan_weights, "holds NaN or infinite weights"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_runs(
    spear: Spear, folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    if all((folder / name).is_file() for name in ("result.json", "plan.json")):
        before = spear("evaluate", folder, "--workload", "toys:tiny")
        assert (before.code, "Traceback" in before.err) == (2, False)
        with suppress(ValueError):
            seal(folder)
    assert_one_error(spear("evaluate", folder, "--workload", "toys:tiny"), message)


def test_agents_are_listed_and_take_settings(spear: Spear, tmp_path: Path) -> None:
    listed = [line.split(maxsplit=1) for line in spear("agents").out.splitlines()]
    assert [name for name, _ in listed] == list(AGENTS)
    said = dict(listed)
    assert "not the paper's" in said["spear-ddpg"]
    assert "no regrowth" in said["sca"]
    assert said["sac"] == "SAC of Stable-Baselines3, settings tuned on digits at 0.3"
    assert said["tqc-default"] == "TQC of sb3-contrib, settings its library's"
    settings = ("train_freq=5", "learning_rate=1e-3", "policy_kwargs={net_arch: [8]}")
    options = [part for setting in settings for part in ("--agent-setting", setting)]
    out = tmp_path / "run"
    arguments = [*RANDOM[: RANDOM.index("--agent")], *RANDOM[RANDOM.index("--agent") + 2 :]]
    ran = spear("search", *arguments, "--agent", "sac-default", *options, "--out", out)
    assert ran.code in ENDED, ran.err
    stored = json.loads((out / "settings.json").read_text())["settings"]
    assert stored["agent_settings"] == {
        "train_freq": 5,
        "learning_rate": 0.001,
        "policy_kwargs": {"net_arch": [8]},
    }
    other = spear("search", *arguments, "--agent", "sac-default", "--out", out, "--resume")
    assert_one_error(other, "agent_settings")


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


# Bad input to a search: one line, before any work.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "digit"), "unknown workload 'digit'; did you mean 'digits'"),
        (("--workload", "toys:nothing"), "cannot import the workload 'toys:nothing'"),
        (("--workload", "no_such_module:f"), "cannot import the workload 'no_such_module:f'"),
        (("--workload", ":f"), "cannot import the workload ':f'"),
        (("--workload", "toys:STEPS"), "is no function that returns a Workload"),
        (("--agent", "spear-dpg"), "unknown agent 'spear-dpg'; did you mean 'spear-ddpg'"),
        (("--reward", "tarr"), "unknown reward 'tarr'; did you mean 'tar'"),
        (("--agent", "spear-ddgp"), "did you mean 'spear-ddpg'"),
        (("--agent", "nowhere:Agent"), "cannot import the agent 'nowhere:Agent'"),
        (("--agent-setting", "lr=3"), "agent 'random' has no settings; it is given 'lr'"),
        (("--agent-setting", "hidden"), "'hidden' is not of the form name=value"),
        (("--agent-setting", "hidden=[1"), "'hidden=[1' is not of the form name=value"),
        (("--reward-setting", "lamb=3"), "unknown setting of reward 'tar' 'lamb'"),
        (("--reward-setting", "lam"), "'lam' is not of the form name=number"),
        (("--reward-setting", "lam=-1"), "lam is -1"),
        (("--criterion", "l2"), "unknown criterion 'l2'; did you mean 'l1'"),
        (("--scoring", "plan"), "unknown scoring 'plan'; did you mean 'plain'"),
        (("--target", "0"), "target is 0; it must lie in (0, 1]"),
        (("--target", "1.5"), "target is 1.5; it must lie in (0, 1]"),
        (("--target", "nan"), "target is nan"),
        (("--target", "0.0001"), "the lowest that can be reached is 0.0"),
        (("--target-synops", "100"), "either target (a fraction) or target_synops"),
        (("--budget", "0"), "budget is 0"),
        (("--top", "0"), "top is 0"),
        (("--threads", "0"), "threads is 0"),
        (("--min-channels", "99"), "min_channels is 99; it must lie in 1..6"),
        (("--channel-multiple", "0"), "channel_multiple is 0"),
        (("--max-ratio", "1.5"), "max_ratio is 1.5"),
        (("--lre", "missing.json"), "cannot read an LRE fit from 'missing.json'"),
        (("--overwrite", "--resume"), "choose one of --overwrite and --resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments(
    spear: Spear, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "run"
    assert_one_error(spear("search", *RANDOM, "--out", out, *arguments), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("unknown_module", "Softshrink"),
        ("shallow", "no prunable layer"),
        ("branching", ""),
        ("nan_data", "NaN or infinite"),
        ("wrong_rank", "axes"),
        ("wrong_channels", "channel"),
        ("wrong_labels", "label 3"),
        ("empty", "split is empty"),
        ("nothing", "gives a int, not a Workload"),
        ("NOT_A_FUNCTION", "is no function"),
    ],
)
def test_bad_networks_and_data(
    spear: Spear,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    message: str,
) -> None:
    (tmp_path / "broken_workloads.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_workloads", raising=False)
    arguments = ("--lre", "none", "--agent", "random", "--out", "run")
    ran = spear("search", "--workload", f"broken_workloads:{function}", *arguments)
    sys.modules.pop("broken_workloads", None)
    assert_one_error(ran, message)
    assert not Path("run").exists()


def test_messages_are_not_taken_for_markup(spear: Spear, tmp_path: Path) -> None:
    ran = spear("search", *TINY[:2], "--lre", tmp_path / "[bold]fit[/nonsense].json")
    assert_one_error(ran, "[bold]fit[/nonsense].json")


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


def test_resume_of_nothing_pays_nothing(spear: Spear, folder: Path) -> None:
    mistyped = folder.with_name("rum")
    ran = spear("search", *RANDOM, "--out", mistyped, "--resume")
    assert_one_error(ran, f"no run in '{mistyped}' to continue (did you mean '{folder}'?)")
    assert not mistyped.exists()


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


# Resuming.


def test_resume_of_a_finished_run_changes_nothing(spear: Spear, folder: Path) -> None:
    before, rows = result_of(folder), ledger_rows(folder)
    ran = spear("search", *RANDOM, "--out", folder, "--resume")
    assert ran.code in ENDED, ran.err
    assert result_of(folder) == before
    assert ledger_rows(folder) == rows


@pytest.mark.parametrize(
    ("agent", "budget"),
    [
        ("random", 8),
        ("gates", 40),
        ("network-slimming", 40),
        pytest.param("spear-ddpg", 8, marks=pytest.mark.slow),
    ],
)
def test_resume_after_rows_were_lost(spear: Spear, tmp_path: Path, agent: str, budget: int) -> None:
    """The journal ends in the middle of a row, as after a crash of the machine."""
    folder = tmp_path / "run"
    run = ("search", *TINY, "--agent", agent, "--budget", str(budget), "--out", folder)
    assert spear(*run).code in ENDED
    before, rows = result_of(folder), ledger_rows(folder)
    path = folder / "ledger.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]) + lines[-4][:50])
    (folder / "result.json").unlink()
    assert 0 < len(ledger_rows(folder)) < len(rows)
    ran = spear(*run, "--resume")
    assert ran.code in ENDED, ran.err
    assert result_of(folder) == before
    assert [row["counts"] for row in ledger_rows(folder)] == [row["counts"] for row in rows]
    assert len({tuple(row["counts"]) for row in rows}) == len(rows) == before["paid"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("--seed", "4"), "seed"),
        (("--agent", "uniform"), "agent"),
        (("--target", "0.5"), "target"),
        (("--budget", "13"), "budget"),
        (("--scoring", "plain"), "fingerprint.scoring, scoring"),
        (("--workload", "toys:toy"), "fingerprint.workload, workload"),
    ],
)
def test_resume_of_another_search(
    spear: Spear, folder: Path, changes: tuple[str, str], named: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ran = spear("search", *RANDOM, *changes, "--out", folder, "--resume")
    assert_one_error(ran, f"is another search (different: {named})")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate("settings.json", 0.5), "settings.json"),
        (replace("settings.json", "[]"), "its settings.json is damaged, or of something else"),
        (replace("ledger.log", "foreign\n"), "is no ledger"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_resume_of_a_damaged_run(
    spear: Spear, folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    assert_one_error(spear("search", *RANDOM, "--out", folder, "--resume"), message)


def test_resume_that_diverges(spear: Spear, folder: Path) -> None:
    """A row that this agent does not ask for next."""
    path = folder / "ledger.log"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [i for i, line in enumerate(lines) if '"evaluation"' in line]
    lines[rows[2]], lines[rows[3]] = lines[rows[3]], lines[rows[2]]
    path.write_text("".join(lines), encoding="utf-8")
    ran = spear("search", *RANDOM, "--out", folder, "--resume")
    assert_one_error(ran, "the resumed search diverged at evaluation 3")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_disturbed_run_ends_as_an_undisturbed_one(
    spear: Spear, tmp_path: Path, ending: signal.Signals
) -> None:
    budget = 250
    arguments = ("search", *TINY, "--agent", "random", "--budget", budget)
    folder, whole = tmp_path / "disturbed", tmp_path / "whole"
    command = [sys.executable, "-c", "from spear_gym.cli import main; main()"]
    process = subprocess.Popen(
        [*command, *map(str, arguments), "--out", str(folder)],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parent / "helpers"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and len(ledger_rows(folder)) < 8:
            time.sleep(0.01)
        process.send_signal(ending)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    before = ledger_rows(folder)
    assert 8 <= len(before) < budget, err
    assert not (folder / "result.json").exists()
    if ending is signal.SIGINT:
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert f"the best plan so far is in {folder / 'plan.json'}" in out
        assert "--resume" in out
        feasible = [row for row in before if min(row["synops_fraction"], 1.0) <= 0.4]
        best = max(feasible, key=lambda row: (row["accuracy"], -row["synops"]))
        plan = read(folder / "plan.json")
        assert [len(group["kept"]) for group in plan["groups"]] == best["counts"]
    else:
        assert process.returncode == -signal.SIGKILL

    resumed = spear(*arguments, "--out", folder, "--resume")
    assert resumed.code in ENDED, resumed.err
    assert spear(*arguments, "--out", whole).code in ENDED
    assert result_of(folder) == result_of(whole)
    for name in ("plan.json", "settings.json", "network.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    rows = ledger_rows(folder)
    assert rows[: len(before)] == before
    assert len(rows) == len({tuple(row["counts"]) for row in rows}) == len(ledger_rows(whole))
    assert [row["counts"] for row in rows] == [row["counts"] for row in ledger_rows(whole)]


def test_interrupt_while_fine_tuning(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(PlanEvaluator, "finetune", interrupted)
        ran = spear("search", *RANDOM, "--out", folder)
    assert ran.code == 130
    assert f"the best plan so far is in {folder / 'plan.json'}" in ran.out
    assert spear("search", *RANDOM, "--out", folder, "--resume").code in ENDED


# The other commands.


def test_lists_the_workloads(spear: Spear) -> None:
    ran = spear("workloads")
    assert ran.code in ENDED
    assert all(name in ran.out for name in ENTRIES)


def test_pretrain_is_exact(spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = dataclasses.replace(ENTRIES["digits"], pretrain=Recipe(epochs=1, batch_size=250))
    monkeypatch.setitem(ENTRIES, "digits", short)
    paths = [tmp_path / "one.safetensors", tmp_path / "deep" / "two.safetensors"]
    for path in paths:
        ran = spear("pretrain", "digits", "--out", path)
        assert ran.code in ENDED, ran.err
        assert "search accuracy" in ran.out
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert short.load(paths[0]).reference("search").synops > 0


def test_pretrain_mistakes(spear: Spear, tmp_path: Path) -> None:
    assert_one_error(spear("pretrain", "digit"), "unknown workload 'digit'; did you mean 'digits'")
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "weights.safetensors"
    assert_one_error(spear("pretrain", "digits", "--out", out), "cannot write")
    assert_one_error(spear("pretrain", "digits", "--out", tmp_path), "is a folder")


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


@pytest.mark.slow
def test_score_study(spear: Spear, tmp_path: Path) -> None:
    ran = spear(
        "score-study", "toys:toy", "--plans", "4", "--fraction", "0.4", "--workers", "1",
        "--out", tmp_path,
    )  # fmt: skip
    assert ran.code in ENDED, ran.err
    study = read(tmp_path / "toys-toy.json")
    assert (tmp_path / "toys-toy.png").read_bytes()[:4] == b"\x89PNG"
    assert {row["scoring"] for row in study["validity"]} == {"plain", "recalibrated", "refit"}
    assert all(-1 <= row["low"] <= row["spearman"] <= row["high"] <= 1 for row in study["validity"])
    near = [p for p in study["plans"] if p["group"] == "fixed" and p["scoring"] == "recalibrated"]
    assert len(near) == 4
    assert all(abs(p["synops_fraction"] / 0.4 - 1) <= 0.1 for p in near)
