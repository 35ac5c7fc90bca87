"""The compiled neuron update against PyTorch's operations one by one, and its fallbacks."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import OptionNet, ResidualNet, enlivened
from reference import SpikeRecorder, random_plan
from torch import Tensor

from spear_gym import device
from spear_gym.simulation.layers import apply_affine
from spear_gym.simulation.neurons import KERNEL, NeuronLayer
from spear_gym.simulation.simulate import Simulator
from spear_gym.simulation.synops import activity
from spear_gym.snn.neurons import Tensors, over_time
from spear_gym.snn.neurons.leaky import Leaky
from spear_gym.snn.trace import trace

STEPS = 4


def layer_of(reset: Any, tensors: Tensors, samples: int, counted: int) -> NeuronLayer:
    module = snn.Leaky(0.9, reset_mechanism=reset)
    return NeuronLayer(Leaky(reset), module, tensors, STEPS, samples, counted)


def step_by_step(reset: Any, tensors: Tensors, current: Tensor) -> Tensor:
    """Spikes by PyTorch's operations one by one."""
    module = snn.Leaky(0.9, reset_mechanism=reset)
    steps = over_time(Leaky(reset), module, tensors, current, STEPS)
    return torch.stack([spikes for spikes, _ in steps])


def parameters(generator: torch.Generator, row: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Random beta and threshold, each a scalar, per channel or per neuron."""

    def one() -> Tensor:
        shape = [(), (row[0], *(1,) * (len(row) - 1)), row][
            int(torch.randint(3, (), generator=generator))
        ]
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "beta": one() * 1.2 - 0.1,
        "threshold": one(),
        "graded_spikes_factor": torch.ones((), dtype=dtype),
    }


@given(
    seed=st.integers(0, 2**31),
    row=st.sampled_from([(1,), (7,), (600,), (3, 5), (2, 3, 4), (5, 16, 16)]),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    static=st.booleans(),
    normalised=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    cuts=st.lists(st.integers(1, 6), max_size=3),
)
def test_compiled_update_equals_pytorchs_bit_for_bit(
    seed: int,
    row: tuple[int, ...],
    reset: str,
    static: bool,
    normalised: bool,
    dtype: torch.dtype,
    cuts: list[int],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = parameters(generator, row, dtype)
    samples, counted = 7, 3
    shape = (1 if static else STEPS, samples, *row)
    current = torch.randn(shape, generator=generator, dtype=dtype)
    affine = None
    if normalised:
        scale = torch.rand(row[0], generator=generator, dtype=dtype) + 0.5
        affine = (scale, torch.randn(row[0], generator=generator, dtype=dtype))
    layer = layer_of(reset, tensors, samples, counted)
    ends = [*sorted(set(cuts)), samples]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        layer.run(current[:, start:end].clone(), affine, start)
    assert layer.way == KERNEL
    whole = current if affine is None else apply_affine(current, affine, in_place=False)
    expected = step_by_step(reset, tensors, whole)
    assert torch.equal(layer.spikes().to(dtype), expected)
    counts = layer.counts()
    assert counts is not None
    assert torch.equal(counts, expected[:, counted:].sum((0, 1)).long())


@pytest.mark.parametrize("factor", [0.7, -1.0, 0.0])
def test_graded_spikes(factor: float) -> None:
    tensors = {
        "beta": torch.tensor(0.9),
        "threshold": torch.tensor(0.5),
        "graded_spikes_factor": torch.tensor(factor),
    }
    current = torch.randn(STEPS, 5, 3)
    layer = layer_of("subtract", tensors, 5, 0)
    layer.run(current.clone(), None, 0)
    expected = step_by_step("subtract", tensors, current)
    assert torch.equal(layer.spikes(), expected)
    assert layer.counts() is None


# ------------------------------------------------------------------ fallbacks


def make(channels: int, dims: int, **options: Any) -> snn.Leaky:
    return snn.Leaky(0.8, threshold=0.3, init_hidden=True, **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"reset_mechanism": "zero"}, None),
        ({"reset_delay": False}, "reset_delay=False"),
        ({"reset_delay": False, "reset_mechanism": "none"}, None),
        ({"negative": True}, "a threshold is negative"),
    ],
)
def test_every_fallback_is_named(options: dict[str, Any], reason: str | None) -> None:
    negative = options.pop("negative", False)

    def maker(channels: int, dims: int) -> snn.Leaky:
        neuron = make(channels, dims, **options)
        if negative:
            neuron.threshold.fill_(-0.3)
        return neuron

    graph = trace(enlivened(OptionNet(maker)), torch.rand(4, 1, 8, 8))
    simulator = Simulator(graph, torch.rand(5, 1, 8, 8), STEPS)
    simulator.run()
    way = KERNEL if reason is None else f"neuron update: PyTorch, because {reason}"
    assert dict(simulator.statistics) == {way: len(graph.neurons)}
    simulator.run(random_plan(graph, 0))
    assert dict(simulator.statistics) == {way: 2 * len(graph.neurons)}


@pytest.mark.parametrize("network", [ResidualNet, "options"])
def test_without_numba_the_numbers_are_the_same_and_it_is_said(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OptionNet(make) if network == "options" else network()
    graph = trace(enlivened(model), torch.rand(4, 1, 8, 8))
    inputs, calibration = torch.rand(9, 1, 8, 8), torch.rand(6, 1, 8, 8)
    plan = random_plan(graph, 2)

    def run() -> tuple[SpikeRecorder, Any]:
        recorder = SpikeRecorder(
            graph, inputs, STEPS, scoring="recalibrated", calibration=calibration
        )
        return recorder, recorder.run(plan)

    fast, fast_walk = run()
    monkeypatch.setattr(device, "has_numba", lambda: False)
    slow, slow_walk = run()
    assert set(fast.statistics) == {KERNEL}
    assert set(slow.statistics) == {"neuron update: PyTorch, because Numba cannot be imported"}
    assert fast_walk.layers == slow_walk.layers
    assert fast_walk.neurons == slow_walk.neurons
    assert torch.equal(fast_walk.readout, slow_walk.readout)
    for name, spikes in fast.spikes.items():
        assert torch.equal(spikes, slow.spikes[name])


def test_numba_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    device.has_numba.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    try:
        assert device.loops("spear_gym.simulation.loops") is None
        assert device.fallback_reason(torch.zeros(1)) == "Numba cannot be imported"
    finally:
        device.has_numba.cache_clear()
    monkeypatch.undo()
    assert device.loops("spear_gym.simulation.loops") is not None


# ------------------------------------------------------------------ pieces


@pytest.mark.parametrize(
    ("scoring", "piece"), list(product(["plain", "recalibrated"], [1, 3000, 2**40]))
)
def test_pieces_change_nothing(scoring: Any, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = trace(enlivened(ResidualNet()), torch.rand(4, 1, 8, 8))
    graph.model.double()
    inputs = torch.rand(9, 1, 8, 8, dtype=torch.float64)
    calibration = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    plan = random_plan(graph, 2)

    def run() -> Any:
        simulator = Simulator(graph, inputs, STEPS, scoring=scoring, calibration=calibration)
        return simulator.run(plan)

    usual = run()
    monkeypatch.setattr(device, "PIECE_BYTES", piece)
    walk = run()
    assert walk.layers == usual.layers
    assert walk.neurons == usual.neurons
    torch.testing.assert_close(walk.readout, usual.readout)


@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(3, 4, 5), (1, 2, 700), (2, 5, 3, 4), (4, 3, 2, 16, 16)]),
)
def test_counting_bytes(seed: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(shape, generator=generator) < 0.3).to(torch.uint8)
    expected = (spikes != 0).sum((0, 1, 2))
    assert torch.equal(activity(spikes).per_position, expected)
    assert torch.equal(activity(spikes.float()).per_position, expected)
    view = torch.cat([spikes, spikes], dim=1)[:, : shape[1]]
    assert torch.equal(activity(view).per_position, expected)
