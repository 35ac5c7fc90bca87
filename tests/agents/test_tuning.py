"""Tuning: the library's settings first, resumed, written in a form that is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import toys
import yaml

from spear_gym.agents import AgentError, run_search
from spear_gym.agents.algorithms import ALGORITHMS, ENVIRONMENT
from spear_gym.agents.sb3 import named_agent
from spear_gym.agents.tuning import FIRST_SEED, SPACES, TRIALS, TuningSettings, check_tuning, tune
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.record.mending import repair
from spear_gym.record.storage import LedgerError, open_storage, open_study
from spear_gym.reward import TargetAwareReward
from spear_gym.settings import Goal

ASKED = TuningSettings(
    "a2c", "tiny", (0.4, 0.5), trials=3, seeds=2, budget=8, goal=Goal(lre="none")
)


@pytest.fixture
def evaluator() -> PlanEvaluator:
    return PlanEvaluator(toys.tiny())


def test_tuning_by_hand_and_resumed(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    values: list[float] = []
    tune(replace(ASKED, trials=1), evaluator, tmp_path)
    found = tune(ASKED, evaluator, tmp_path, on_trial=values.append)
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
    for target in ASKED.targets:
        judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=target)
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
    other = replace(ASKED, budget=9)
    with pytest.raises(AgentError, match="holds a tuning with other settings"):
        tune(other, evaluator, tmp_path)


def test_tuning_that_was_killed(
    tmp_path: Path, evaluator: PlanEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it wrote a row: the row is cut off, and the lock, a link that leads nowhere, stays."""
    monkeypatch.setattr("spear_gym.record.journal.LOCK_SECONDS", 0.2)
    asked = replace(ASKED, targets=(0.4,), trials=1, seeds=1, budget=4)
    tune(asked, evaluator, tmp_path)
    path = tmp_path / "trials.log"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 40])
    (tmp_path / "trials.log.lock").symlink_to("runs/tune-a2c/trials.log")
    values: list[float] = []
    tune(replace(asked, trials=2), evaluator, tmp_path)
    record = json.loads((tmp_path / "a2c.tuning.json").read_text())
    assert len(record["values"]) == 2
    assert record["value_of_library_settings"] == record["values"][0]
    # A line in the middle: said, and mended.
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\0" * 50 + b"\n", *lines[3:]]))
    with pytest.raises(LedgerError, match=r"line 4 of the ledger .* holds 50 zero bytes"):
        tune(asked, evaluator, tmp_path)
    repair(path)
    tune(asked, evaluator, tmp_path, on_trial=values.append)
    assert values == []
    assert json.loads((tmp_path / "a2c.tuning.json").read_text())["values"] == record["values"]


def test_a_tuning_of_an_earlier_version_goes_on(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    """It does not say how its plans were scored; one that does is not mixed with another."""
    asked = replace(ASKED, targets=(0.4,), trials=1, seeds=1, budget=4)
    study = open_study(open_storage(tmp_path / TRIALS), "tune a2c")
    study.set_user_attr(
        "settings",
        {
            "algorithm": "a2c", "workload": "tiny", "targets": [0.4], "trials": None, "seeds": 1,
            "budget": 4, "seed": 0,
        },
    )  # fmt: skip
    tune(asked, evaluator, tmp_path)
    tune(asked, evaluator, tmp_path / "new")
    other = replace(asked, goal=Goal(lre="none", reward="hard"))
    with pytest.raises(AgentError, match="holds a tuning with other settings"):
        tune(other, evaluator, tmp_path / "new")


@pytest.mark.parametrize("name", SPACES)
def test_whatever_is_tried_is_accepted(name: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        tried = SPACES[name](study.ask())
        assert named_agent(name, tuned=False, **tried).settings == tried
    assert set(SPACES) == set(ALGORITHMS)


def test_bad_input() -> None:
    with pytest.raises(AgentError, match="unknown algorithm to tune 'dpg'; did you mean 'ddpg'"):
        check_tuning(TuningSettings("dpg"))
    with pytest.raises(AgentError, match="trials is 0"):
        check_tuning(TuningSettings("ddpg", trials=0))
    with pytest.raises(AgentError, match="at least one target"):
        check_tuning(TuningSettings("ddpg", targets=()))
