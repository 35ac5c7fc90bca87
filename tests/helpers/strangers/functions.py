"""Stateless functions and modules, between a convolution and its neuron or behind the neuron."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from strangers.base import LOOP, Between, Function, Stranger, lif
from torch import Tensor, nn

SECOND = {"conv2": 5}


class SqueezeExcite(nn.Module):
    """Global pooling, two linear layers, a gate per channel."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 3), nn.Linear(3, channels)

    def forward(self, x: Tensor) -> Tensor:
        w = F.adaptive_avg_pool2d(x, 1).flatten(1)
        w = torch.sigmoid(self.up(F.relu(self.down(w))))
        return x * w[:, :, None, None]


class ConvSqueezeExcite(nn.Module):
    """The same with 1x1 convolutions, as torchvision writes it."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(self.pool(x))))) * x


class SpatialGate(nn.Module):
    """CBAM's second half: one gate per place, from mean and maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(seen))


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class Logged(nn.Module):
    """Keeps mean rates for a plot."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rates.append(x.mean().item())
        return x


def scaled_in_place(_: Any, x: Tensor) -> Tensor:
    x *= 1.5
    return x


def halves_swapped(_: Any, x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, dim=1)[::-1], dim=1)


def standardised(_: Any, x: Tensor) -> Tensor:
    m, s = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
    return (x - m) / (s + 1e-5)


def sum_of_halves(net: Any, x: Tensor) -> Tensor:
    return 0.5 * (x + net.side(x))


def view_written_over(_: Any, x: Tensor) -> Tensor:
    x.flatten(1).relu_()
    return x


class CheckedNorm(nn.BatchNorm2d):
    """Takes any number of axes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass


class OwnNorm(nn.BatchNorm2d):
    """Its forward may do anything."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class StandardisedWeights(nn.Conv2d):
    """Weight standardisation, by the method behind forward."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return super()._conv_forward(x, weight, bias)


def decides(_: Any, x: Tensor) -> Tensor:
    return x if x.mean().item() > 0 else -x


def gamma(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 + torch.rand(*shape))


def fn(function: Callable[[Any, Tensor], Any], **own: Callable[[], Any]) -> Callable[[], nn.Module]:
    """Makes a function with layers and parameters of its own."""
    return lambda: Function(function, **{name: make() for name, make in own.items()})


PASSES: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("relu", "nn.ReLU", nn.ReLU),
    ("relu in place", "nn.ReLU(inplace=True)", lambda: nn.ReLU(inplace=True)),
    ("gelu", "nn.GELU", nn.GELU),
    ("silu", "F.silu", fn(lambda _, x: F.silu(x))),
    ("leaky relu", "F.leaky_relu(x, 0.1)", fn(lambda _, x: F.leaky_relu(x, 0.1))),
    ("softplus", "nn.Softplus", nn.Softplus),
    ("hard tanh", "nn.Hardtanh", nn.Hardtanh),
    ("clamp", "x.clamp(-1, 1)", fn(lambda _, x: x.clamp(-1, 1))),
    ("prelu", "nn.PReLU with one weight", nn.PReLU),
    ("prelu per channel", "nn.PReLU with a weight per channel", lambda: nn.PReLU(6)),
    ("scale", "x * 2.5", fn(lambda _, x: x * 2.5)),
    ("scale in place", "x *= 1.5", fn(scaled_in_place)),
    ("learned scale", "x * self.gamma, one number", fn(lambda s, x: x * s.g, g=lambda: gamma(1))),
    (
        "learned scale per channel",
        "x * self.gamma of shape (C, 1, 1)",
        fn(lambda s, x: x * s.g, g=lambda: gamma(6, 1, 1)),
    ),
    (
        "layer scale",
        "x * self.gamma.view(1, -1, 1, 1)",
        fn(lambda s, x: x * s.g.view(1, -1, 1, 1), g=lambda: gamma(6)),
    ),
    (
        "gate from a parameter",
        "x * sigmoid(self.gamma)",
        fn(lambda s, x: x * torch.sigmoid(s.g), g=lambda: gamma(6, 1, 1)),
    ),
    (
        "learned shift",
        "x + self.bias[None, :, None, None]",
        fn(lambda s, x: x + s.b[None, :, None, None], b=lambda: gamma(6)),
    ),
    ("zero pad", "nn.ZeroPad2d, max pooling with stride 1", lambda: nn.Sequential(
        nn.ZeroPad2d(1), nn.MaxPool2d(3, 1))),
    ("pad and crop", "F.pad, x[:, :, 1:-1, 1:-1]",
     fn(lambda _, x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1])),
    ("reflect pad", "nn.ReflectionPad2d", lambda: nn.ReflectionPad2d(1)),
    ("adaptive max pool", "nn.AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d(6)),
    ("lp pool", "nn.LPPool2d", lambda: nn.LPPool2d(2, 2)),
    ("upsample", "nn.Upsample", lambda: nn.Upsample(scale_factor=2)),
    (
        "interpolate",
        'F.interpolate(size=, mode="bilinear")',
        fn(lambda _, x: F.interpolate(x, size=(6, 6), mode="bilinear")),
    ),
    ("flip", "x.flip(-1)", fn(lambda _, x: x.flip(-1))),
    ("where", "torch.where(x > 0, x, 0.1 * x)", fn(lambda _, x: torch.where(x > 0, x, 0.1 * x))),
    ("mask", "x * (x > 0)", fn(lambda _, x: x * (x > 0))),
    ("power", "x ** 2 - x", fn(lambda _, x: x**2 - x)),
    ("instance norm", "nn.InstanceNorm2d", lambda: nn.InstanceNorm2d(6)),
    ("standardise by hand", "(x - x.mean((2, 3), keepdim=True)) / x.std(...)", fn(standardised)),
    ("weighted residual", "0.5 * (x + conv(x))",
     fn(sum_of_halves, side=lambda: nn.Conv2d(6, 6, 1))),
    ("rounding", "x.round()", fn(lambda _, x: x.round())),
    ("sorted places", "x.sort(-1).values", fn(lambda _, x: x.sort(-1).values)),
    ("max pooling and back", "F.max_unpool2d",
     fn(lambda _, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2))),
    ("maximum of two branches", "torch.maximum(x, conv(x))",
     fn(lambda s, x: torch.maximum(x, s.side(x)), side=lambda: nn.Conv2d(6, 6, 1))),
    ("difference", "x - conv(x)",
     fn(lambda s, x: x - s.side(x), side=lambda: nn.Conv2d(6, 6, 1))),
    ("scaled addition", "torch.add(x, conv(x), alpha=0.5)",
     fn(lambda s, x: torch.add(x, s.side(x), alpha=0.5), side=lambda: nn.Conv2d(6, 6, 1))),
    ("BatchNorm with a check of its own", "class Mine(nn.BatchNorm2d) with _check_input_dim",
     lambda: CheckedNorm(6)),
    ("logging", "self.rates.append(x.mean().item())", Logged),
    ("identity", "nn.Identity", nn.Identity),
    ("local response norm on one map", "F.avg_pool2d with count_include_pad=False",
     fn(lambda _, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))),
)  # fmt: skip
"""Name, idiom, module: channel c passes to channel c alone."""

DROPS: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("dropout", "nn.Dropout", lambda: nn.Dropout(0.2)),
    ("dropout 2d", "nn.Dropout2d", lambda: nn.Dropout2d(0.2)),
    (
        "functional dropout",
        "F.dropout(x, 0.2, self.training)",
        fn(lambda s, x: F.dropout(x, 0.2, s.training)),
    ),
    (
        "functional dropout 2d",
        "F.dropout2d(x, 0.2, self.training)",
        fn(lambda s, x: F.dropout2d(x, 0.2, s.training)),
    ),
)
"""The same, and drops at random in training."""

HOLDS: tuple[tuple[str, str, str, Callable[[], nn.Module]], ...] = (
    ("group norm, one group", "nn.GroupNorm(1, C)", "normalises over all channels",
     lambda: nn.GroupNorm(1, 6)),
    ("group norm, two groups", "nn.GroupNorm(2, C)", "normalises over half the channels",
     lambda: nn.GroupNorm(2, 6)),
    ("layer norm on maps", "nn.LayerNorm([C, H, W])", "normalises over all channels",
     lambda: nn.LayerNorm([6, 8, 8])),
    ("local response norm", "nn.LocalResponseNorm", "sums over neighbouring channels",
     lambda: nn.LocalResponseNorm(3)),
    ("channel shuffle", "view, transpose, reshape", "moves channels", Shuffle),
    ("halves swapped", "torch.cat(x.chunk(2, 1)[::-1], 1)", "moves channels", fn(halves_swapped)),
    ("roll", "x.roll(1, 1)", "moves channels", fn(lambda _, x: x.roll(1, 1))),
    ("winner takes all", "x * (x == x.amax(1, keepdim=True))", "compares channels",
     fn(lambda _, x: x * (x == x.amax(1, keepdim=True)))),
    ("unit vectors", "F.normalize(x, dim=1)", "normalises over all channels",
     fn(lambda _, x: F.normalize(x, dim=1))),
    ("layer norm, channels last", "nn.LayerNorm(C) on x.permute(0, 2, 3, 1)",
     "normalises over all channels",
     fn(lambda s, x: s.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=lambda: nn.LayerNorm(6))),
    ("cumulative sum", "x.cumsum(1)", "sums over channels", fn(lambda _, x: x.cumsum(1))),
    ("fixed scale per channel", "x * torch.linspace(...).view(C, 1, 1)",
     "is multiplied by numbers written into forward",
     fn(lambda _, x: x * torch.linspace(0.5, 1.5, 6).view(6, 1, 1))),
    ("softmax over channels", "x.softmax(1)", "normalises over all channels",
     fn(lambda _, x: 4 * x.softmax(1))),
)  # fmt: skip
"""Name, idiom, why conv1 is not pruned, module."""

REFUSES: tuple[tuple[str, str, str, Callable[[], nn.Module]], ...] = (
    ("decision on values", "x if x.mean().item() > 0 else -x",
     "takes a decision on the values of a tensor", fn(decides)),
    ("mean over the batch", "x - x.mean(0)", "does not give one value for every sample",
     fn(lambda _, x: x - x.mean(0))),
    ("noise", "x + torch.rand_like(x)", "made for 4 samples, as noise",
     fn(lambda _, x: x + torch.rand_like(x))),
    ("transposed convolution", "nn.ConvTranspose2d",
     "function 'conv_transpose2d' in module 'middle' (ConvTranspose2d), which adds up products",
     lambda: nn.ConvTranspose2d(6, 6, 3, padding=1)),
    ("functional convolution", "F.conv2d(x, self.weight)",
     "function 'conv2d' in module 'middle' (Function), which adds up products",
     fn(lambda s, x: F.conv2d(x, s.w, padding=1), w=lambda: gamma(6, 6, 3, 3))),
    ("3-D convolution", "nn.Conv3d on x.unsqueeze(1)",
     "adds up products",
     fn(lambda s, x: s.c(x.unsqueeze(1)).squeeze(1), c=lambda: nn.Conv3d(1, 1, 3, padding=1))),
    ("matrix of weights", "x @ self.weight", "multiplies by a matrix that is no layer",
     fn(lambda s, x: x @ s.w, w=lambda: gamma(8, 8))),
    ("weight standardisation", "a subclass of nn.Conv2d with _conv_forward",
     "fires otherwise in the simulation than in the network's own forward",
     lambda: StandardisedWeights(6, 6, 3, padding=1)),
    ("spectral norm", "nn.utils.parametrizations.spectral_norm(conv)", "has a parametrization",
     lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 3, padding=1))),
    ("Fourier transform", "torch.fft.rfft(x)", "function 'fft_rfft' in module 'middle' (Function), "
     "which adds up products", fn(lambda _, x: torch.fft.irfft(torch.fft.rfft(x)))),
    ("bilinear", "nn.Bilinear", "adds up products",
     fn(lambda s, x: s.b(x, x), b=lambda: nn.Bilinear(8, 8, 8))),
    ("convolution by hand", "(x.unsqueeze(1) * self.weight).sum(2)",
     "multiplies every value by several numbers",
     fn(lambda s, x: (x.unsqueeze(1) * s.w).sum(2), w=lambda: gamma(6, 6, 1, 1))),
    ("layer called twice", "conv(x) + conv(x)",
     "layer 'middle.conv' is called 2 times on the same input within 1 time step",
     fn(lambda s, x: s.conv(x) + s.conv(x), conv=lambda: nn.Conv2d(6, 6, 1))),
    ("view written over", "x.flatten(1).relu_()",
     "reads the result of an in-place operation on a part or a view",
     fn(view_written_over)),
    ("input of a layer written over", "x.add_(conv(x))", "cannot be differentiated",
     fn(lambda s, x: x.add_(s.conv(x)), conv=lambda: nn.Conv2d(6, 6, 1))),
    ("cut from autograd", "x.detach()",
     "fine-tuning would not train 'conv1.weight'", fn(lambda _, x: x.detach())),
    ("noise in training", "x + torch.randn_like(x) if self.training",
     "computes something else in training",
     fn(lambda s, x: x + torch.randn_like(x) if s.training else x)),
    ("alpha dropout", "nn.AlphaDropout", "computes something else in training",
     lambda: nn.AlphaDropout(0.2)),
    ("random slopes", "nn.RReLU", "computes something else in training", nn.RReLU),
    ("instance norm with statistics", "nn.InstanceNorm2d(track_running_stats=True)",
     "computes something else in training",
     lambda: nn.InstanceNorm2d(6, track_running_stats=True)),
    ("3-D BatchNorm", "nn.BatchNorm3d on x.unsqueeze(2)", "computes something else in training",
     fn(lambda s, x: s.b(x.unsqueeze(2)).squeeze(2), b=lambda: nn.BatchNorm3d(6))),
    ("subclass of BatchNorm", "class Mine(nn.BatchNorm2d) with a forward",
     "computes something else in training", lambda: OwnNorm(6)),
    ("dropout that never stops", "F.dropout(x) without training=", "draws at random",
     fn(lambda _, x: F.dropout(x, 0.2))),
)  # fmt: skip
"""Name, idiom, part of the message, module."""


HOOKED = ("convolution with a hook", "register_forward_hook that doubles the output")


def hooked() -> nn.Module:
    """A hook changes what a layer gives."""
    net = Between(nn.Identity())
    net.conv2.register_forward_hook(lambda module, args, output: 2 * output)
    return net


def _between(make: Callable[[], nn.Module], **options: Any) -> nn.Module:
    return Between(make(), **options)


def normalised_input() -> nn.Module:
    """Pixels are shifted and scaled in forward."""
    scale = Function(lambda _, x: (x - 0.5) / 0.5)
    body = Between(nn.Identity())
    return nn.Sequential(scale, body)


def _all() -> list[Stranger]:
    found = [
        Stranger(name, idiom, partial(_between, make), groups=LOOP) for name, idiom, make in PASSES
    ]
    found += [
        Stranger(name, idiom, partial(_between, make), groups=LOOP, draws=True)
        for name, idiom, make in DROPS
    ]
    found += [
        Stranger(name, idiom, partial(_between, make), groups=SECOND, fixed={"conv1": why})
        for name, idiom, why, make in HOLDS
    ]
    found += [
        Stranger(name, idiom, partial(_between, make), refused=message)
        for name, idiom, message, make in REFUSES
    ]
    return found


BY_ITSELF = [
    Stranger(
        "squeeze and excite",
        "x * sigmoid(fc(relu(fc(global pool)))) with linear layers",
        lambda: Between(SqueezeExcite()),
        groups={"conv1": 6, "middle.down": 3, "conv2": 5},
    ),
    Stranger(
        "squeeze and excite behind the neuron",
        "1x1 convolutions on pooled spikes",
        lambda: Between(ConvSqueezeExcite(), after=True),
        groups={"conv1": 6, "middle.fc1": 2, "conv2": 5},
    ),
    Stranger(*HOOKED, hooked, groups=LOOP),
    Stranger(
        "ConvNeXt's layers",
        "Linear on x.permute(0, 2, 3, 1), GELU, Linear",
        partial(
            _between,
            fn(
                lambda s, x: x + s.b(F.gelu(s.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2),
                a=lambda: nn.Linear(6, 9),
                b=lambda: nn.Linear(9, 6),
            ),
        ),
        groups={"conv1": 6, "middle.a": 9, "conv2": 5},
    ),
    Stranger(
        "gated linear units",
        "F.glu(conv(x), 1)",
        partial(_between, fn(lambda s, x: F.glu(s.side(x), 1), side=lambda: nn.Conv2d(6, 12, 1))),
        groups=LOOP,
        fixed={"middle.side": "one half of it multiplies the other"},
    ),
    Stranger(
        "maxout",
        "conv(x).view(B, C, 2, H, W).max(2).values",
        partial(
            _between,
            fn(
                lambda s, x: s.side(x).view(len(x), 6, 2, 8, 8).max(2).values,
                side=lambda: nn.Conv2d(6, 12, 1),
            ),
        ),
        groups=LOOP,
        fixed={"middle.side": "its channels compete in pairs"},
    ),
    Stranger(
        "spatial gate",
        "x * sigmoid(conv(cat(mean, max over channels)))",
        lambda: Between(SpatialGate()),
        groups=SECOND,
        fixed={"conv1": "a gate is made of all channels", "middle.conv": "is the gate"},
    ),
    Stranger(
        "pixel shuffle",
        "nn.PixelShuffle(2)",
        lambda: Between(nn.PixelShuffle(2), channels=(8, 2)),
        groups=SECOND,
        fixed={"conv1": "channels become places"},
    ),
    Stranger(
        "global mean",
        "x.mean((2, 3)) instead of a pooling",
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3),
            lif(),
            nn.Conv2d(6, 8, 3),
            lif(),
            Function(lambda _, x: x.mean((2, 3))),
            nn.Linear(8, 4),
            lif(),
        ),
        groups={"0": 6, "2": 8},
    ),
    Stranger(
        "normalised pixels",
        "(x - 0.5) / 0.5 at the start of forward",
        normalised_input,
        groups={"1.conv1": 6, "1.conv2": 5},
    ),
    Stranger(
        "softmax before the output neuron",
        "h.softmax(1) between the classifier and its neuron",
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3),
            lif(),
            nn.Flatten(),
            nn.Linear(216, 4),
            Function(lambda _, x: x.softmax(1)),
            lif(),
        ),
        groups={"0": 6},
    ),
]

FUNCTIONS = [*_all(), *BY_ITSELF]
