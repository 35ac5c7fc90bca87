"""Design-based agents: scores against slow computations, bisection against enumeration."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
import toys
from hypothesis import given
from hypothesis import strategies as st
from networks import ResidualNet, TutorialNet, enlivened
from reference import first, reset_own
from torch import Tensor, nn

from spear_gym.agents import AgentError, SearchResult, make_agent, run_search
from spear_gym.agents.base import SearchSession
from spear_gym.agents.bisection import EVALUATIONS
from spear_gym.agents.charging import charge_training
from spear_gym.agents.design import NetworkSlimming, l1_scores, scale_scores, threshold
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.pruning.plan import PlanSpace
from spear_gym.reward import TargetAwareReward
from spear_gym.simulation.membranes import mean_absolute_membranes
from spear_gym.snn.graph import PrunableGroup
from spear_gym.snn.trace import private_copy, trace
from spear_gym.training import Recipe, batches_in, train
from spear_gym.workload import Workload

TARGET = 0.4
RANKED = ["global-l1", "network-slimming", "sca"]
TRAINED = ["network-slimming", "gates"]
ALL = ["uniform", *RANKED, "gates"]


def judge_of(evaluator: PlanEvaluator, target: float = TARGET) -> Judge:
    return make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=target)


def search(workload: Workload, agent: str, budget: int = 40, **settings: Any) -> SearchResult:
    evaluator = PlanEvaluator(workload)
    seed = settings.pop("seed", 0)
    made = make_agent(agent, settings)
    return run_search(made, evaluator, judge_of(evaluator), budget=budget, seed=seed)


def trail(result: SearchResult) -> list[tuple[tuple[int, ...], float]]:
    return [(c.evaluation.counts, c.reward) for c in result.candidates]


def untrained(model: nn.Module, size: int, steps: int) -> Workload:
    def data() -> tuple[Tensor, Tensor]:
        return torch.rand(20, 1, size, size), torch.arange(20) % 5

    return Workload(
        model=enlivened(model), train=data(), search=data(), test=data(), num_steps=steps
    )


# What all of them must do.


@pytest.mark.parametrize("agent", ALL)
def test_searches_repeat_exactly_and_keep_their_budget(tiny: Workload, agent: str) -> None:
    first_time, again = search(tiny, agent), search(tiny, agent)
    assert trail(first_time) == trail(again)
    assert (first_time.charged, first_time.charged_for) == (again.charged, again.charged_for)
    assert first_time.paid <= EVALUATIONS
    assert first_time.paid + first_time.charged <= 40
    assert first_time.curve[0].spent == first_time.charged + 1, "charged before anything is paid"
    assert first_time.best.feasible
    assert first_time.updated


@pytest.mark.parametrize("agent", ALL)
def test_a_larger_target_leaves_the_network_whole(tiny: Workload, agent: str) -> None:
    evaluator = PlanEvaluator(tiny)
    result = run_search(make_agent(agent), evaluator, judge_of(evaluator, 1.0), budget=40)
    assert result.candidates[0].evaluation.counts == (6, 8, 8)


@pytest.mark.parametrize("agent", ALL)
def test_network_and_random_states_are_left_alone(tiny: Workload, agent: str) -> None:
    def states() -> tuple[Any, ...]:
        legacy = np.random.get_state()  # noqa: NPY002 - the state that must not move
        return random.getstate(), legacy[1].tolist(), legacy[2], torch.get_rng_state().tolist()

    model = tiny.graph.model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, listed, print_of = states(), list(snn.SpikingNeuron.instances), tiny.fingerprint()
    modes = [module.training for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    search(tiny, agent, seed=3)
    assert states() == before
    assert snn.SpikingNeuron.instances == listed
    assert tiny.fingerprint() == print_of
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("agent", ALL)
@pytest.mark.parametrize("budget", [2, 9])
def test_small_budgets_are_met(tiny: Workload, agent: str, budget: int) -> None:
    result = search(tiny, agent, budget)
    assert result.paid + result.charged <= budget
    if agent in TRAINED:
        assert not result.updated
        assert result.charged == 0
        assert result.charged_for == (
            f"no training: a budget of {budget} leaves nothing beside 14 evaluations"
        )


@pytest.mark.parametrize("agent", ["global-l1", "sca", "gates", "network-slimming"])
def test_failed_evaluations_do_not_end_a_search(agent: str) -> None:
    """Every plan that keeps the last group whole overflows; so does the network itself."""
    evaluator = PlanEvaluator(toys.overflowing(), scoring="plain", min_channels=10)
    judge = judge_of(evaluator, target=1.0)
    # Training on infinite outputs is refused, see below.
    settings = {"epochs": 0} if agent in TRAINED else {}
    result = run_search(make_agent(agent, settings), evaluator, judge, budget=30)
    assert result.paid >= 1
    assert all(c.evaluation.counts[1] < 12 for c in result.candidates)
    assert result.episodes > result.paid, "a failed plan was asked for"


@pytest.mark.parametrize("agent", TRAINED)
def test_training_that_diverges_is_an_error_in_words(agent: str) -> None:
    evaluator = PlanEvaluator(toys.overflowing(), scoring="plain", min_channels=10)
    with pytest.raises(AgentError, match=f"agent '{agent}': the training loss became"):
        run_search(make_agent(agent), evaluator, judge_of(evaluator, 1.0), budget=100)


# Scores.


def test_l1_scores_by_hand(tiny: Workload) -> None:
    for name, scores in zip(("conv1", "conv2", "conv3"), l1_scores(tiny.graph), strict=True):
        weight = tiny.graph.model.get_submodule(name).weight.detach().double().numpy()
        norms = [sum(abs(float(w)) for w in channel.ravel()) for channel in weight]
        expected = [norm / (sum(norms) / len(norms)) for norm in norms]
        assert scores.tolist() == pytest.approx(expected, rel=1e-12)


def test_gammas_after_sparse_training(toy: Workload) -> None:
    """The library's loop with a penalty, against snnTorch's own loop and autograd."""
    recipe, sparsity = Recipe(epochs=1, batch_size=50, lr=3e-3), 0.05
    model = private_copy(toy.graph.model)
    graph = toy.graph.rebind(model)

    def penalty() -> Tensor:
        return sparsity * (model.bn1.weight.abs().sum() + model.bn2.weight.abs().sum())

    data = toy.splits.train
    kwargs: dict[str, Any] = {"seed": 4, "penalty": penalty, "max_batches": 3}
    train(graph, data, toy.num_steps, recipe, **kwargs)
    slow = private_copy(toy.graph.model).train()
    optimizer = torch.optim.AdamW(slow.parameters(), lr=recipe.lr, weight_decay=0.0)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(4))
    for batch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * 0.5 * (1 + np.cos(np.pi * batch / 3))
        index = order[50 * batch : 50 * (batch + 1)]
        reset_own(slow)
        readout = torch.stack([slow(data.inputs[index]) for _ in range(toy.num_steps)]).mean(0)
        loss = F.cross_entropy(readout, data.labels[index])
        loss = loss + sparsity * sum(m.weight.abs().sum() for m in (slow.bn1, slow.bn2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, scores in zip(("bn1", "bn2"), scale_scores(graph), strict=True):
        gamma = slow.get_submodule(name).weight.detach().abs()
        start = toy.graph.model.get_submodule(name).weight.detach().abs()
        torch.testing.assert_close(scores.float(), gamma, rtol=1e-4, atol=1e-5)
        assert float((scores.float() - start).abs().max()) > 1e-3, "it was trained"


def test_sparsity_shrinks_the_gammas(tiny: Workload) -> None:
    """The agent's own training, watched through the scores that it ranks."""
    sums = []
    for sparsity in (0.0, 0.1):
        evaluator = PlanEvaluator(tiny)
        session = SearchSession(evaluator, judge_of(evaluator), 40)
        agent = NetworkSlimming(sparsity=sparsity, learning_rate=0.01)
        graph = agent._trained(session, agent.settings.recipe(), 8, seed=0)
        sums.append(sum(float(scores.sum()) for scores in scale_scores(graph)))
    assert sums[1] < 0.99 * sums[0]


@pytest.mark.parametrize("net", [TutorialNet, ResidualNet])
def test_membranes_against_snntorchs_own_loop(net: type[nn.Module]) -> None:
    size = 10 if net is TutorialNet else 8
    graph = trace(enlivened(net()), torch.rand(4, 1, size, size))
    inputs = torch.rand(300, 1, size, size)
    recorded: dict[str, list[Tensor]] = {}
    model = private_copy(graph.model)

    def watch(name: str) -> Any:
        def hook(module: snn.Leaky, args: tuple[Tensor, ...], output: Any) -> None:
            membrane = output[1] if isinstance(output, tuple) else module.mem
            recorded.setdefault(name, []).append(membrane.detach().clone())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, snn.Leaky):
            module.register_forward_hook(watch(name))
    with torch.no_grad():
        reset_own(model)
        first(model(inputs))
    steps = len(next(iter(recorded.values())))
    means = {
        name: torch.stack(values).double().abs().transpose(0, 2).flatten(1).mean(1)
        for name, values in recorded.items()
    }
    found = mean_absolute_membranes(graph, inputs, steps)
    neurons = {
        TutorialNet: [("lif1",), ("lif2",)],
        ResidualNet: [("lif0", "lif1"), ("lif2",)],
    }[net]
    assert len(graph.groups) == len(neurons)
    for group, names in zip(graph.groups, neurons, strict=True):
        expected = torch.stack([means[name] for name in names]).mean(0)
        assert float(expected.min()) > 0
        torch.testing.assert_close(found[group.space], expected, rtol=1e-5, atol=1e-6)


# The threshold and the bisection.


def groups_of(widths: list[int]) -> tuple[PrunableGroup, ...]:
    return tuple(PrunableGroup(f"g{i}", i, width, (i,)) for i, width in enumerate(widths))


@given(st.data())
def test_threshold_against_a_slow_one(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(2, 20), min_size=1, max_size=4))
    floor = data.draw(st.integers(1, min(widths)))
    space = PlanSpace(
        groups_of(widths), tuple(tuple(range(n)) for n in widths), 1, floor, max_ratio=0.75
    )
    number = st.integers(0, 6).map(float)
    scores = [data.draw(st.lists(number, min_size=n, max_size=n)) for n in widths]
    share = data.draw(st.floats(0, 1))
    fewest = space.smallest_counts()
    # One after the other: the lowest channel of a group that may still lose one.
    left = [sorted(group) for group in scores]
    for _ in range(round(share * sum(n - f for n, f in zip(widths, fewest, strict=True)))):
        open_groups = [i for i, group in enumerate(left) if len(group) > fewest[i]]
        left[min(open_groups, key=lambda i: (left[i][0], i))].pop(0)
    tensors = [torch.tensor(group, dtype=torch.float64) for group in scores]
    counts = space.counts(threshold(tensors, space)(share))
    assert counts == tuple(len(group) for group in left)


@pytest.mark.parametrize("agent", ["global-l1", "sca"])
def test_bisection_lands_on_the_largest_plan_under_the_target(tiny: Workload, agent: str) -> None:
    evaluator = PlanEvaluator(tiny)
    judge = judge_of(evaluator)
    scores = l1_scores(tiny.graph)
    if agent == "sca":
        found = mean_absolute_membranes(tiny.graph, tiny.calibration.inputs, tiny.num_steps)
        scores = [found[group.space] for group in evaluator.space.groups]
    ratios_at = threshold(scores, evaluator.space)
    reach = sum(evaluator.space.groups[i].channels - n for i, n in enumerate((1, 1, 1)))
    path = [evaluator.space.counts(ratios_at(n / reach)) for n in range(reach + 1)]
    assert path[0] == (6, 8, 8)
    assert path[-1] == evaluator.space.smallest_counts() == (1, 1, 1)
    assert [sum(counts) for counts in path] == list(range(22, 2, -1))
    feasible = [judge(evaluator.evaluate(counts)).feasible for counts in path]
    assert feasible == sorted(feasible), "SynOps fall along this knob"
    result = run_search(make_agent(agent), evaluator, judge, budget=40)
    paid = [c.evaluation.counts for c in result.candidates]
    assert path[feasible.index(True)] in paid
    assert path[feasible.index(True) - 1] in paid, "the next larger one was tried"
    assert set(paid) <= set(path)


# Charges.


def test_charges_by_hand(tiny: Workload) -> None:
    """120 search and 64 calibration samples: 184 an evaluation; 300 train samples, batches of 64.

    Four epochs of four whole batches: 1,024 samples, 3,072 forward passes, 16.7 evaluations.
    """
    result = search(tiny, "network-slimming", budget=40)
    assert result.charged == 17
    assert result.charged_for == (
        "1024 training samples, each 3 forward passes (forward, and backward at about twice "
        "that), at 184 samples an evaluation"
    )
    # 25 - 14 = 11 evaluations are 2,024 passes, or 10.5 batches; 10 of them are 10.4 evaluations.
    result = search(tiny, "network-slimming", budget=25)
    assert result.charged == 11
    assert result.charged_for == (
        "640 training samples, each 3 forward passes (forward, and backward at about twice that), "
        "at 184 samples an evaluation; cut from 16 to 10 batches so that 14 of 25 evaluations are "
        "left"
    )
    result = search(tiny, "sca")
    assert result.charged == 1
    assert result.charged_for == "1 forward pass over 64 samples, at 184 samples an evaluation"


def test_plain_scoring_does_not_calibrate(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny, scoring="plain")
    session = SearchSession(evaluator, judge_of(evaluator), 100)
    assert charge_training(session, 4, 50) == 4
    assert session.charged == 5, "600 passes at 120 samples an evaluation"


@given(budget=st.integers(1, 60), batches=st.integers(0, 40), size=st.integers(2, 300))
def test_training_never_takes_what_the_bisection_needs(
    budget: int, batches: int, size: int
) -> None:
    evaluator = PlanEvaluator(toys.tiny())
    session = SearchSession(evaluator, Judge(1.0, NoEstimator(), TargetAwareReward()), budget)
    done = charge_training(session, batches, size)
    assert 0 <= done <= batches
    assert session.charged == -(-3 * done * size // 184)
    if done:
        assert session.charged <= budget - EVALUATIONS
    if done < batches:
        assert 3 * (done + 1) * size > 184 * (budget - EVALUATIONS), "one more would not fit"


@pytest.mark.parametrize("size", [7, 100, 1000])
def test_batches_are_counted_as_they_are_trained(toy: Workload, size: int) -> None:
    graph = toy.graph.rebind(private_copy(toy.graph.model))
    seen: list[int] = []
    recipe = Recipe(epochs=2, batch_size=size)
    train(graph, toy.splits.train, 1, recipe, seed=0, on_batch=lambda done, *_: seen.append(done))
    assert len(seen) == batches_in(300, size, 2) == 2 * max(1, 300 // size)


# Errors.


def test_networks_without_batchnorm_cannot_be_slimmed() -> None:
    workload = untrained(TutorialNet(), 10, 4)
    with pytest.raises(
        AgentError, match=r"agent 'network-slimming' ranks .* behind 'conv1', which has none"
    ):
        search(workload, "network-slimming")
    partly = untrained(ResidualNet(), 8, 3)
    with pytest.raises(AgentError, match=r"behind 'conv2', which has none"):
        search(partly, "network-slimming")
    assert search(partly, "sca").paid > 1


class Linear(nn.Module):
    """The first layer drives no neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(100, 6)
        self.fc2 = nn.Linear(6, 7)
        self.lif = snn.Leaky(beta=0.5, threshold=0.1, init_hidden=True)
        self.fc3 = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.lif(self.fc2(self.fc1(x.flatten(1)))))


def test_groups_without_neurons_have_no_membrane() -> None:
    with pytest.raises(AgentError, match=r"those of group 'fc1' drive no neuron"):
        search(untrained(Linear(), 10, 3), "sca")


def test_sca_needs_its_pass(tiny: Workload) -> None:
    with pytest.raises(AgentError, match=r"budget is 1, but agent 'sca' needs at least 2"):
        search(tiny, "sca", budget=1)


def test_settings_that_make_no_sense() -> None:
    for settings, said in [
        (
            {"sparsity": -1.0},
            "'sparsity' of .* is -1.0; it must be a number in 0",
        ),
        (
            {"batch_size": 1},
            "'batch_size' of .* is 1; it must be a whole number in 2",
        ),
        ({"sparsiti": 1.0}, "setting of agent 'network-slimming' 'sparsiti'.* 'sparsity'"),
    ]:
        with pytest.raises(AgentError, match=said):
            make_agent("network-slimming", settings)
