"""A workload on another device than the CPU: the same figures, and no tensor in the wrong place.

No GPU is needed: `elsewhere` stands in for one. That its arithmetic is the CPU's, too, a GPU's is
not, so the figures of a GPU may differ by a spike.
"""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere, OtherDevice

import spear_gym  # noqa: F401 - registers
from spear_gym.agents import make_agent, run_search
from spear_gym.agents.repair import repair
from spear_gym.device import exact_products
from spear_gym.env.vector import SpearPruneVectorEnv
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import make_reward
from spear_gym.simulation.simulate import SCORINGS, Scoring
from spear_gym.workload import Workload, WorkloadError


@pytest.fixture
def device() -> Iterator[torch.device]:
    with OtherDevice():
        yield DEVICE


@pytest.fixture
def moved(tiny: Workload, device: torch.device) -> Workload:
    return tiny.to(device)


def test_the_stand_in_refuses_what_a_gpu_refuses(device: torch.device) -> None:
    there = torch.ones(3, 4).to(device)
    assert isinstance(there + 1, Elsewhere)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3, 4)
    with pytest.raises(RuntimeError):
        there.numpy()
    assert there.cpu().tolist() == [[1.0] * 4] * 3


def test_everything_is_moved_and_the_original_stays(tiny: Workload, moved: Workload) -> None:
    assert moved.device == DEVICE
    assert tiny.device.type == "cpu"
    held = [*moved.graph.model.state_dict().values(), moved.calibration.inputs]
    held += [t for split in moved.splits.named().values() for t in (split.inputs, split.labels)]
    assert all(tensor.device == DEVICE for tensor in held)
    assert all(t.device.type == "cpu" for t in tiny.graph.model.state_dict().values())
    assert moved.fingerprint() == tiny.fingerprint()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_scores_and_fine_tuning(tiny: Workload, moved: Workload, scoring: Scoring) -> None:
    here, there = (PlanEvaluator(each, scoring=scoring) for each in (tiny, moved))
    counts = here.space.counts([0.4] * len(here.space))
    one, other = here.evaluate(counts), there.evaluate(counts)
    assert other.layer_synops == one.layer_synops
    assert other.accuracy == one.accuracy
    assert "neuron update: PyTorch, because it runs on meta" in there.statistics
    trained, also = here.finetune(counts), there.finetune(counts)
    assert all(t.device == DEVICE for t in also.model.state_dict().values())
    assert also.search.accuracy == pytest.approx(trained.search.accuracy, abs=0.02)
    assert also.search.synops == pytest.approx(trained.search.synops, rel=0.02)


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_rankings(tiny: Workload, moved: Workload, criterion: str) -> None:
    here, there = (PlanEvaluator(each, criterion=criterion) for each in (tiny, moved))
    assert here.space.rankings == there.space.rankings


def test_episodes_walk_side_by_side(tiny: Workload, moved: Workload) -> None:
    env = SpearPruneVectorEnv(3, side_by_side=True, workload=moved, target=0.5, lre="none")
    single = SpearPruneVectorEnv(3, workload=tiny, target=0.5, lre="none")
    env.reset(seed=0), single.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2 * (len(env.evaluator.space) + 1)):
        action = rng.uniform(0.0, 0.9, (3, 1)).astype(np.float32)
        np.testing.assert_allclose(env.step(action)[1], single.step(action)[1], atol=0.02)
    side = [way for way in env.evaluator.statistics if way.endswith("side by side")]
    assert side == ["neuron update: PyTorch, because it runs on meta, side by side"]


@pytest.mark.parametrize("agent", ["random", "gates", "network-slimming", "sca", "global-l1"])
def test_agents(moved: Workload, agent: str) -> None:
    evaluator = PlanEvaluator(moved)
    judge = make_judge(evaluator, NoEstimator(), make_reward("tar"), target=0.5)
    found = run_search(make_agent(agent), evaluator, judge, budget=40)
    assert found.best is not None


def test_an_environment_on_a_device(moved: Workload) -> None:
    env = gym.make("SpearPrune-v0", workload=moved, target=0.5, lre="none")
    env.reset(seed=0)
    ended = False
    while not ended:
        *_, ended, _, info = env.step(np.array([0.5], dtype=np.float32))
    assert info["accuracy"] > 0


def test_repair_and_tracing(moved: Workload) -> None:
    evaluator = PlanEvaluator(moved)
    judge = make_judge(evaluator, NoEstimator(), make_reward("tar"), target=0.4)
    tuned = evaluator.finetune(evaluator.space.counts([0.2] * len(evaluator.space)))
    repaired = repair(evaluator, judge, tuned, seed=0, use_slack=True)
    assert repaired.tuned.search.synops < tuned.search.synops
    splits = moved.splits
    again = Workload(
        model=moved.graph.model,
        train=splits.train,
        search=splits.search,
        test=splits.test,
        num_steps=moved.num_steps,
    )
    assert again.device == DEVICE


def test_bfloat16_scores(tiny: Workload, moved: Workload) -> None:
    here, there = (PlanEvaluator(each, precision="bfloat16") for each in (tiny, moved))
    counts = here.space.counts([0.4] * len(here.space))
    assert there.evaluate(counts).synops == pytest.approx(here.evaluate(counts).synops, rel=0.02)


def test_convolutions_are_exact_there_and_settings_come_back(device: torch.device) -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_products(device):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.allow_tf32 == before
    assert not torch.backends.cudnn.deterministic


@pytest.mark.parametrize("name", ["cuda", "nowhere"])
def test_a_device_that_is_not_there(tiny: Workload, name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(WorkloadError, match=f"device '{name}' cannot be used"):
        tiny.to(name)
