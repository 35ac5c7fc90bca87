"""Random networks: blocks of the catalogue put together, in one of several layouts of time.

A block is written once, for both ways to go through time: with `Stepwise` it computes one time
step, with `AtOnce` all of them, stateless layers folded and neurons in a loop of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from snntorch import utils
from strangers.base import STEPS, Function, run
from strangers.functions import Shuffle, SqueezeExcite, gamma
from strangers.kinds import DecayedInput, ReluReset
from torch import Tensor, nn

SIZE = 8
CLASSES = 3

# ------------------------------------------------------------------ ways through time


class Stepwise:
    """One time step; neurons keep their states."""

    def layer(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        return function(*values)

    def neuron(self, neuron: Any, value: Tensor) -> Tensor:
        return neuron(value)


class AtOnce:
    """All time steps, ``(time, batch, ...)``."""

    def layer(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        result = function(*(value.flatten(0, 1) for value in values))
        return result.unflatten(0, values[0].shape[:2])

    def neuron(self, neuron: Any, value: Tensor) -> Tensor:
        return run(neuron, value)


Way = Stepwise | AtOnce

# ------------------------------------------------------------------ parts

NEURONS: dict[str, Callable[..., snn.SpikingNeuron]] = {
    "leaky": lambda **k: snn.Leaky(beta=0.8, threshold=0.5, **k),
    "to zero": lambda **k: snn.Leaky(beta=0.6, threshold=0.4, reset_mechanism="zero", **k),
    "learned": lambda **k: snn.Leaky(
        beta=0.7, threshold=0.4, learn_beta=True, learn_threshold=True, **k
    ),
    "at once": lambda **k: snn.Leaky(beta=0.8, threshold=0.5, reset_delay=False, **k),
    "synaptic": lambda **k: snn.Synaptic(0.5, 0.8, threshold=0.5, **k),
    "decayed": lambda **k: DecayedInput(beta=0.6, threshold=0.2, **k),
    "non-negative": lambda **k: ReluReset(beta=0.8, threshold=0.5, **k),
}
EXPLICIT = ("leaky", "to zero", "learned", "at once")
"""Kinds that are handed their membrane in a loop of their own."""

FUNCTIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda c: nn.ReLU(),
    "gelu": lambda c: nn.GELU(),
    "scale": lambda c: Function(lambda _, x: 1.5 * x),
    "shift and scale": lambda c: Function(lambda _, x: (x - 0.2) / 0.5),
    "gamma": lambda c: Function(lambda s, x: x * s.g, g=gamma(c, 1, 1)),
    "gate": lambda c: Function(lambda s, x: x * torch.sigmoid(s.g), g=gamma(c, 1, 1)),
    "prelu": lambda c: nn.PReLU(c),
    "pad": lambda c: nn.ZeroPad2d((0, 1, 1, 0)),
    "crop": lambda c: Function(lambda _, x: F.pad(x, (1, 1, 1, 1))[..., 1:-1, 1:-1]),
    "upsample": lambda c: Function(lambda _, x: F.interpolate(x, scale_factor=1.5)),
    "adaptive max": lambda c: nn.AdaptiveMaxPool2d(4),
    "instance": lambda c: Function(lambda _, x: F.instance_norm(x, eps=0.01)),
    "where": lambda c: Function(lambda _, x: torch.where(x > 0, x, 0.1 * x)),
    "flip": lambda c: Function(lambda _, x: x.flip(-1)),
    "squeeze": lambda c: SqueezeExcite(c),
    "shuffle": lambda c: Shuffle() if c % 2 == 0 else nn.Identity(),
    "layer norm": lambda c: nn.GroupNorm(1, c),
    "softmax": lambda c: Function(lambda _, x: 3 * x.softmax(1)),
    "roll": lambda c: Function(lambda _, x: x.roll(1, 1)),
    "dropout": lambda c: nn.Dropout2d(0.0),
}
POOLS: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "maximum": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "functional": lambda: Function(lambda _, x: F.max_pool2d(x, 3, 1, 1)),
    "adaptive": lambda: nn.AdaptiveAvgPool2d(4),
    "power": lambda: nn.LPPool2d(2, 2, ceil_mode=True),
}
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: x + y,
    "add in place": lambda x, y: y.add_(x),
    "and": lambda x, y: x * y,
    "iand": lambda x, y: y * (1.0 - x),
    "mean": lambda x, y: 0.5 * (x + y),
    "maximum": torch.maximum,
}


@dataclass(frozen=True)
class Layer:
    """A convolution, and what follows up to the neuron."""

    channels: int
    kernel: int
    stride: int
    depthwise: bool
    norm: bool
    function: str
    neuron: str


@dataclass(frozen=True)
class Spec:
    """A network of the grammar.

    Attributes:
        blocks: name and options of each.
        layout: of time.
        hidden: features of the hidden linear layer.
        current: the output is a current, not spikes.
        output: how the recording over time is given back.
    """

    blocks: tuple[tuple[str, Any], ...]
    layout: str
    hidden: int
    current: bool
    output: str

    @property
    def varying(self) -> bool:
        return self.layout not in ("image", "repeated")


class ConvLayer(nn.Module):
    """Convolution, BatchNorm, a function, a neuron."""

    def __init__(self, spec: Layer, inputs: int, make: Callable[[str], nn.Module]) -> None:
        super().__init__()
        self.out = inputs if spec.depthwise else spec.channels
        groups = inputs if spec.depthwise else 1
        self.conv = nn.Conv2d(
            inputs, self.out, spec.kernel, spec.stride, spec.kernel // 2, groups=groups
        )
        self.norm = nn.BatchNorm2d(self.out) if spec.norm else nn.Identity()
        self.function = FUNCTIONS[spec.function](self.out) if spec.function else nn.Identity()
        self.neuron = make(spec.neuron)

    def run(self, way: Way, x: Tensor) -> Tensor:
        current = way.layer(lambda value: self.function(self.norm(self.conv(value))), x)
        return way.neuron(self.neuron, current)


class Plain(nn.Module):
    """A function or a pooling on its own."""

    def __init__(self, module: nn.Module, out: int) -> None:
        super().__init__()
        self.module, self.out = module, out

    def run(self, way: Way, x: Tensor) -> Tensor:
        return way.layer(self.module, x)


class Residual(nn.Module):
    """Two ways that are joined entry by entry."""

    def __init__(self, join: str, spec: Layer, inputs: int, make: Any) -> None:
        super().__init__()
        self.first = ConvLayer(spec, inputs, make)
        self.second = ConvLayer(
            Layer(inputs, 3, 1, False, True, "", spec.neuron), self.first.out, make
        )
        self.join, self.out = JOINS[join], inputs

    def run(self, way: Way, x: Tensor) -> Tensor:
        y = self.second.run(way, self.first.run(way, x))
        return way.layer(lambda one, other: self.join(one, other), x, y)


class Branches(nn.Module):
    """Two convolutions side by side, concatenated, perhaps with what they read."""

    def __init__(self, keep: bool, specs: tuple[Layer, Layer], inputs: int, make: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvLayer(spec, inputs, make) for spec in specs])
        self.keep = keep
        self.out = sum(branch.out for branch in self.branches) + keep * inputs

    def run(self, way: Way, x: Tensor) -> Tensor:
        found = [branch.run(way, x) for branch in self.branches] + ([x] if self.keep else [])
        return way.layer(lambda *parts: torch.cat(parts, 1), *found)


class Tokens(nn.Module):
    """An MLP on (batch, tokens, channels), added; then maps again."""

    def __init__(self, hidden: int, neuron: str, inputs: int, make: Any) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(inputs, hidden), make(neuron)
        self.fc2, self.lif2 = nn.Linear(hidden, inputs), make(neuron)
        self.out = inputs

    def run(self, way: Way, x: Tensor) -> Tensor:
        tokens = way.layer(lambda value: value.flatten(2).transpose(1, 2), x)
        h = way.neuron(self.lif1, way.layer(self.fc1, tokens))
        h = way.neuron(self.lif2, way.layer(self.fc2, h))
        return way.layer(
            lambda t, maps: t.transpose(1, 2).reshape(maps.shape),
            way.layer(torch.add, tokens, h),
            x,
        )


class Attention(nn.Module):
    """A product of tokens, whose channels are mixed."""

    def __init__(self, neuron: str, inputs: int, make: Any) -> None:
        super().__init__()
        self.q, self.lq = nn.Conv2d(inputs, inputs, 1), make(neuron)
        self.out = inputs

    def run(self, way: Way, x: Tensor) -> Tensor:
        q = way.neuron(self.lq, way.layer(self.q, x))
        return way.layer(self.mixed, q, x)

    def mixed(self, q: Tensor, x: Tensor) -> Tensor:
        k = x.flatten(2)
        return (0.2 * (q.flatten(2) @ k.transpose(1, 2)) @ k).view_as(x)


# ------------------------------------------------------------------ networks


class Net(nn.Module):
    """A network of the grammar, one time step or all."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        hidden = spec.layout != "at once"
        self.way: Way = Stepwise() if hidden else AtOnce()

        def make(kind: str) -> nn.Module:
            kind = kind if hidden or kind in EXPLICIT else EXPLICIT[len(kind) % len(EXPLICIT)]
            return NEURONS[kind](**({"init_hidden": True} if hidden else {}))

        channels, blocks = 1, []
        for name, options in spec.blocks:
            blocks.append(built(name, options, channels, make))
            channels = blocks[-1].out
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc1, self.lif1 = nn.Linear(4 * channels, spec.hidden), make("leaky")
        self.fc2 = nn.Linear(spec.hidden, CLASSES)
        self.lif2 = nn.Identity() if spec.current else make("leaky")
        self.current = spec.current

    def forward(self, x: Tensor) -> Tensor:
        way = self.way
        for block in self.blocks:
            x = block.run(way, x)
        x = way.neuron(self.lif1, way.layer(lambda v: self.fc1(self.pool(v).flatten(1)), x))
        x = way.layer(self.fc2, x)
        return x if self.current else way.neuron(self.lif2, x)


def built(name: str, options: Any, inputs: int, make: Any) -> Any:
    if name == "conv":
        return ConvLayer(options, inputs, make)
    if name == "function":
        return Plain(FUNCTIONS[options](inputs), inputs)
    if name == "pool":
        return Plain(POOLS[options](), inputs)
    if name == "residual":
        return Residual(*options, inputs, make)
    if name == "branches":
        return Branches(*options, inputs, make)
    if name == "tokens":
        return Tokens(*options, inputs, make)
    return Attention(options, inputs, make)


class InTime(nn.Module):
    """A network in one of the layouts of time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.net, self.spec = Net(spec), spec

    def forward(self, x: Tensor) -> Tensor:
        layout = self.spec.layout
        if layout in ("image", "frames"):
            return self.net(x)
        if layout == "batch first":
            frames = [x[:, t] for t in range(x.shape[1])]
        elif layout == "permuted":
            frames = x.permute(1, 0, 2, 3, 4)
        elif layout == "repeated":
            frames = x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        else:
            frames = x
        if layout == "at once":
            return self._given(self.net(x))
        utils.reset(self.net)
        return self._given(torch.stack([self.net(frame) for frame in frames]))

    def _given(self, recorded: Tensor) -> Tensor:
        output = self.spec.output
        if output == "sum":
            return recorded.sum(0)
        if output == "mean":
            return recorded.mean(0)
        return recorded.transpose(0, 1) if output == "batch first" else recorded


LAYOUTS = ("image", "frames", "time first", "batch first", "permuted", "repeated", "at once")

layers = st.builds(
    Layer,
    channels=st.integers(2, 6),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 1, 2]),
    depthwise=st.sampled_from([False, False, False, True]),
    norm=st.booleans(),
    function=st.sampled_from(["", "", *FUNCTIONS]),
    neuron=st.sampled_from([*NEURONS]),
)
same_size = st.builds(
    Layer,
    channels=st.integers(2, 5),
    kernel=st.sampled_from([1, 3]),
    stride=st.just(1),
    depthwise=st.just(False),
    norm=st.booleans(),
    function=st.sampled_from(["", "relu", "gamma", "gate", "scale", "flip", "squeeze"]),
    neuron=st.sampled_from([*NEURONS]),
)
blocks = st.one_of(
    st.tuples(st.just("conv"), layers),
    st.tuples(st.just("conv"), layers),
    st.tuples(st.just("function"), st.sampled_from([*FUNCTIONS])),
    st.tuples(st.just("pool"), st.sampled_from([*POOLS])),
    st.tuples(st.just("residual"), st.tuples(st.sampled_from([*JOINS]), same_size)),
    st.tuples(st.just("branches"), st.tuples(st.booleans(), st.tuples(same_size, same_size))),
    st.tuples(st.just("tokens"), st.tuples(st.integers(3, 8), st.sampled_from([*NEURONS]))),
    st.tuples(st.just("attention"), st.sampled_from([*NEURONS])),
)


@st.composite
def specs(draw: Any) -> Spec:
    """Networks of the grammar; a convolution comes first."""
    first = ("conv", draw(layers.filter(lambda layer: not layer.depthwise)))
    return Spec(
        (first, *draw(st.lists(blocks, max_size=4))),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(2, 6)),
        draw(st.booleans()),
        draw(st.sampled_from(["recorded", "batch first", "sum", "mean"])),
    )
