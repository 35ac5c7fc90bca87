"""`spear agents`, and settings of agents."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Spear, assert_one_error
from searches import ENDED, RANDOM

from spear_gym.agents import AGENTS


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
