"""The user's decision rule, loss and metric, from scoring to the fine-tuned network."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import toys
from reference import frames_of, reset_own
from snntorch import functional as sf
from torch import Tensor, nn

from spear_gym.agents.repair import _workload_of
from spear_gym.boundary.plugins import PluginError
from spear_gym.data import Split
from spear_gym.degenerate import DegenerateError, check_answers
from spear_gym.evaluation import PlanEvaluator, refit_targets
from spear_gym.objective import LOSSES, METRICS, Objective, ObjectiveError
from spear_gym.simulation.differentiable import outputs_over_time
from spear_gym.snn.errors import TraceError
from spear_gym.snn.trace import private_copy, trace
from spear_gym.training import Recipe
from spear_gym.workload import Workload, WorkloadError, measure

STEPS = toys.STEPS
POPULATION_LOSS = sf.ce_count_loss(population_code=True, num_classes=10)


def own_outputs(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Output spikes and membranes ``(time, samples, outputs)`` by plain snnTorch."""
    reset_own(model)
    calls = [model(frame) for frame in frames_of(inputs, STEPS, varying=False)]
    return tuple(torch.stack(each) for each in zip(*calls, strict=True))  # type: ignore[return-value]


def untrained(outputs: int = 10) -> toys.Spiking:
    """Made so that output neurons fire at different times."""
    torch.manual_seed(4)
    net = toys.Spiking(outputs)
    with torch.no_grad():
        net.fc.weight.mul_(6)
        net.hidden.weight.mul_(3)
    return net


# ------------------------------------------------------------------ population code


@pytest.fixture(scope="module")
def population() -> Workload:
    return toys.population()


def population_accuracy(model: nn.Module, data: Split) -> float:
    with torch.no_grad():
        spikes, _ = own_outputs(model.eval(), data.inputs)
    return sf.accuracy_rate(spikes, data.labels, population_code=True, num_classes=10)


def test_a_population_code_is_measured_as_snntorch_does(population: Workload) -> None:
    found = population.reference("search").accuracy
    assert found == population_accuracy(population.graph.model, population.splits.search)
    assert found > 0.7
    with torch.no_grad():
        spikes, _ = own_outputs(population.graph.model, population.splits.search.inputs)
    assert sf.accuracy_rate(spikes, population.splits.search.labels) < 0.4, "plain argmax is not it"


@pytest.mark.parametrize("scoring", ["plain", "recalibrated", "refit"])
def test_a_population_code_is_scored_and_finetuned(population: Workload, scoring: Any) -> None:
    evaluator = PlanEvaluator(population, scoring=scoring)
    counts = (6, 18)
    scored = evaluator.evaluate(counts)
    search = population.splits.search
    assert scored.accuracy == population_accuracy(evaluator.scored_network(counts), search)
    tuned = evaluator.finetune(counts, recipe=Recipe(epochs=2, batch_size=32, lr=5e-3))
    assert tuned.search.accuracy == population_accuracy(tuned.model, search)
    assert tuned.search.accuracy > 0.6
    again = measure(population, tuned.model, "search")
    assert again == tuned.search


def test_a_population_is_refitted_to_blocks(population: Workload) -> None:
    labels = population.calibration.labels
    rows = refit_targets(population).matrix.view(len(labels), 10, toys.POPULATION)
    assert bool((rows == rows[..., :1]).all())
    assert torch.equal(rows[..., 0].argmax(1), labels)
    assert len(rows.unique()) == 2


def test_more_outputs_than_classes_are_asked_about() -> None:
    net = toys.population_net()
    with pytest.raises(WorkloadError, match="40 outputs, but the labels in use are 0 to 9") as said:
        toys.spiking(net)
    message = str(said.value)
    assert "readout='population' and num_classes=10 if blocks" in message
    assert "num_classes=40 if some classes have no sample" in message
    assert "outputs=" in message
    assert toys.spiking(net, num_classes=40).splits.num_classes == 40
    with pytest.raises(TraceError, match="num_classes is 10, but the network has 40 outputs"):
        toys.spiking(net, num_classes=10)
    own = toys.spiking(net, readout=lambda outputs: outputs.sum(0).unflatten(1, (10, 4)).amax(2))
    assert own.splits.num_classes == 10
    with pytest.raises(WorkloadError, match="num_classes is 4, but the readout gives 40 scores"):
        toys.spiking(net, readout=lambda outputs: outputs.sum(0), num_classes=4)


# ------------------------------------------------------------------ losses


LOSS_READOUTS: list[tuple[str, Callable[[], Any]]] = [
    ("spikes", sf.ce_rate_loss),
    ("spikes", sf.ce_count_loss),
    ("spikes", lambda: sf.ce_count_loss(population_code=True, num_classes=5)),
    ("spikes", lambda: sf.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)),
    ("membrane", sf.ce_max_membrane_loss),
    ("membrane", sf.mse_membrane_loss),
    ("spikes", sf.ce_temporal_loss),
    ("spikes", sf.mse_temporal_loss),
]


@pytest.mark.parametrize(("recorded", "make"), LOSS_READOUTS)
def test_snntorchs_losses_train_as_in_its_own_loop(recorded: str, make: Callable[[], Any]) -> None:
    net, data = untrained(), toys.few_digits().train
    inputs, labels = data.inputs[:16], data.labels[:16] % 5
    graph = trace(net, inputs[:4], readout=recorded)
    loss = Objective(make()).loss_of(
        graph, outputs_over_time(graph, inputs, STEPS, training=True), labels
    )
    loss.backward()
    twin = private_copy(net)
    outputs = own_outputs(twin, inputs)[("spikes", "membrane").index(recorded)]
    expected = make()(outputs, labels)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    theirs = dict(twin.named_parameters())
    assert any(float(p.grad.norm()) > 0 for p in theirs.values())
    for name, parameter in graph.model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-6)


def test_the_users_loss_is_what_is_minimised() -> None:
    seen = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        seen.append((tuple(outputs.shape), labels.dtype))
        return outputs.mean() + 1.0  # says: do not fire

    workload = toys.spiking(untrained(), loss=loss, metric=lambda scores, labels: 1.0)
    evaluator = PlanEvaluator(workload)
    before = measure(workload, evaluator.scored_network((8, 24)), "search").synops
    seen.clear()
    recipe = Recipe(epochs=3, batch_size=50, lr=1e-2)
    tuned = evaluator.finetune((8, 24), recipe=recipe)
    assert seen == [((STEPS, 50, 10), torch.int64)] * 18
    assert tuned.search.accuracy == 1.0
    assert tuned.search.synops < before
    outputs, _ = own_outputs(tuned.model, workload.splits.search.inputs)
    first, _ = own_outputs(workload.graph.model, workload.splits.search.inputs)
    assert float(outputs.detach().sum()) < 0.3 * float(first.detach().sum())


# ------------------------------------------------------------------ other rules, end to end


def test_latency_end_to_end() -> None:
    workload = toys.spiking(untrained(), readout="latency")
    evaluator = PlanEvaluator(workload, scoring="refit")
    search = workload.splits.search
    with torch.no_grad():
        spikes, _ = own_outputs(workload.graph.model, search.inputs)
    assert workload.reference("search").accuracy == sf.accuracy_temporal(spikes, search.labels)
    recipe = Recipe(epochs=6, batch_size=32, lr=1e-2)
    tuned = evaluator.finetune((6, 20), recipe=recipe)
    with torch.no_grad():
        spikes, _ = own_outputs(tuned.model, search.inputs)
    assert tuned.search.accuracy == sf.accuracy_temporal(spikes, search.labels)
    assert tuned.search.accuracy > evaluator.reference.accuracy + 0.2, "it is trained"


class LastStep(nn.Module):
    """A loop that returns the membrane of its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = untrained()

    def forward(self, x: Tensor) -> Tensor:
        for module in (self.net.lif1, self.net.lif2, self.net.lif3):
            module.reset_mem()
        for _ in range(STEPS):
            _, membrane = self.net(x)
        return membrane


def test_last_step_end_to_end() -> None:
    workload = toys.spiking(LastStep())
    evaluator = PlanEvaluator(workload, scoring="refit")
    tuned = evaluator.finetune((6, 20), recipe=Recipe(epochs=6, batch_size=32, lr=1e-2))
    search = workload.splits.search
    with torch.no_grad():
        answers = tuned.model(search.inputs).argmax(1)
    assert tuned.search.accuracy == float((answers == search.labels).double().mean())
    assert tuned.search.accuracy > 0.5


@pytest.fixture(scope="module")
def regression() -> Workload:
    return toys.regression()


def test_regression_end_to_end(regression: Workload) -> None:
    evaluator = PlanEvaluator(regression)
    tuned = evaluator.finetune((6, 20), recipe=Recipe(epochs=10, batch_size=32, lr=1e-2))
    search = regression.splits.search
    with torch.no_grad():
        _, membranes = own_outputs(tuned.model, search.inputs)
    wrong = (membranes.mean(0).double() - search.labels.double()).square().sum()
    spread = (search.labels.double() - search.labels.double().mean(0)).square().sum()
    assert tuned.search.accuracy == pytest.approx(float(1 - wrong / spread), abs=1e-4)
    assert tuned.search.accuracy > 0.5
    assert (tuned.search.undecided, evaluator.reference.undecided) == (0, 0)


def test_one_target_a_sample() -> None:
    workload = toys.regression(1, metric="inverse_mse")
    assert workload.splits.num_classes == 1
    with torch.no_grad():
        _, membranes = own_outputs(workload.graph.model, workload.splits.search.inputs)
    error = (membranes.mean(0)[:, 0] - workload.splits.search.labels).double().square().mean()
    assert workload.reference("search").accuracy == pytest.approx(1 / (1 + float(error)), abs=1e-5)
    check_answers(workload, workload.reference("search"))


def test_multilabel_end_to_end() -> None:
    """Which halves of the image are brighter than they mostly are."""

    def labels(split: Split) -> Split:
        halves = split.inputs.unflatten(2, (2, 4)).mean((1, 3, 4))
        return Split(split.inputs, halves > 0.3)

    data = {name: labels(split) for name, split in toys.few_digits().named().items()}
    found = {}
    for metric in ("exact_match", "label_accuracy"):
        workload = toys.spiking(
            toys.integrating(2),
            readout="membrane",
            loss="binary_cross_entropy",
            metric=metric,
            **data,
        )
        recipe = Recipe(epochs=20, batch_size=32, lr=1e-2)
        tuned = PlanEvaluator(workload).finetune((6, 20), recipe=recipe)
        search = workload.splits.search
        with torch.no_grad():
            _, membranes = own_outputs(tuned.model, search.inputs)
        right = (membranes.mean(0) > 0).numpy() == search.labels.numpy().astype(bool)
        expected = {"exact_match": right.all(1).mean(), "label_accuracy": right.mean()}
        assert tuned.search.accuracy == pytest.approx(expected[metric], abs=0.01)
        found[metric] = tuned.search.accuracy
    assert found["exact_match"] < found["label_accuracy"]
    often = data["search"].labels.double().mean(0)
    assert found["label_accuracy"] > float(torch.maximum(often, 1 - often).mean()) + 0.1


def test_repair_keeps_what_the_user_said(population: Workload) -> None:
    inner = _workload_of(population, population.graph.model)
    assert inner.reference("search") == population.reference("search")
    assert inner.fingerprint() == population.fingerprint()


# ------------------------------------------------------------------ copies and fingerprints


def double(loss: Any) -> Any:
    return lambda outputs, labels: 2 * loss(outputs, labels)


def test_fingerprints_see_what_the_user_said() -> None:
    net = toys.population_net()

    def made(**changes: Any) -> str:
        return toys.spiking(net, **({"num_classes": 40} | changes)).fingerprint()

    several = [
        {},
        {"readout": "last"},
        {"readout": "latency"},
        {"readout": "population", "num_classes": 10},
        {"readout": "population", "num_classes": 20},
        {"readout": lambda outputs: outputs.sum(0)},
        {"readout": lambda outputs: outputs.mean(0)},
        {"outputs": 1},
        {"loss": sf.ce_count_loss()},
        {"loss": sf.ce_count_loss(weight=torch.ones(40))},
        {"loss": sf.ce_count_loss(weight=2 * torch.ones(40))},
        {"loss": double(sf.ce_count_loss())},
        {"loss": double(sf.ce_rate_loss())},
        {"metric": lambda scores, labels: 0.5},
    ]
    prints = [made(**changes) for changes in several]
    assert len(set(prints)) == len(prints)
    assert prints == [made(**changes) for changes in several]
    assert made(readout="rate") == made(readout="spikes") == made() == made(loss="cross_entropy")


@pytest.mark.parametrize("way", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_copies_keep_what_the_user_said(way: Any) -> None:
    workload = toys.spiking(
        untrained(), readout=lambda outputs: outputs[1:].sum(0), metric=lambda s, y: 0.25
    )
    other = way(workload)
    assert other.fingerprint() == workload.fingerprint()
    assert other.reference("search") == workload.reference("search")
    assert other.reference("search").accuracy == 0.25


# ------------------------------------------------------------------ refused


def test_labels_that_are_no_classes_need_a_loss_and_a_metric() -> None:
    for said in ({}, {"loss": "mean_squared_error"}, {"metric": "r2"}):
        with pytest.raises(
            WorkloadError,
            match=r"train split: labels are torch.float32; class labels are integers .*labels.long"
            r".*loss='mean_squared_error' and metric='r2'",
        ):
            toys.regression(**({"loss": None, "metric": None} | said))
    x, y = toys.few_digits().train.inputs[:20], toys.few_digits().train.labels[:20]
    one_hot = (x, nn.functional.one_hot(y, 10))
    data = {"train": one_hot, "search": one_hot, "test": one_hot}
    with pytest.raises(WorkloadError, match=r"labels have shape \(20, 10\).*argmax.*exact_match"):
        toys.spiking(untrained(), **data)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge'; .*cross_entropy.* function of the outputs"),
        ({"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"metric": "r2"}, r"metric 'r2' is not for labels that are torch.int64 .*: accuracy|"
         "for these there are accuracy"),
        ({"loss": "binary_cross_entropy"}, "for these there are cross_entropy, or a function"),
        ({"loss": lambda o, y: o.sum(0)}, r"gives a tensor of shape \(4, 10\); .* one number"),
        ({"loss": lambda o, y: 1.0}, "the loss gives a float"),
        ({"loss": lambda o, y: o.detach().sum()}, "the loss has no gradient"),
        ({"scoring": "refit", "readout": lambda o: o.sum(0)}, "'refit' .*; use 'recalibrated'"),
    ],
)  # fmt: skip
def test_objectives_that_do_not_fit(said: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        toys.spiking(untrained(), **said)


def test_refit_is_refused_without_classes(regression: Workload) -> None:
    with pytest.raises(WorkloadError, match=r"'refit' .* are no classes; use 'recalibrated'"):
        PlanEvaluator(regression, scoring="refit")


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(WorkloadError, match="2 labels a sample, but the network gives 10 scores"):
        toys.regression(model=untrained())


def failing(outputs: Tensor, labels: Tensor) -> Tensor:
    raise KeyError("no such class")


def test_errors_in_the_users_functions_are_named() -> None:
    with pytest.raises(WorkloadError, match=r"the loss, given outputs \(3, 4, 10\).*KeyError"):
        toys.spiking(untrained(), loss=failing)
    workload = toys.spiking(untrained(), metric=failing)
    with pytest.raises(PluginError, match=r"the metric, given scores \(120, 10\), raised KeyError"):
        workload.reference("search")


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), float("inf")])
def test_metrics_outside_their_range(value: float) -> None:
    workload = toys.spiking(untrained(), metric=lambda scores, labels: value)
    with pytest.raises(ObjectiveError, match=rf"the metric gives {value:g}; it must lie in \[0, 1"):
        workload.reference("search")


def test_a_regression_that_answers_nothing() -> None:
    net = toys.integrating(2)
    with torch.no_grad():
        net.fc.weight.zero_()
    workload = toys.regression(model=net)
    with pytest.raises(
        DegenerateError, match="gives all of its 120 search samples the same scores"
    ):
        check_answers(workload, workload.reference("search"))


def test_r2_of_labels_that_are_alike() -> None:
    with pytest.raises(ObjectiveError, match="take 'inverse_mse'"):
        METRICS["r2"].function(torch.rand(4, 1), torch.ones(4))


def test_named_losses_and_metrics_against_numpy() -> None:
    generator = np.random.default_rng(0)
    scores, targets = generator.normal(size=(50, 3)), generator.normal(size=(50, 3))
    several = generator.integers(0, 2, (50, 3))
    s, t, m = torch.tensor(scores), torch.tensor(targets), torch.tensor(several)
    mse = ((scores - targets) ** 2).mean()
    assert float(LOSSES["mean_squared_error"].function(s, t)) == pytest.approx(mse)
    assert METRICS["inverse_mse"].function(s, t) == pytest.approx(1 / (1 + mse))
    assert METRICS["r2"].function(s, t) == 0.0
    near = targets + 0.1 * scores
    spread = ((targets - targets.mean(0)) ** 2).sum()
    assert METRICS["r2"].function(torch.tensor(near), t) == pytest.approx(
        1 - ((near - targets) ** 2).sum() / spread
    )
    p = 1 / (1 + np.exp(-scores))
    entropy = -(several * np.log(p) + (1 - several) * np.log(1 - p)).mean()
    assert float(LOSSES["binary_cross_entropy"].function(s, m)) == pytest.approx(entropy)
    right = (scores > 0) == several.astype(bool)
    assert METRICS["exact_match"].function(s, m) == pytest.approx(right.all(1).mean())
    assert METRICS["label_accuracy"].function(s, m) == pytest.approx(right.mean())
