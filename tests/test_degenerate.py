"""Networks and searches whose figures say little are told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
import toys
from commands import Spear, read
from networks import StepNet
from torch import nn

from spear_gym.agents.base import SearchResult, SearchSession, run_search
from spear_gym.degenerate import DegenerateError, DegenerateWarning
from spear_gym.env import make_env
from spear_gym.env.vector import SpearPruneVectorEnv
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.snn.trace import private_copy
from spear_gym.workload import Workload


def images(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 1, 16, 16, generator=generator), torch.arange(count) % 5


def changed(**thresholds: float) -> Workload:
    """A StepNet that fires, of which some neurons do so at another threshold."""
    torch.manual_seed(0)
    model = StepNet()
    for name, threshold in ({"lif1": 0.1, "lif2": 0.1, "lif3": 0.05} | thresholds).items():
        getattr(model, name).threshold = torch.tensor(threshold)
    parts: dict[str, Any] = {"train": images(), "search": images(), "test": images()}
    return Workload(model=model, num_steps=2, name="stepnet", readout="spikes", **parts)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: make_env(w, lre="none"),
        lambda w: SpearPruneVectorEnv(2, workload=w, lre="none"),
        lambda w: make_judge(PlanEvaluator(w), NoEstimator(), TargetAwareReward(), target=0.5),
    ],
    ids=["environment", "vector", "judge"],
)
def test_a_network_that_answers_nothing_is_refused(make: Any) -> None:
    message = (
        r"no output neuron fired on 20 of 20 search samples of workload 'stepnet': every answer is "
        r"class 0, and the accuracy of 0\.200 says nothing; train the network, lower"
    )
    with pytest.raises(DegenerateError, match=message):
        make(changed(lif3=1e9))


def test_silent_layers_are_named_once() -> None:
    # A bias lets the output fire although nothing reaches it.
    workload = changed(lif2=1e9)
    with torch.no_grad():
        workload.graph.model.fc.bias[3] = 5.0
    evaluator = PlanEvaluator(workload, scoring="plain")
    with pytest.warns(DegenerateWarning) as told:
        SpearPruneVectorEnv(3, evaluator=evaluator, lre="none", target=1.0)
    texts = [str(w.message) for w in told]
    assert len(texts) == 2
    assert "layer 'lif2' of workload 'stepnet' never fires on its 20" in texts[0]
    assert "answers the same class to all of its 20" in texts[1]
    assert "accuracy of 0.200 is that class's share" in texts[1]


def test_an_output_that_need_not_fire_is_not_told() -> None:
    model = changed(lif3=1e9).graph.model
    parts: dict[str, Any] = {"train": images(), "search": images(), "test": images()}
    workload = Workload(model=model, num_steps=2, readout="membrane", **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegenerateWarning)
        figures = PlanEvaluator(workload).reference
    assert figures.silent == ("lif3",)
    assert figures.undecided == 0


def test_samples_without_an_answer_are_counted() -> None:
    """Outputs that fire on the brightest images only."""
    for threshold in np.linspace(0.05, 1.5, 60):
        workload = changed(lif3=float(threshold))
        figures = workload.reference("search")
        if 2 < figures.undecided < 20:
            break
    else:
        pytest.fail("no threshold between all and none")
    spikes = torch.zeros(20, 5)
    model = private_copy(workload.graph.model)
    with torch.no_grad():
        for _ in range(2):
            spikes += model(images()[0])[0]
    assert figures.undecided == int((spikes.amin(1) == spikes.amax(1)).sum())
    assert figures.answers == len(spikes.argmax(1).unique())
    with pytest.warns(DegenerateWarning, match=f"all outputs equal on {figures.undecided} of 20"):
        PlanEvaluator(workload).reference  # noqa: B018


class Agent:
    """Asks for vectors of ratios in turn."""

    name = "scripted"

    def __init__(self, *vectors: Any) -> None:
        self.vectors = vectors

    def search(self, session: SearchSession, seed: int) -> None:
        while True:
            for vector in self.vectors:
                session.submit(vector)


def found(workload: Workload, *vectors: Any, budget: int = 8) -> SearchResult:
    evaluator = PlanEvaluator(workload, scoring="plain")
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.5)
    return run_search(Agent(*vectors), evaluator, judge, budget=budget)


def test_a_search_that_repeats_itself_is_told(toy: Workload) -> None:
    result = found(toy, (0.3, 0.4), (0.4, 0.3))
    assert (result.paid, result.episodes) == (2, 80)
    assert len(result.faults) == 1
    assert "78 of 80 episodes asked for a plan that was known" in result.faults[0]


def test_the_command_line_tells_it(spear: Spear, tmp_path: Path) -> None:
    options = ("--agent", "toys:Stuck", "--budget", "3", "--target", "0.9", "--lre", "none")
    ran = spear("search", "--workload", "toys:toy", *options, "--out", tmp_path / "run")
    assert ran.code == 0, ran
    fault = "29 of 30 episodes asked for a plan that was known: the agent hardly explores"
    assert fault in ran.out
    assert fault in read(tmp_path / "run" / "result.json")["faults"][0]


def test_a_search_at_the_bounds_is_told(toy: Workload) -> None:
    rest = [(0.9, ratio) for ratio in np.linspace(0.1, 0.8, 5)]
    result = found(toy, (0.0, 0.9), (0.9, 0.0), (0.0, 0.0), (0.9, 0.9), *rest, budget=9)
    assert result.paid == result.episodes == 9
    assert result.faults == (), "too few decisions to judge by"
    # 500 episodes are 55 rounds of 9 and 5 more: 55 * 4 + 4 groups whole, 55 * 9 + 5 smallest.
    result = found(toy, (0.0, 0.9), (0.9, 0.0), (0.0, 0.0), (0.9, 0.9), *rest, budget=50)
    bounds = [fault for fault in result.faults if "bound of the prune ratio" in fault]
    assert len(bounds) == 1
    assert bounds[0].startswith("724 of 1000 decisions sit at a bound of the prune ratio (224")


def test_a_search_that_looks_around_is_not_told(toy: Workload) -> None:
    rng = np.random.default_rng(0)
    assert found(toy, *rng.uniform(0, 0.9, (60, 2)), budget=30).faults == ()


def test_all_plans_known_is_no_lack_of_exploration(toy: Workload) -> None:
    evaluator = PlanEvaluator(toy, channel_multiple=6)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.9)
    every = [(a, b) for a in (0.0, 0.5, 0.9) for b in (0.0, 0.5, 0.9)]
    result = run_search(Agent(*every), evaluator, judge, budget=30)
    assert (result.paid, result.episodes) == (9, 9)
    assert result.faults == ()


def test_a_best_plan_no_better_than_guessing_is_told() -> None:
    with pytest.warns(DegenerateWarning):
        result = found(changed_to_answer_one_class(), (0.5, 0.5), (0.2, 0.6), budget=2)
    assert (
        "no better than answering the most frequent class to every sample (0.200)"
        in (result.faults[-1])
    )
    assert "answers the same class" in result.faults[0], "what the network lacks is told, too"


def changed_to_answer_one_class() -> Workload:
    workload = changed()
    with torch.no_grad():
        workload.graph.model.fc.weight.zero_()
        workload.graph.model.fc.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0]))
    return workload


def test_trained_networks_are_sound() -> None:
    for workload in (toys.tiny(), toys.toy(), toys.deep()):
        figures = workload.reference("search")
        assert (figures.silent, figures.undecided) == ((), 0)
        assert figures.answers == 10


def test_silent_is_measured_by_plain_snntorch() -> None:
    workload = changed(lif2=1e9)
    fired: dict[str, float] = {}
    model = private_copy(workload.graph.model)

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            spikes = output[0] if isinstance(output, tuple) else output
            fired[name] = fired.get(name, 0.0) + float(spikes.sum())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, snn.Leaky):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        for _ in range(2):
            model(images()[0])
    silent = tuple(name for name, spikes in fired.items() if spikes == 0)
    assert workload.reference("search").silent == silent
    assert "lif2" in silent
