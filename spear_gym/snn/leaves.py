"""Which modules are taken as one operation, and which of their options are supported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Node, SpikingGraph
from spear_gym.snn.neurons.identify import UNSUPPORTED, refusal

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
    if isinstance(module, (snn.SpikingNeuron, *UNSUPPORTED)):
        problem = refusal(module)
        if problem is not None:
            raise TraceError(f"neuron '{name}' ({type(module).__name__}) {problem}")
        return True
    kind = next((leaf for leaf in LEAVES if isinstance(module, leaf)), None)
    own = "forward" in vars(module) or (kind and type(module).forward is not kind.forward)
    if kind is None or own:
        return False
    problem = _layer_problem(module)
    if problem is not None:
        raise TraceError(f"module '{name}' ({type(module).__name__}) {problem}")
    return True


def check_layers(model: nn.Module) -> None:
    """Checks the options of every layer of a network, called or not.

    Raises:
        TraceError: for spiking neurons and layer options that are not supported.
    """
    for name, module in model.named_modules():
        _refuse_compiled(name, module)
        is_leaf(name, module)


def _refuse_compiled(name: str, module: nn.Module) -> None:
    """Refuses what runs as other code than its forward, which cannot be watched."""
    where = f"module '{name}'" if name else "the network"
    if isinstance(module, torch.jit.ScriptModule):
        raise TraceError(f"{where} is TorchScript; give the module that it was made from")
    if "_orig_mod" in module._modules:
        raise TraceError(
            f"{where} is compiled; give the module as it was before torch.compile "
            "(`compiled._orig_mod`), and compile what is handed over"
        )


def _layer_problem(module: nn.Module) -> str | None:
    if parametrize.is_parametrized(module):
        return "has a parametrization; remove it with torch.nn.utils.parametrize first"
    if isinstance(module, (*Conv, nn.Linear)) and "weight" not in module._parameters:
        return (
            "computes its weight before every call (weight_norm, spectral_norm or "
            "torch.nn.utils.prune); make it permanent with torch.nn.utils.remove_weight_norm or "
            "prune.remove first"
        )
    if isinstance(module, Conv) and module.padding_mode != "zeros":
        return f"pads with '{module.padding_mode}'; only zero padding is supported"
    if isinstance(module, Norm) and module.running_mean is None:
        return "keeps no running statistics; set track_running_stats=True and train it"
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and module.return_indices:
        return "returns indices; set return_indices=False"
    return None


def describe(graph: SpikingGraph) -> list[list[object]]:
    """A traced network's structure as plain values, weights left out: what a fingerprint needs."""
    return [
        [
            node.kind.value,
            node.name,
            list(node.inputs),
            list(node.shape),
            _describe_function(node.function),
            _describe_operation(graph, node),
        ]
        for node in graph.nodes
    ]


def _describe_function(function: Callable[[Tensor], Tensor] | None) -> str:
    if not isinstance(function, partial):
        return "" if function is None else getattr(function, "__name__", type(function).__name__)
    known = {id(pool): name for name, pool in POOL_FUNCTIONS.items()}
    name = known.get(id(function.func), getattr(function.func, "__name__", "function"))
    return f"{name}{sorted(function.keywords.items())}"


def _describe_operation(graph: SpikingGraph, node: Node) -> str:
    if node.neuron is not None:
        return node.neuron.describe()
    if node.operation is not None:
        return node.operation.describe()
    if node.of_steps:
        return " ".join(_describe_module(module) for module in graph.modules_of_steps(node))
    return "" if node.module is None else _describe_module(graph.module(node))


def _describe_module(module: nn.Module) -> str:
    """A layer's type and options, the same under every version of PyTorch.

    Of the layers in :data:`LEAVES`, those of normalisation alone are shown otherwise by versions
    before 2.13, which leave out ``bias``: compared with the sources of 2.5.
    """
    if not isinstance(module, Norm):
        return repr(module)
    return (
        f"{type(module).__name__}({module.num_features}, eps={module.eps}, "
        f"momentum={module.momentum}, affine={module.affine}, bias={module.bias is not None}, "
        f"track_running_stats={module.track_running_stats})"
    )


def pool_function(module: nn.Module) -> partial[Tensor]:
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
