"""rl-baselines3-zoo: its training script, with settings of its own and with ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rl_zoo3", reason="rl-baselines3-zoo is not installed")

import spear_gym.agents

OURS = Path(spear_gym.agents.__file__).parent / "hyperparameters"

PPO = """\
SpearPrune-Digits-v0:
  n_timesteps: 32
  policy: MlpPolicy
  n_steps: 8
  batch_size: 8
  n_envs: 2
  normalize: true
"""


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["its own", "ours"])
def test_training_script(tmp_path: Path, settings: str) -> None:
    algorithm, name, steps = "ddpg", "SpearPrune-v0", 80
    file = OURS / "ddpg.yml"
    if settings == "its own":
        algorithm, name, steps = "ppo", "SpearPrune-Digits-v0", 32
        file = tmp_path / "ppo.yml"
        file.write_text(PPO, encoding="utf-8")
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", algorithm, "--env", name]
    command += ["--gym-packages", "spear_gym", "-n", str(steps), "-conf", str(file)]
    command += ["-f", "logs", "--eval-freq", "-1", "--env-kwargs", "lre:'none'"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "logs" / algorithm / f"{name}_1" / f"{name}.zip").is_file()
