"""A handful of strangers' networks from a workload to a smaller network that is kept."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from networks import enlivened
from own_forward import GAINS
from reference import run_own
from safetensors.torch import load_file, save_file
from strangers import CATALOGUE, STEPS, Stranger

from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.surgery import prune_network
from spear_gym.training import Recipe
from spear_gym.workload import Workload, measure

NETWORKS = {stranger.name: stranger for stranger in CATALOGUE}
HANDFUL = (
    "gate from a parameter",
    "squeeze and excite",
    "functional dropout 2d",
    "frames, second axis",
    "folded BatchNorm",
    "sequences at once",
    "spiking transformer",
    "subclass: decayed input",
)


def workload(stranger: Stranger) -> Workload:
    data = (stranger.inputs(24), torch.arange(24) % 4)
    return Workload(
        model=enlivened(stranger.make(), GAINS[2]),
        train=data,
        search=data,
        test=data,
        num_steps=STEPS,
        varying=stranger.varying,
        finetune=Recipe(epochs=1, batch_size=8),
        calibration_samples=12,
    )


@pytest.mark.parametrize("name", HANDFUL)
def test_from_a_workload_to_a_file(name: str, tmp_path: Path) -> None:
    made = workload(NETWORKS[name])
    evaluator = PlanEvaluator(made, scoring="recalibrated")
    counts = tuple(max(1, group.channels // 2) for group in evaluator.space.groups)
    scored = evaluator.evaluate(counts)
    assert 0 < scored.synops < evaluator.reference.synops

    tuned = evaluator.finetune(counts, seed=0)
    save_file(tuned.model.state_dict(), tmp_path / "network.safetensors")
    again = prune_network(made.graph, evaluator.space.plan(counts))
    again.load_state_dict(load_file(tmp_path / "network.safetensors"))
    assert measure(made, again, "search") == tuned.search
    inputs = made.splits.search.inputs
    own = run_own(made.graph, again, inputs, STEPS)
    fired = sum(int((spikes != 0).sum()) for spikes in own.spikes.values())
    assert fired / len(inputs) == pytest.approx(tuned.search.spikes, rel=0.01)

    other = pickle.loads(pickle.dumps(made))
    assert PlanEvaluator(other, scoring="recalibrated").evaluate(counts).synops == scored.synops
