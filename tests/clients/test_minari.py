"""Minari: episodes with all their infos become a data set that makes its environment again."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

minari = pytest.importorskip("minari", reason="Minari is not installed")
pytest.importorskip("h5py", reason="Minari's default storage needs h5py")

import spear_gym  # noqa: F401 - registers


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_data_collector_records_infos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = gym.make("SpearPrune-Digits-v0", lre="none", hidden_features=("target",))
    env = minari.DataCollector(made, record_infos=True)
    rewards = []
    for episode in range(3):
        env.reset(seed=episode)
        for _ in range(4):
            _, reward, *_ = env.step(env.action_space.sample())
        rewards.append(reward)
    env.create_dataset(
        dataset_id="spear/digits-v0",
        algorithm_name="random",
        author="spear-gym",
        author_email="nobody@example.org",
        code_permalink="https://example.org",
        description="random plans",
    )
    data = minari.load_dataset("spear/digits-v0")
    assert (data.total_episodes, data.total_steps) == (3, 12)
    assert [episode.rewards[-1] for episode in data] == rewards
    for episode in data:
        assert episode.infos["plan"].shape == (5, 4)
        assert (episode.infos["accuracy"] >= 0).tolist() == [False] * 4 + [True]
    again = data.recover_environment()
    assert again.spec == made.spec
    assert again.spec.max_episode_steps == 5
    assert np.array_equal(again.reset(seed=0)[0], made.reset(seed=0)[0])
