"""The convolutional spiking networks of the shipped workloads.

Plain snnTorch modules in the single-step idiom (`init_hidden=True`): `forward` is one time step,
and the caller loops over time. Nothing here knows about pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import snntorch as snn
import torch
from snntorch import SpikingNeuron
from torch import nn

ResidualForm = Literal["add", "sew", "ms"]
RESIDUAL_FORMS: tuple[ResidualForm, ...] = get_args(ResidualForm)


class ConvSNN(nn.Module):
    """Blocks conv{i} - bn{i} - lif{i} [- pool{i}], then flatten and a linear classifier.

    conv: 3x3, padding 1, no bias. lif: `snn.Leaky`, membrane potential u <- beta * u + current,
    set to zero one step after it passes the threshold; beta = 0.5, threshold = 1, arctan
    surrogate. pool: max pooling by 2, which keeps spikes binary.

    The readout is the mean over time steps of the classifier's current (`readout="current"`).

    Args:
        channels: output channels of each block.
        pool_after: numbers of the blocks, from 1, that end with a pool.
        image_size: edge of the input in pixels; must survive the pools.
        in_channels: channels of the input.
        num_classes: outputs of the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        pool_after: Sequence[int],
        image_size: int,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        width, size = in_channels, image_size
        for i, out in enumerate(channels, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(width, out, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(out))
            self.add_module(f"lif{i}", _leaky())
            if i in pool_after:
                self.add_module(f"pool{i}", nn.MaxPool2d(2))
                size //= 2
            width = out
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(width * size * size, num_classes))
        unregister_neurons(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One time step: (batch, channel, height, width) -> classifier current (batch, class)."""
        for module in self.children():
            x = module(x)
        return x

    def reset_mem(self) -> None:
        """Set the membrane potentials of this network's own neurons to zero."""
        for module in self.children():
            if isinstance(module, snn.Leaky):
                module.reset_mem()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, in one of three forms.

    ``"add"``: the sum of currents goes into the second neuron (the direct translation of ResNet's
    block). ``"sew"``: spikes are added (spike-element-wise; Fang et al. 2021), so that values
    above 1 occur. ``"ms"``: neurons stand before the convolutions and currents are added
    (membrane shortcut; Hu et al. 2021).

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: of the first convolution and of the shortcut.
        form: where the addition stands.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, form: ResidualForm) -> None:
        super().__init__()
        self.form = form
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.lif1 = _leaky()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.lif2 = _leaky()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            current = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
            # Every convolution reads spikes, and what is added is of one kind.
            before = [_leaky()] if form == "ms" else []
            behind = [_leaky()] if form == "sew" else []
            self.shortcut = nn.Sequential(*before, *current, *behind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One time step: (batch, inputs, height, width) -> (batch, outputs, ...)."""
        beside: torch.Tensor = self.shortcut(x)
        if self.form == "ms":
            h = self.bn1(self.conv1(self.lif1(x)))
            current: torch.Tensor = self.bn2(self.conv2(self.lif2(h)))
            return current + beside
        current = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)))))
        if self.form == "sew":
            spikes: torch.Tensor = self.lif2(current)
            return spikes + beside
        fired: torch.Tensor = self.lif2(current + beside)
        return fired


class ResNetSNN(nn.Module):
    """A spiking ResNet of two blocks a stage, with the stem for small images.

    Neurons and read-out as in :class:`ConvSNN`; 18 layers with four stages.

    Args:
        form: see :class:`ResidualBlock`.
        widths: channels of each stage; every stage but the first halves the image.
        in_channels: channels of the input.
        num_classes: outputs of the classifier.
    """

    def __init__(
        self,
        form: ResidualForm = "add",
        widths: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.lif: nn.Module = nn.Identity() if form == "ms" else _leaky()
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(inputs, width, stride, form))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.last: nn.Module = _leaky() if form == "ms" else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(inputs, num_classes)
        unregister_neurons(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One time step: (batch, channel, height, width) -> classifier current (batch, class)."""
        x = self.last(self.blocks(self.lif(self.bn(self.conv(x)))))
        return self.classifier(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


def digits_net(seed: int) -> ConvSNN:
    """Four conv layers for `digits` (8x8), T = 4, initialised from `seed`."""
    return _seeded(seed, channels=(16, 32, 32, 32), pool_after=(2, 4), image_size=8)


def cluttered_digits_net(seed: int) -> ConvSNN:
    """Five conv layers for `cluttered-digits` (16x16), T = 4, initialised from `seed`."""
    return _seeded(seed, channels=(12, 24, 32, 32, 32), pool_after=(1, 3, 5), image_size=16)


def digits_events_net(seed: int) -> ConvSNN:
    """Four conv layers for `digits-events` (16x16, ON and OFF), T = 6, initialised from `seed`."""
    return _seeded(
        seed, channels=(16, 24, 32, 32), pool_after=(1, 2, 4), image_size=16, in_channels=2
    )


def vgg16(seed: int, num_classes: int = 10) -> ConvSNN:
    """The spiking VGG16 of SPEAR's experiments at CIFAR size (32x32, colour), untrained.

    13 convolutions with BatchNorm and a single linear classifier; T = 4 in the paper.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
        return ConvSNN(widths, (2, 4, 7, 10, 13), 32, in_channels=3, num_classes=num_classes)


def resnet18(seed: int, form: ResidualForm = "add", num_classes: int = 10) -> ResNetSNN:
    """A spiking ResNet18 at CIFAR size (32x32, colour), untrained; T = 4 in SPEAR's paper.

    Which of the three forms the paper uses is not known to us.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ResNetSNN(form, num_classes=num_classes)


def unregister_neurons(network: nn.Module) -> None:
    """Take the network's own neurons off snnTorch's global list `SpikingNeuron.instances`.

    snnTorch 1.0 keeps every neuron ever constructed there, so a search that builds networks by the
    thousand never frees one. The list only serves `snntorch.utils.reset`, which resets strangers'
    networks too; we call `reset_mem` on our own neurons instead. Others' neurons stay listed.
    """
    own = {id(module) for module in network.modules()}
    SpikingNeuron.instances[:] = [n for n in SpikingNeuron.instances if id(n) not in own]


def _leaky() -> snn.Leaky:
    return snn.Leaky(beta=0.5, threshold=1.0, reset_mechanism="zero", init_hidden=True)


def _seeded(
    seed: int,
    channels: Sequence[int],
    pool_after: Sequence[int],
    image_size: int,
    in_channels: int = 1,
) -> ConvSNN:
    """A network initialised from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ConvSNN(channels, pool_after, image_size, in_channels)
