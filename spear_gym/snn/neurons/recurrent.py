"""What RLeaky and RSynaptic share: spikes come back one time step later, through synapses.

The synapses are the weights of the neuron's own layer ``recurrent``: a linear layer or a
convolution from all neurons to all, or one weight ``V`` from each neuron to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch._neurons import rleaky, rsynaptic
from torch import Tensor, nn

from spear_gym.snn.neurons.base import NEURONS, Model, Reset, State, Tensors, Wiring

ONE_TO_ONE = (rleaky.RecurrentOneToOne, rsynaptic.RecurrentOneToOne)
MAP = (12, 3, 3)
"""Channels, height and width of the sample on which a convolution is tried."""


@dataclass(frozen=True)
class Recurrent(Model):
    """A model whose first state is its spikes of the step before.

    Attributes:
        wiring: which neurons a spike comes back to.
        bias: whether the recurrent layer adds one, which it does at every step.
        padding: of a convolution.
        dilation: likewise.
    """

    wiring: Wiring = "linear"
    bias: bool = False
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()

    @classmethod
    def of(cls, neuron: snn.SpikingNeuron, reset: Reset, delay: bool) -> Self:
        """Reads the wiring off the recurrent layer."""
        layer = neuron.recurrent
        if isinstance(layer, nn.Conv2d):
            bias = layer.bias is not None
            return cls(reset, delay, "conv2d", bias, layer.padding, layer.dilation)
        if isinstance(layer, nn.Linear):
            return cls(reset, delay, "linear", layer.bias is not None)
        return cls(reset, delay, "one-to-one")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The recurrent weights besides."""
        weights = ("V",) if self.wiring == "one-to-one" else ("recurrent.weight",)
        return (*super().parameters, *weights, *(("recurrent.bias",) if self.bias else ()))

    def axes(self, name: str, tensor: Tensor, dims: int) -> tuple[int, ...]:
        """Recurrent weights are cut on both sides."""
        if name.startswith("recurrent."):
            return (0, 1) if name == "recurrent.weight" else (0,)
        return super().axes(name, tensor, dims)

    def describe(self) -> str:
        """The wiring besides."""
        geometry = f", padding={self.padding}, dilation={self.dilation}"
        wired = self.wiring + (geometry if self.wiring == "conv2d" else "")
        return f"{super().describe()[:-1]}, {wired})"

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """A linear layer needs features, a convolution maps."""
        axes = {"linear": 1, "conv2d": 3}.get(self.wiring, len(shape))
        if len(shape) == axes:
            return None
        needed = "(batch, features)" if axes == 1 else "(batch, channels, height, width)"
        return (
            f"has recurrent synapses that need {needed}, but its input has the shape {shape} per "
            "sample; use linear_features for features, conv2d_channels for maps, or "
            "all_to_all=False"
        )

    def resize(self, module: snn.SpikingNeuron) -> None:
        """Its widths, and that V is held twice."""
        take_widths(module)

    def returned(self, p: Tensors, spikes: Tensor) -> Tensor:
        """The current that the spikes of the step before give, ``(batch, channels, ...)``."""
        if self.wiring == "one-to-one":
            return spikes * p["V"]
        weight, bias = p["recurrent.weight"], p.get("recurrent.bias")
        if self.wiring == "linear":
            return F.linear(spikes, weight, bias)
        return F.conv2d(spikes, weight, bias, 1, self.padding, self.dilation)

    def fired(self, state: State, spikes: Tensor) -> State:
        """They are the state that comes back."""
        return (spikes, *state[1:])

    def trial(self, neuron: snn.SpikingNeuron) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """With recurrent weights drawn at random."""
        values, shape = super().trial(neuron)
        if self.wiring == "one-to-one":
            return {**values, "V": 0.6 * torch.linspace(-1, 1, NEURONS)}, shape
        generator = torch.Generator().manual_seed(1)
        size: tuple[int, ...] = (NEURONS, NEURONS)
        if self.wiring == "conv2d":
            shape = MAP
            size = (MAP[0], MAP[0], *neuron.recurrent.kernel_size)
            values = {
                name: value[: MAP[0]].view(-1, 1, 1) if value.dim() else value
                for name, value in values.items()
            }
        drawn = torch.randn(size, generator=generator)
        values["recurrent.weight"] = drawn / drawn[0].numel() ** 0.5
        if self.bias:
            values["recurrent.bias"] = 0.2 * torch.randn(size[0], generator=generator)
        return values, shape


def wiring_problem(neuron: snn.SpikingNeuron) -> str | None:
    """Why the recurrent synapses of a neuron cannot be simulated or counted."""
    inner = [name for name, _ in neuron.named_children()]
    if inner != ["recurrent"]:
        return (
            f"holds layers of its own ({', '.join(inner)}) beside or instead of snnTorch's "
            "`recurrent`, whose synapses would go uncounted"
        )
    layer = neuron.recurrent
    if type(layer) in ONE_TO_ONE:
        if torch.equal(layer.V.detach().to(neuron.V), neuron.V.detach()):
            return None
        return "holds a V that differs from `recurrent.V`, which is the one it uses; set both"
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return (
            f"has a recurrent layer of the class {type(layer).__name__}; its synapses are counted "
            "for nn.Linear, nn.Conv2d and all_to_all=False"
        )
    return _layer_problem(layer)


def _layer_problem(layer: Any) -> str | None:
    if "weight" not in layer._parameters:
        return (
            "has a recurrent layer that computes its weight before every call (weight_norm, "
            "torch.nn.utils.prune); make it permanent first"
        )
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    if any(hooks) or layer._backward_pre_hooks or "forward" in vars(layer):
        return "has a recurrent layer with a hook, or with a forward set on it; remove it"
    if layer.weight.shape[0] != layer.weight.shape[1] or getattr(layer, "groups", 1) != 1:
        return "has a recurrent layer that is not from all channels to all; groups must be 1"
    if isinstance(layer, nn.Conv2d) and not _keeps_size(layer):
        return (
            f"has a recurrent convolution of kernel_size {tuple(layer.kernel_size)}, padding "
            f"{layer.padding}, stride {layer.stride} and padding_mode '{layer.padding_mode}'; it "
            "must give maps of the size that it reads (odd kernel_size) and pad with zeros"
        )
    return None


def _keeps_size(layer: nn.Conv2d) -> bool:
    if layer.stride != (1, 1) or layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    axes = zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)
    return all(2 * pad == dilation * (kernel - 1) for pad, dilation, kernel in axes)


def tie(neuron: snn.SpikingNeuron) -> None:
    """Makes a neuron's two V one again.

    snnTorch holds V in the neuron and in its ``recurrent``; where it is not learned, a change of
    device or precision reaches the first alone.
    """
    layer = getattr(neuron, "recurrent", None)
    if isinstance(layer, ONE_TO_ONE):
        held: Any = layer._parameters if "V" in layer._parameters else vars(layer)
        held["V"] = neuron.V


def take_widths(module: snn.SpikingNeuron) -> None:
    """Lets a recurrent neuron remember the widths that its weights have, and hold V twice."""
    layer = module.recurrent
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
        module.linear_features = layer.out_features
    elif isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = layer.weight.shape[:2]
        module.conv2d_channels = layer.out_channels
    else:
        tie(module)
