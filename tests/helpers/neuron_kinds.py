"""Neurons of every kind that is simulated, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Protocol

import snntorch as snn
import torch
from torch import Tensor, nn
from training_steps import arctan


class Make(Protocol):
    """Makes a neuron for so many channels and spatial dimensions."""

    def __call__(self, channels: int, dims: int, **options: Any) -> snn.SpikingNeuron: ...


def some(low: float, high: float, channels: int, dims: int) -> Tensor:
    """Random values, one per channel."""
    return low + (high - low) * torch.rand(channels, *(1,) * dims)


# ------------------------------------------------------------------ snnTorch's own


def leaky(channels: int, dims: int, **options: Any) -> snn.Leaky:
    beta, threshold = some(0.4, 0.9, channels, dims), some(0.1, 0.4, channels, dims)
    return snn.Leaky(beta, threshold, spike_grad=arctan, **options)


def synaptic(channels: int, dims: int, **options: Any) -> snn.Synaptic:
    alpha, beta = some(0.3, 0.8, channels, dims), some(0.4, 0.9, channels, dims)
    threshold = some(0.2, 0.6, channels, dims)
    learned = {"learn_alpha": True, "learn_beta": True, "learn_threshold": True}
    return snn.Synaptic(alpha, beta, threshold, spike_grad=arctan, **learned, **options)


def alpha(channels: int, dims: int, **options: Any) -> snn.Alpha:
    slow, fast = some(0.7, 0.9, channels, dims), some(0.2, 0.6, channels, dims)
    threshold = some(0.05, 0.2, channels, dims)
    learned = {"learn_beta": True, "learn_threshold": True}
    return snn.Alpha(slow, fast, threshold, spike_grad=arctan, **learned, **options)


def lapicque(channels: int, dims: int, **options: Any) -> snn.Lapicque:
    return snn.Lapicque(
        R=5.1, C=0.3, threshold=0.3, learn_threshold=True, spike_grad=arctan, **options
    )


# ------------------------------------------------------------------ recurrent


def wired(channels: int, dims: int, one_to_one: bool) -> dict[str, Any]:
    """Options of a recurrent neuron of a convolution, or of a linear layer."""
    if one_to_one:
        return {"all_to_all": False, "V": some(-0.5, 0.8, channels, dims)}
    if dims:
        return {"conv2d_channels": channels, "kernel_size": 3}
    return {"linear_features": channels}


def rleaky(channels: int, dims: int, one_to_one: bool = False, **options: Any) -> snn.RLeaky:
    beta, threshold = some(0.4, 0.9, channels, dims), some(0.1, 0.4, channels, dims)
    learned = {"learn_beta": True, "learn_threshold": True}
    wiring = wired(channels, dims, one_to_one)
    return snn.RLeaky(beta, threshold=threshold, spike_grad=arctan, **learned, **wiring, **options)


def rsynaptic(channels: int, dims: int, one_to_one: bool = False, **options: Any) -> snn.RSynaptic:
    alpha, beta = some(0.3, 0.8, channels, dims), some(0.4, 0.9, channels, dims)
    threshold = some(0.05, 0.2, channels, dims)
    learned = {"learn_alpha": True, "learn_beta": True, "learn_threshold": True}
    wiring = wired(channels, dims, one_to_one)
    return snn.RSynaptic(
        alpha, beta, threshold=threshold, spike_grad=arctan, **learned, **wiring, **options
    )


# ------------------------------------------------------------------ subclasses and patches


class DecayedInput(snn.Leaky):
    """u(t) = beta * u(t-1) + (1 - beta) * x(t), in the way that suggests itself."""

    def _base_state_function(self, input_: Tensor) -> Tensor:
        beta = self.beta.clamp(0, 1)
        return beta * self.mem + (1 - beta) * input_


class Adaptive(snn.Leaky):
    """A second state besides the membrane, and a parameter that does not broadcast."""

    def __init__(self, *args: Any, channels: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(0.1 + 0.4 * torch.rand(channels))
        self.tired: Tensor | None = None

    def reset_mem(self) -> Tensor:
        self.tired = None
        return super().reset_mem()

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        gain = self.gain.view(-1, *(1,) * (input_.dim() - 2))
        tired = torch.zeros_like(input_) if self.tired is None else self.tired
        output = super().forward(input_ - gain * tired, mem)
        spikes = output[0] if isinstance(output, tuple) else output
        self.tired = 0.5 * tired + spikes
        return output


class OnlyDefaults(snn.Leaky):
    """Sets defaults and does nothing else, so it is plain."""

    def __init__(self, **options: Any) -> None:
        super().__init__(0.7, 0.4, spike_grad=arctan, **options)


def decayed(channels: int, dims: int, **options: Any) -> snn.Leaky:
    beta, threshold = some(0.2, 0.6, channels, dims), some(0.1, 0.3, channels, dims)
    options = {"learn_beta": True, "spike_grad": arctan, **options}
    return DecayedInput(beta, threshold, **options)


def patched_fire(channels: int, dims: int, **options: Any) -> snn.Leaky:
    neuron = snn.Leaky(0.7, 0.2, spike_grad=arctan, **options)
    neuron.fire = lambda mem: arctan(mem - 0.5)
    return neuron


def adaptive(channels: int, dims: int, **options: Any) -> snn.Leaky:
    return Adaptive(0.7, 0.3, channels=channels, spike_grad=arctan, **options)


def quantised(channels: int, dims: int, **options: Any) -> snn.Leaky:
    return snn.Leaky(0.7, 0.3, state_quant=to_quarters, spike_grad=arctan, **options)


def to_quarters(mem: Tensor) -> Tensor:
    return mem + ((mem * 4).round() / 4 - mem).detach()


def resets(make: Make, name: str, *delays: bool) -> dict[str, Make]:
    """A kind with every reset setting."""
    kinds: dict[str, Make] = {}
    for reset, delay in product(["subtract", "zero", "none"], delays or (True,)):
        given: dict[str, Any] = {"reset_mechanism": reset}
        if delays:
            given["reset_delay"] = delay
        label = f"{name}, {reset}" + ("" if delay else " at once")
        kinds[label] = partial(make, **given)
    return kinds


one_to_one = {"one_to_one": True}
RECURRENT: dict[str, Make] = {
    **resets(rleaky, "RLeaky"),
    "RLeaky, zero at once": partial(rleaky, reset_mechanism="zero", reset_delay=False),
    "RLeaky, frozen": partial(rleaky, learn_recurrent=False),
    "RLeaky one to one": partial(rleaky, **one_to_one),
    "RLeaky one to one, frozen": partial(
        rleaky, **one_to_one, learn_recurrent=False, reset_delay=False
    ),
    **resets(rsynaptic, "RSynaptic"),
    "RSynaptic one to one": partial(rsynaptic, **one_to_one, reset_mechanism="none"),
}
"""Whose spikes come back."""

MODELS: dict[str, Make] = {
    **resets(leaky, "Leaky", True, False),
    **resets(synaptic, "Synaptic", True, False),
    **resets(alpha, "Alpha"),
    **resets(lapicque, "Lapicque"),
    **RECURRENT,
}
"""What is written out in the package."""

GENERAL: dict[str, Make] = {
    "decayed input": decayed,
    "decayed input, zero at once": partial(decayed, reset_mechanism="zero", reset_delay=False),
    "patched fire": patched_fire,
    "adaptive": adaptive,
    "quantised": quantised,
}
"""What steps itself."""

KINDS = {**MODELS, **GENERAL}

ShapedMake = Callable[[int, int], snn.SpikingNeuron]


def hidden(make: Make) -> ShapedMake:
    """Neurons that keep their state themselves."""
    return partial(make, init_hidden=True)


class ExplicitNet(nn.Module):
    """snnTorch's tutorial on (1, 8, 8): states travel from hand to hand through a loop."""

    def __init__(self, make: Make, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Conv2d(1, 5, 3)
        self.lif1 = make(5, 2)
        self.hidden = nn.Linear(5 * 9, 6)
        self.lif2 = make(6, 0)
        self.fc = nn.Linear(6, 3)
        self.lif3 = make(3, 0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        neurons = (self.lif1, self.lif2, self.lif3)
        states = [at_rest(neuron) for neuron in neurons]
        spikes, membranes = [], []
        for _ in range(self.steps):
            h = called(self.lif1, self.conv(x), states[0])
            h = nn.functional.avg_pool2d(h, 2).flatten(1)
            h = called(self.lif2, self.hidden(h), states[1])
            h = called(self.lif3, self.fc(h), states[2])
            spikes.append(h)
            membranes.append(states[2][-1])
        return torch.stack(spikes), torch.stack(membranes)


def called(neuron: snn.SpikingNeuron, current: Tensor, states: list[Tensor]) -> Tensor:
    """The spikes of a step; the states, the last that are returned, are overwritten."""
    returned = neuron(current, *states)
    states[:] = returned[-len(states) :]
    return returned[0]


def at_rest(neuron: snn.SpikingNeuron) -> list[Tensor]:
    """The states that a neuron's reset gives."""
    states = neuron.reset_mem()
    return list(states) if isinstance(states, tuple) else [states]
