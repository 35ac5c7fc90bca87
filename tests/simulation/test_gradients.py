"""The compiled loops of training against the same operations in PyTorch, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import OptionNet, ResidualNet, enlivened
from snntorch import surrogate
from torch import Tensor, nn

from spear_gym import device
from spear_gym.simulation import differentiable, gradients
from spear_gym.simulation.differentiable import COMPILED, forward
from spear_gym.simulation.gradients import StepNorm
from spear_gym.simulation.layers import pool
from spear_gym.snn.neurons import leaky_scan
from spear_gym.snn.neurons.leaky_scan import LeakyScan, arctan_sharpness
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import digits_net

STEPS = 4


@pytest.fixture
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Calls a function with the compiled loops out of reach."""

    def call(function: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(device, "fallback_reason", lambda _: "a test says so")
            for module in (gradients, leaky_scan):
                patch.setattr(module, "_loops", lambda: pytest.fail("a compiled loop was used"))
            return function()

    return call


def leaky(reset: str) -> Callable[[int, int], snn.Leaky]:
    def make(channels: int, dims: int) -> snn.Leaky:
        beta = torch.rand(channels, *(1,) * dims)
        return snn.Leaky(beta, threshold=0.2, reset_mechanism=reset, init_hidden=True)

    return make


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits": partial(digits_net, 0),
    "residual": ResidualNet,
    **{reset: partial(OptionNet, leaky(reset)) for reset in ("subtract", "zero", "none")},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_training_step(
    name: str, dtype: torch.dtype, in_pytorch: Callable[[Callable[[], Any]], Any]
) -> None:
    torch.manual_seed(3)
    graph = trace(enlivened(NETWORKS[name]()), torch.rand(4, 1, 8, 8))
    model = graph.model.to(dtype).train()
    inputs, labels = torch.rand(6, 1, 8, 8, dtype=dtype), torch.arange(6) % 3
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def step() -> dict[str, Tensor]:
        model.load_state_dict(state)
        torch.manual_seed(0)  # dropout
        model.zero_grad()
        F.cross_entropy(forward(graph, inputs, STEPS, training=True), labels).backward()
        named = {f"gradient of {n}": p.grad for n, p in model.named_parameters()}
        return {n: t.clone() for n, t in (named | model.state_dict()).items() if t is not None}

    fast, slow = step(), in_pytorch(step)
    assert fast.keys() == slow.keys()
    assert any(bool((value != 0).any()) for n, value in fast.items() if n.startswith("gradient"))
    for key, value in fast.items():
        assert torch.equal(value, slow[key]), key


@given(
    seed=st.integers(0, 2**31),
    row=st.sampled_from([(3,), (2, 5), (3, 4, 4)]),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    static=st.booleans(),
)
def test_backward_of_the_scan_is_the_surrogates_own(
    seed: int, row: tuple[int, ...], reset: str, static: bool
) -> None:
    """A surrogate without a closed form takes the general way; the numbers are the same."""
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(1 if static else STEPS, 5, *row, generator=generator)
    above = torch.randn(STEPS, 5, *row, generator=generator)
    named = surrogate.atan(alpha=1.5)

    def anonymous(at: Tensor) -> Tensor:
        return named(at)

    assert arctan_sharpness(named) == 1.5
    assert arctan_sharpness(anonymous) is None
    results = []
    for spike_function in (named, anonymous):
        point = current.clone().requires_grad_(True)
        arguments = (torch.tensor(0.8), torch.tensor(0.4), STEPS, reset, spike_function)
        LeakyScan.apply(point, *arguments).backward(above)
        results.append(point.grad)
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("other", [surrogate.fast_sigmoid(), surrogate.sigmoid(), None])
def test_other_surrogates_are_not_taken_for_the_arctan(other: Any) -> None:
    assert arctan_sharpness(other) is None


def test_an_impostor_is_found_out() -> None:
    def atan(alpha: float) -> Any:
        def inner(at: Tensor) -> Tensor:
            return surrogate.FastSigmoid.apply(at, alpha)

        inner.__module__, inner.__qualname__ = "snntorch.surrogate", "atan.<locals>.inner"
        return inner

    assert arctan_sharpness(atan(2.0)) is None


@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("spatial", [(), (5,), (3, 4)])
def test_batch_norm(
    affine: tuple[bool, bool],
    spatial: tuple[int, ...],
    in_pytorch: Callable[[Callable[[], Any]], Any],
) -> None:
    value = torch.randn(STEPS, 6, 3, *spatial)
    above = torch.randn_like(value)
    given_ones = [torch.rand(3) if wanted else None for wanted in affine]

    def run() -> list[Tensor]:
        point = value.clone().requires_grad_(True)
        parameters = [None if p is None else p.clone().requires_grad_(True) for p in given_ones]
        out, mean, variance = StepNorm.apply(point, *parameters, 1e-5)
        out.backward(above)
        return [out, mean, variance, *(p.grad for p in (point, *parameters) if p is not None)]

    for fast, slow in zip(run(), in_pytorch(run), strict=True):
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("kind", ["spikes", "values", "nan"])
def test_max_pooling_hands_the_gradient_to_the_first_maximum(kind: str) -> None:
    function = partial(F.max_pool2d, kernel_size=2)
    value = torch.randn(7, 3, 6, 10)
    if kind == "spikes":
        value = (value > 0).float()
    elif kind == "nan":
        value[value > 1] = float("nan")
    above = torch.randn(7, 3, 3, 5)
    ours, theirs = value.clone().requires_grad_(True), value.clone().requires_grad_(True)
    pooled, expected = pool(function, ours), function(theirs)
    assert type(pooled.grad_fn).__name__ == "MaxPoolHalvesBackward"
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    pooled.backward(above)
    expected.backward(above)
    assert ours.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


# ------------------------------------------------------------------ fallbacks are named


def neurons(**options: Any) -> Callable[[int, int], snn.Leaky]:
    def make(channels: int, dims: int) -> snn.Leaky:
        return snn.Leaky(0.8, **{"threshold": 0.3, "init_hidden": True, **options})

    return make


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"reset_mechanism": "zero"}, None),
        ({"learn_beta": True}, "step by step, because beta, threshold or grade is learned"),
        ({"graded_spikes_factor": 0.5}, "step by step, because its spikes are graded"),
        ({"reset_delay": False}, "step by step, because reset_delay=False"),
        ({"threshold": -0.3}, "step by step, because a threshold is negative"),
        (
            {"spike_grad": surrogate.fast_sigmoid()},
            "PyTorch on the way back, because the surrogate is not atan",
        ),
    ],
)
def test_ways_of_training_are_those_really_taken(
    options: dict[str, Any], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: Counter[str] = Counter()

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*args: Any, **settings: Any) -> Any:
            taken[name] += 1
            return real(*args, **settings)

        monkeypatch.setattr(module, name, counted)

    graph = trace(enlivened(OptionNet(neurons(**options))), torch.rand(4, 1, 8, 8))
    inputs = torch.rand(6, 1, 8, 8)
    watch(leaky_scan, "_leaky_forward")
    watch(leaky_scan, "_leaky_backward")
    watch(differentiable, "over_time")
    forward(graph, inputs, STEPS, training=True).sum().backward()
    layers_ = len(graph.neurons)
    ways = differentiable.training_ways(graph, inputs)
    assert ways == {COMPILED if reason is None else f"training of neurons: {reason}": layers_}
    stepwise = reason is not None and reason.startswith("step by step")
    assert taken["over_time"] == (layers_ if stepwise else 0)
    assert taken["_leaky_forward"] == (0 if stepwise else layers_)
    assert taken["_leaky_backward"] == (layers_ if reason is None else 0)


def test_fallback_to_pytorch_is_named(
    in_pytorch: Callable[[Callable[[], Any]], Any],
) -> None:
    graph = trace(enlivened(OptionNet(neurons())), torch.rand(4, 1, 8, 8))
    ways = in_pytorch(lambda: differentiable.training_ways(graph, torch.rand(2, 1, 8, 8)))
    expected = "training of neurons: PyTorch, because a test says so"
    assert ways == {expected: len(graph.neurons)}
