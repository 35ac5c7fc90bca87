"""The convolutional spiking networks of the shipped workloads.

Plain snnTorch modules in the single-step idiom (`init_hidden=True`): `forward` is one time step,
and the caller loops over time. Nothing here knows about pruning.
"""

from __future__ import annotations

from collections.abc import Sequence

import snntorch as snn
import torch
from snntorch import SpikingNeuron
from torch import nn


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
