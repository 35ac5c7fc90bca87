"""Decision rules against slow loops, and against snnTorch's own."""

from __future__ import annotations

from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from idioms import images, stacked
from networks import LoopNet, StepNet, enlivened
from reference import frames_of, reset_own
from snntorch import functional as sf
from torch import Tensor, nn

from spear_gym.boundary.plugins import PluginError
from spear_gym.simulation.differentiable import forward
from spear_gym.simulation.simulate import Simulator, accuracy
from spear_gym.snn.decision import READOUTS, Decision, check_function
from spear_gym.snn.errors import TraceError
from spear_gym.snn.trace import trace

STEPS, SAMPLES = 6, 9


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int]:
    """Spikes and membranes ``(time, samples, outputs)``, classes, and outputs a class."""
    steps, samples = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    classes, block = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (steps, samples, classes * block)
    rate = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    spikes = (torch.rand(shape, generator=generator) < rate).float()
    return spikes, torch.randn(shape, generator=generator), classes, block


def slow(rule: str, outputs: Tensor, classes: int, recorded: str) -> list[list[float]]:
    """Scores by loops over samples, outputs and time steps."""
    steps, samples, width = outputs.shape
    values = outputs.tolist()
    scores = []
    for n in range(samples):
        row = []
        for i in range(width):
            trail = [values[t][n][i] for t in range(steps)]
            if rule == "max":
                row.append(max(trail))
            elif rule == "last":
                row.append(trail[-1])
            elif rule == "latency":
                fired = [t for t, value in enumerate(trail) if value]
                row.append(-float(fired[0] if fired else steps - 1))
            else:
                row.append(sum(trail) / (1 if recorded == "spikes" else steps))
        if rule == "population":
            block = width // classes
            row = [sum(row[c * block : (c + 1) * block]) for c in range(classes)]
        scores.append(row)
    return scores


@given(recordings())
def test_rules_equal_slow_loops(recorded: tuple[Tensor, Tensor, int, int]) -> None:
    spikes, membranes, classes, _ = recorded
    for name, (what, rule) in READOUTS.items():
        for kind in ("spikes", "membrane") if what is None else (what,):
            outputs = spikes if kind == "spikes" else membranes
            decision = Decision(rule, classes if rule == "population" else None)
            scores = decision.scores(outputs, kind)
            expected = torch.tensor(slow(rule, outputs, classes, kind))
            torch.testing.assert_close(scores, expected, msg=lambda m, name=name: f"{name}: {m}")


@given(recordings(), st.randoms(use_true_random=False))
def test_accuracies_are_those_of_snntorch(
    recorded: tuple[Tensor, Tensor, int, int], random: Any
) -> None:
    spikes, _, classes, _ = recorded
    samples, width = spikes.shape[1:]
    labels = torch.tensor([random.randrange(classes) for _ in range(samples)])
    wide = torch.tensor([random.randrange(width) for _ in range(samples)])

    def ours(decision: Decision, labels: Tensor) -> float:
        return accuracy(decision.scores(spikes, "spikes"), labels)

    population = sf.accuracy_rate(spikes, labels, population_code=True, num_classes=classes)
    assert ours(Decision("population", classes), labels) == population
    assert ours(Decision(), wide) == sf.accuracy_rate(spikes, wide)
    assert ours(Decision("latency"), wide) == sf.accuracy_temporal(spikes, wide)


@given(recordings())
def test_latency_is_trained_as_snntorch_does(recorded: tuple[Tensor, Tensor, int, int]) -> None:
    spikes = recorded[0]
    labels = torch.arange(spikes.shape[1]) % spikes.shape[2]
    gradients = []
    for loss in (
        lambda x: nn.functional.cross_entropy(Decision("latency").scores(x, "spikes"), labels),
        lambda x: sf.ce_temporal_loss()(x, labels),
    ):
        given_spikes = spikes.clone().requires_grad_(True)
        loss(given_spikes).backward()
        gradients.append(given_spikes.grad)
    torch.testing.assert_close(*gradients)


# ------------------------------------------------------------------ of networks


def step_outputs(net: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Output spikes and membranes ``(time, samples, outputs)`` of a one-step module."""
    reset_own(net)
    with torch.no_grad():
        calls = [net(frame) for frame in frames_of(inputs, STEPS, varying=False)]
    return tuple(torch.stack(each) for each in zip(*calls, strict=True))  # type: ignore[return-value]


OWN = lambda outputs: outputs[2:].mean(0) - outputs[:2].mean(0)  # noqa: E731


@pytest.mark.parametrize("readout", [*READOUTS, OWN, None])
def test_networks_are_read_as_asked(readout: Any) -> None:
    torch.manual_seed(2)
    net = enlivened(StepNet(), gain=3.0)
    inputs = torch.rand(SAMPLES, 1, 16, 16)
    classes = 5 if readout == "population" else None
    graph = trace(net, inputs[:4], readout=readout, num_classes=classes)
    simulated = Simulator(graph, inputs, STEPS).run().readout
    trained = forward(graph, inputs, STEPS, training=False)
    assert simulated is not None
    torch.testing.assert_close(trained, simulated, rtol=1e-4, atol=1e-5)
    if readout == "current":
        return  # its own forward does not show it
    spikes, membranes = step_outputs(net, inputs)
    recorded, rule = (
        READOUTS.get(readout, ("spikes", "total")) if readout is not OWN else (None, "own")
    )
    outputs = membranes if recorded == "membrane" else spikes
    if readout is OWN:
        expected = OWN(outputs)
    else:
        expected = torch.tensor(slow(rule, outputs, 5, recorded or "spikes"))
    assert expected.std() > 0
    torch.testing.assert_close(simulated, expected, rtol=1e-4, atol=1e-4)


def last_step_only(net: LoopNet, x: Tensor) -> Any:
    return [net.lif2(net.current(x)) for _ in range(STEPS)][-1]


@pytest.mark.parametrize(("place", "recorded"), [(None, "spikes"), (0, "spikes"), (1, "membrane")])
def test_the_last_step_only(place: int | None, recorded: str) -> None:
    torch.manual_seed(1)
    net = enlivened(LoopNet(last_step_only))
    inputs = torch.rand(SAMPLES, 1, 8, 8)
    graph = trace(net, inputs[:4], outputs=place)
    assert (graph.readout, graph.decision.rule) == (recorded, "last")
    reset_own(net)
    expected = net(inputs)[place or 0]
    assert expected.std() > 0
    readout = Simulator(graph, inputs, STEPS).run().readout
    torch.testing.assert_close(readout, expected.detach(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ several outputs


class Recording(nn.Module):
    """All layers recorded, a list of each kind, one recording a layer, the classes last."""

    def __init__(self, *, listed: bool = False, keyed: bool = False) -> None:
        super().__init__()
        self.fcs = nn.ModuleList([nn.Linear(64, 16), nn.Linear(16, 4)])
        self.lifs = nn.ModuleList([snn.Leaky(0.7, threshold=0.3) for _ in self.fcs])
        self.listed, self.keyed = listed, keyed

    def forward(self, x: Tensor) -> Any:
        x = x.flatten(1)
        mems = [lif.reset_mem() for lif in self.lifs]
        spikes: list[list[Tensor]] = [[], []]
        membranes: list[list[Tensor]] = [[], []]
        for _ in range(STEPS):
            spk = x
            for index, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                spk, mems[index] = lif(fc(spk), mems[index])
                spikes[index].append(spk)
                membranes[index].append(mems[index])
        if not self.listed:
            spikes = [torch.stack(each) for each in spikes]  # type: ignore[misc]
            membranes = [torch.stack(each) for each in membranes]  # type: ignore[misc]
        return {"spk": spikes, "mem": membranes} if self.keyed else (spikes, membranes)


def outputs_of(net: Recording, inputs: Tensor, place: tuple[Any, ...]) -> Tensor:
    reset_own(net)
    found = net(inputs)
    for step in place:
        found = found[step]
    return (torch.stack(found) if net.listed else found).detach()


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_hidden_recordings_returned_first(listed: bool, keyed: bool) -> None:
    torch.manual_seed(3)
    net = enlivened(Recording(listed=listed, keyed=keyed))
    inputs = torch.rand(SAMPLES, 1, 8, 8)
    hidden, right = (("spk", 0), ("spk", 1)) if keyed else ((0, 0), (0, 1))
    with pytest.raises(TraceError, match="read by layers behind it") as refused:
        trace(net, inputs[:4])
    assert f"outputs={right} (the spikes of 'lifs.1', 4 wide)" in str(refused.value)
    assert f"outputs={hidden} takes the first all the same" in str(refused.value)
    for place, recorded in ((right, "spikes"), (("mem", -1) if keyed else (1, -1), "membrane")):
        graph = trace(net, inputs[:4], outputs=place)
        assert (graph.readout, graph.width) == (recorded, 4)
        expected = outputs_of(net, inputs, place)
        readout = Simulator(graph, inputs, STEPS).run().readout
        torch.testing.assert_close(readout, graph.scores(expected), rtol=1e-4, atol=1e-4)
    assert trace(net, inputs[:4], outputs=hidden).width == 16, "as asked"


class Watched(nn.Module):
    """One time step that returns the hidden spikes before those of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 16), nn.Linear(16, 4)
        self.lif1, self.lif2 = (snn.Leaky(0.7, threshold=0.3, init_hidden=True) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.lif1(self.fc1(x.flatten(1)))
        return hidden, self.lif2(self.fc2(hidden))


def test_hidden_spikes_of_one_step_returned_first() -> None:
    net, inputs = enlivened(Watched()), torch.rand(SAMPLES, 1, 8, 8)
    with pytest.raises(TraceError, match=r"outputs=\(1,\) \(the spikes of 'lif2', 4 wide\)"):
        trace(net, inputs[:4])
    graph = trace(net, inputs[:4], outputs=1)
    assert [group.name for group in graph.groups] == ["fc1"]
    expected = step_outputs(net, inputs)[1].sum(0)
    assert expected.std() > 0
    torch.testing.assert_close(Simulator(graph, inputs, STEPS).run().readout, expected)
    assert "fc1" not in [group.name for group in trace(net, inputs[:4], outputs=0).groups]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (2, r"outputs=\(2,\) leads nowhere in .*: a tuple of 2 \(a list of 2 \(one tensor"),
        ((0, 7), r"outputs=\(0, 7\) leads nowhere"),
        ("spk", r"outputs=\('spk',\) leads nowhere"),
        (0, r"outputs=\(0,\) leads to a list of 2; go on to one tensor"),
        ((0, 1, 0), r"leads nowhere"),
        (0.5, r"outputs is 0\.5; it must be an index, a key, or several"),
        (True, "outputs is True; it must be"),
    ],
)
def test_places_that_are_none(place: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(Recording(), images(), outputs=place)


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"readout": "population"}, "needs num_classes: the network has 4 outputs"),
        ({"readout": "population", "num_classes": 3}, "4 outputs into num_classes = 3 blocks"),
        ({"readout": "spikes", "num_classes": 2}, "4 outputs; if blocks .* readout='population'"),
        ({"num_classes": 8}, "num_classes is 8, but the network has 4 outputs; if another"),
        ({"num_classes": 0}, "num_classes is 0; it must be a whole number, at least 1"),
        ({"num_classes": True}, "num_classes is True"),
        ({"readout": "latenzy"}, "unknown readout 'latenzy'; did you mean 'latency'"),
    ],
)
def test_classes_and_outputs_that_do_not_fit(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(LoopNet(stacked), images(), **asked)


def test_latency_needs_spikes() -> None:
    current = LoopNet(lambda net, x: net.current(x))
    with pytest.raises(TraceError, match="readout 'latency' needs an output neuron's spikes"):
        trace(current, images(), readout="latency")


def raising(outputs: Tensor) -> Tensor:
    raise ZeroDivisionError("no")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda o: o.sum(0).argmax(1),
            TraceError,
            r"int64 of shape \(5,\) .* not the class itself",
        ),
        (lambda o: o.sum(0).tolist(), TraceError, "returns a list"),
        (lambda o: o, TraceError, r"shape \(3, 5, 4\) for outputs"),
        (lambda o: o.sum(0).softmax(0), TraceError, "otherwise when others stand beside it"),
        (raising, PluginError, r"the readout raised ZeroDivisionError: no \(.*test_decision.py"),
    ],
)
def test_functions_that_give_no_scores(function: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_function(Decision("own", None, function), torch.rand(3, 5, 4))
    check_function(Decision("own", None, lambda o: o.sum(0)), torch.rand(3, 5, 4))
