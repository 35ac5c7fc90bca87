"""A module of the user's own class made as narrow as a pruned network, from its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping

import snntorch as snn
from torch import Tensor, nn

from spear_gym.boundary.text import unknown
from spear_gym.pruning.plan import PlanError
from spear_gym.snn.neurons.recurrent import take_widths

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def resize_to_fit(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Makes a network as narrow as a pruned one, so that ``load_state_dict(state)`` fits.

    Convolutions, linear layers, BatchNorm and the parameters of neurons get the shapes of
    ``state``; their values are to be loaded. Neurons that hold tensors which are neither parameters
    nor buffers are left as they are: use :func:`spear_gym.load_network` for those.

    Args:
        model: a fresh instance of the class that was pruned; changed in place.
        state: the pruned network's ``state_dict()``.

    Returns:
        ``model``.

    Raises:
        PlanError: when a tensor is missing, unknown or larger than the model's, or has other axes.
    """
    own = model.state_dict()
    for name in state:
        if name not in own:
            raise PlanError(unknown("tensor", name, tuple(own)))
    for name, tensor in own.items():
        _check(name, tensor, state.get(name))
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        tensors = {
            name: state[prefix + name]
            for name in (*module._parameters, *module._buffers)
            if prefix + name in state
        }
        if any(tensors[name].shape != getattr(module, name).shape for name in tensors):
            _resize(module, tensors)
    for module in model.modules():
        if isinstance(module, snn.RLeaky | snn.RSynaptic):
            take_widths(module)
    return model


def _check(name: str, own: Tensor, given: Tensor | None) -> None:
    if given is None:
        raise PlanError(f"the state has no '{name}', which the model has")
    wider = any(new > old for new, old in zip(given.shape, own.shape, strict=False))
    if given.dim() != own.dim() or wider:
        raise PlanError(
            f"'{name}' has shape {tuple(given.shape)}, which no pruning makes of the model's "
            f"{tuple(own.shape)}"
        )


def _resize(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    weight = tensors.get("weight")
    if isinstance(module, nn.Conv1d | nn.Conv2d) and weight is not None:
        if module.groups > 1 and module.weight.shape[1] == 1:
            # Every input channel has outputs of its own, which went with it.
            module.groups = len(weight) // (module.out_channels // module.groups)
        module.out_channels = len(weight)
        module.in_channels = weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _NORMS):
        module.num_features = len(tensors["running_mean"])
    for name, tensor in tensors.items():
        replace_tensor(module, name, getattr(module, name).detach().new_empty(tensor.shape))


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Puts a tensor in the place of a parameter, trainable as before, a buffer or an attribute."""
    parameter = module._parameters.get(name)
    if parameter is not None:
        module._parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    elif name in module._buffers:
        module._buffers[name] = value
    else:
        setattr(module, name, value)
