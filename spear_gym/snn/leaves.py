"""Which modules are taken as one operation, and which of their options are supported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import snntorch as snn
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spear_gym.snn.errors import TraceError

Conv = (nn.Conv1d, nn.Conv2d)
Norm = (nn.BatchNorm1d, nn.BatchNorm2d)

POOL_MODULES: tuple[type[nn.Module], ...] = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
)
LEAVES: tuple[type[nn.Module], ...] = (
    *Conv,
    nn.Linear,
    *Norm,
    *POOL_MODULES,
    nn.Flatten,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Identity,
    snn.Leaky,
)

POOL_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "avg_pool1d": F.avg_pool1d,
    "avg_pool2d": F.avg_pool2d,
    "max_pool1d": F.max_pool1d,
    "max_pool2d": F.max_pool2d,
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
}

_POOLS: dict[str, Callable[..., Tensor]] = {
    "AvgPool1d": F.avg_pool1d,
    "AvgPool2d": F.avg_pool2d,
    "MaxPool1d": F.max_pool1d,
    "MaxPool2d": F.max_pool2d,
    "AdaptiveAvgPool1d": F.adaptive_avg_pool1d,
    "AdaptiveAvgPool2d": F.adaptive_avg_pool2d,
}


def is_leaf(name: str, module: nn.Module) -> bool:
    """Whether a module is taken as one operation.

    Raises:
        TraceError: for spiking neurons and layer options that are not supported.
    """
    if isinstance(module, snn.SpikingNeuron) and type(module).forward is not snn.Leaky.forward:
        raise TraceError(
            f"neuron '{name}' is a {type(module).__name__}; only snntorch.Leaky is supported"
        )
    kind = next((leaf for leaf in LEAVES if isinstance(module, leaf)), None)
    if kind is None or type(module).forward is not kind.forward:
        return False
    _check_options(name, module)
    return True


def _check_options(name: str, module: nn.Module) -> None:
    problem = None
    if parametrize.is_parametrized(module):
        problem = "has a parametrization; remove it with torch.nn.utils.parametrize first"
    elif isinstance(module, Conv) and module.padding_mode != "zeros":
        problem = f"pads with '{module.padding_mode}'; only zero padding is supported"
    elif isinstance(module, Norm) and module.running_mean is None:
        problem = "keeps no running statistics; set track_running_stats=True and train it"
    elif isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and module.return_indices:
        problem = "returns indices; set return_indices=False"
    elif isinstance(module, snn.Leaky) and module.inhibition:
        problem = "uses lateral inhibition, which is not supported; set inhibition=False"
    elif isinstance(module, snn.Leaky) and module.state_quant:
        problem = "quantises its state, which is not supported; set state_quant=False"
    if problem is not None:
        raise TraceError(f"module '{name}' ({type(module).__name__}) {problem}")


def pool_function(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The functional form of a pooling module."""
    options = {
        key: getattr(module, key)
        for key in ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "output_size")
        if hasattr(module, key)
    }
    for key in ("count_include_pad", "divisor_override"):
        if hasattr(module, key):
            options[key] = getattr(module, key)
    kind = next(base for base in type(module).__mro__ if base.__name__ in _POOLS)
    return partial(_POOLS[kind.__name__], **options)
