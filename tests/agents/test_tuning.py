"""Tuning: the library's settings first, resumed, written in a form that is read back."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import toys
import yaml

from spear_gym.agents import AgentError, run_search
from spear_gym.agents.algorithms import ALGORITHMS, ENVIRONMENT
from spear_gym.agents.compare.cells import Bench, CompareSettings
from spear_gym.agents.sb3 import named_agent
from spear_gym.agents.tuning import FIRST_SEED, SPACES, TuningSettings, check, tune
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.record.mending import repair
from spear_gym.record.storage import LedgerError
from spear_gym.reward import TargetAwareReward

ASKED = TuningSettings("a2c", "tiny", (0.4, 0.5), trials=3, seeds=2, budget=8)


def parts(tmp_path: Path) -> tuple[dict[float, Judge], Bench]:
    bench = Bench(CompareSettings(("tiny",), ("a2c",), (0.4,)), {"tiny": toys.tiny()}, tmp_path)
    evaluator = bench.evaluator("tiny")
    return {
        target: make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=target)
        for target in ASKED.targets
    }, bench


def test_tuning_by_hand_and_resumed(tmp_path: Path) -> None:
    judges, bench = parts(tmp_path)
    values: list[float] = []
    tune(TuningSettings(**{**vars_of(ASKED), "trials": 1}), judges, bench, tmp_path)
    found = tune(ASKED, judges, bench, tmp_path, on_trial=values.append)
    assert len(values) == 2, "the first trial was there already"
    record = json.loads((tmp_path / "a2c.tuning.json").read_text())
    assert record["values"][1:] == values
    assert record["value"] == max(record["values"])
    assert record["value_of_library_settings"] == record["values"][0]
    assert record["evaluations"] == 3 * 2 * 2 * 8
    stored = yaml.safe_load((tmp_path / "a2c.yml").read_text())[ENVIRONMENT]
    assert stored == found
    assert stored["policy"] == ALGORITHMS["a2c"].policy
    assert stored["n_timesteps"] == 8 * 3
    # The value of the first trial, worked out by hand.
    areas = []
    for target, judge in judges.items():
        for seed in (FIRST_SEED, FIRST_SEED + 1):
            agent = named_agent("a2c", tuned=False)
            result = run_search(agent, PlanEvaluator(toys.tiny()), judge, budget=8, seed=seed)
            best, heights = 0.0, []
            for candidate in result.candidates:
                if candidate.predicted_fraction <= target:
                    best = max(best, candidate.accuracy)
                heights.append(best)
            areas.append(sum(heights) / 8)
    assert record["value_of_library_settings"] == pytest.approx(sum(areas) / 4)
    other = TuningSettings(**{**vars_of(ASKED), "budget": 9})
    with pytest.raises(AgentError, match="holds a tuning with other settings"):
        tune(other, judges, bench, tmp_path)


def test_tuning_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it wrote a row: the row is cut off, and the lock, a link that leads nowhere, stays."""
    monkeypatch.setattr("spear_gym.record.journal.LOCK_SECONDS", 0.2)
    judges, bench = parts(tmp_path)
    judges = {0.4: judges[0.4]}
    asked = TuningSettings("a2c", "tiny", (0.4,), trials=1, seeds=1, budget=4)
    tune(asked, judges, bench, tmp_path)
    path = tmp_path / "trials.log"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 40])
    (tmp_path / "trials.log.lock").symlink_to("runs/tune-a2c/trials.log")
    values: list[float] = []
    tune(TuningSettings(**{**vars_of(asked), "trials": 2}), judges, bench, tmp_path)
    record = json.loads((tmp_path / "a2c.tuning.json").read_text())
    assert len(record["values"]) == 2
    assert record["value_of_library_settings"] == record["values"][0]
    # A line in the middle: said, and mended.
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\0" * 50 + b"\n", *lines[3:]]))
    with pytest.raises(LedgerError, match=r"line 4 of the ledger .* holds 50 zero bytes"):
        tune(asked, judges, bench, tmp_path)
    repair(path)
    tune(asked, judges, bench, tmp_path, on_trial=values.append)
    assert values == []
    assert json.loads((tmp_path / "a2c.tuning.json").read_text())["values"] == record["values"]


def vars_of(settings: TuningSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


@pytest.mark.parametrize("name", SPACES)
def test_whatever_is_tried_is_accepted(name: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        tried = SPACES[name](study.ask())
        assert named_agent(name, tuned=False, **tried).settings == tried
    assert set(SPACES) == set(ALGORITHMS)


def test_bad_input() -> None:
    with pytest.raises(AgentError, match="unknown algorithm to tune 'dpg'; did you mean 'ddpg'"):
        check(TuningSettings("dpg"))
    with pytest.raises(AgentError, match="trials is 0"):
        check(TuningSettings("ddpg", trials=0))
    with pytest.raises(AgentError, match="at least one target"):
        check(TuningSettings("ddpg", targets=()))
