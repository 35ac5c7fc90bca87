"""`spear evaluate`: the measured row again, and damaged or hostile runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import toys
from commands import Spear, assert_one_error, read, seal
from safetensors.torch import load_file, save_file
from searches import ENDED, replace, truncate

from spear_gym.evaluation import PlanEvaluator


def test_evaluate_reproduces_the_measured_row(spear: Spear, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ran = spear("evaluate", folder, "--workload", "toys:tiny")
    assert ran.code in ENDED, ran.err
    result = read(folder / "result.json")
    assert "equal to the recorded row" in ran.out
    assert f"{result['test']['accuracy']:.4f}" in ran.out
    assert f"{result['test']['synops']:,.0f}" in ran.out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


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
