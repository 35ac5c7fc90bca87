"""Surgery: a really smaller network of the same classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spear_gym.pruning.plan import Plan, PlanError, kept_by_space
from spear_gym.pruning.slicing import sliced_tensors
from spear_gym.snn.graph import Kind, SpikingGraph
from spear_gym.snn.trace import preserved_states, private_copy, reset_neurons


def prune_network(
    graph: SpikingGraph, plan: Plan, updates: Mapping[str, Mapping[str, Tensor]] | None = None
) -> nn.Module:
    """Cuts the channels that a plan removes out of a copy of the network.

    Args:
        graph: the unpruned, traced network.
        plan: which channels stay.
        updates: tensors to install afterwards by node name, for example recalibrated BatchNorm
            statistics.

    Returns:
        A smaller module of the same class, in eval mode, that runs under plain snnTorch. Its
        neurons are not in snnTorch's global list (see ``register_neurons``).

    Raises:
        PlanError: when the plan was made for another network.
    """
    kept = kept_by_space(plan, graph.groups)
    model = private_copy(graph.model)
    for node in graph.nodes:
        if node.operation is not None:
            for path, tensor in sliced_tensors(graph, node, kept).items():
                owner, _, name = path.rpartition(".")
                _install(model.get_submodule(owner), node.kind, {name: tensor})
        if node.module is None or node.kind is Kind.DROPOUT:
            continue
        tensors = dict(sliced_tensors(graph, node, kept))
        tensors.update((updates or {}).get(node.name, {}))
        module = model.get_submodule(node.module)
        _install(module, node.kind, tensors)
        if node.neuron is not None:
            node.neuron.resize(module)
    reset_neurons(model)
    return model


def grafted_network(graph: SpikingGraph, plan: Plan, model: nn.Module) -> nn.Module:
    """The unpruned network with a pruned one's tensors put back in their places.

    Pruning it by the same plan gives the pruned network again; the channels that the plan removes
    have their weights of the unpruned network.

    Args:
        graph: the unpruned, traced network.
        plan: by which ``model`` was pruned from it.
        model: the pruned network, perhaps trained since.

    Raises:
        PlanError: when the plan was made for another network.
    """
    whole = private_copy(graph.model)
    numbered = private_copy(graph.model).double()  # which numbers a tensor's entries exactly
    with torch.no_grad():
        for tensor in numbered.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
        places = prune_network(graph.rebind(numbered), plan).state_dict()
        tensors = whole.state_dict()
        for name, value in model.state_dict().items():
            flat = tensors[name].flatten().clone()
            flat[places[name].long().flatten()] = value.flatten()
            tensors[name].copy_(flat.view(tensors[name].shape))
    return whole


def _install(module: nn.Module, kind: Kind, tensors: dict[str, Tensor]) -> None:
    for path, tensor in tensors.items():
        inner, _, name = path.rpartition(".")
        _put(module.get_submodule(inner), name, tensor.detach().clone())
    if kind is Kind.CONV:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        outputs, inputs = tensors["weight"].shape[:2]
        depthwise = module.groups == module.in_channels == module.out_channels > 1
        module.groups = outputs if depthwise else module.groups
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif kind is Kind.LINEAR:
        assert isinstance(module, nn.Linear)
        module.out_features, module.in_features = tensors["weight"].shape
    elif kind is Kind.NORM:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        module.num_features = len(tensors["running_mean"])


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    if name in module._parameters:
        trainable = module._parameters[name].requires_grad  # type: ignore[union-attr]
        module._parameters[name] = nn.Parameter(value, requires_grad=trainable)
    elif name in module._buffers:
        module._buffers[name] = value
    else:
        setattr(module, name, value)


def check_surgery(graph: SpikingGraph, inputs: Tensor) -> None:
    """Checks that the network's own forward still runs once channels are gone.

    Hard-coded sizes (``x.view(-1, 1024)``, ``torch.zeros(batch, 64)``) only show then.

    Args:
        graph: the traced network.
        inputs: a small batch as the module's forward takes it.

    Raises:
        PlanError: when the pruned network's forward fails.
    """
    kept = tuple(
        tuple(range(max(1, group.channels - 1 - index % 2)))
        for index, group in enumerate(graph.groups)
    )
    names = tuple(group.name for group in graph.groups)
    plan = Plan(names, tuple(group.channels for group in graph.groups), kept)
    model = prune_network(graph, plan)
    try:
        with torch.no_grad(), preserved_states():
            graph.rebind(model).call(inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        raise PlanError(
            "the network's forward fails once channels are removed, so it has a size written into "
            f"it: {error}; write x.flatten(1) for x.view(-1, 1024), and take sizes from the "
            "tensors or the layers"
        ) from error
