"""Surgery: a really smaller network of the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from spear_gym.pruning.origin import mark_origin
from spear_gym.pruning.plan import Plan, PlanError, PlanSpace, kept_by_space
from spear_gym.pruning.resizing import replace_tensor
from spear_gym.pruning.slicing import axes, sliced_tensors
from spear_gym.snn.graph import Kind, PrunableGroup, SpikingGraph
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
        A smaller module of the same class, in eval mode, that runs under plain snnTorch. What it
        was pruned from is written on it (see :mod:`spear_gym.pruning.origin`). Its neurons are not
        in snnTorch's global list (see ``register_neurons``).

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
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            inputs = axes(graph, node, kept).inputs
            module.in_channels = module.in_channels if inputs is None else len(inputs)
        for step, path in enumerate(node.of_steps):
            of_step = {name: tensor[step] for name, tensor in tensors.items()}
            _install(model.get_submodule(path), node.kind, of_step)
        if not node.of_steps:
            _install(module, node.kind, tensors)
        if node.neuron is not None:
            node.neuron.resize(module)
    reset_neurons(model)
    mark_origin(model, graph, plan)
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
        replace_tensor(module.get_submodule(inner), name, tensor.detach().clone())
    if kind is Kind.CONV:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        outputs, inputs = tensors["weight"].shape[:2]
        module.out_channels, module.groups = outputs, module.in_channels // inputs
    elif kind is Kind.LINEAR:
        assert isinstance(module, nn.Linear)
        module.out_features, module.in_features = tensors["weight"].shape
    elif kind is Kind.NORM:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        module.num_features = len(tensors["running_mean"])


class OwnForward:
    """What the unpruned network's own forward answers, which pruned ones must answer alike.

    Args:
        graph: the unpruned, traced network.
        inputs: at least two samples, as :meth:`SpikingGraph.call` takes them.
    """

    def __init__(self, graph: SpikingGraph, inputs: Tensor) -> None:
        axis = 1 if graph.varying and graph.idiom == "loop" else 0
        self._batches = {count: inputs.narrow(axis, 0, count) for count in (2, 1)}
        self._graph = graph

    @cached_property
    def _whole(self) -> dict[int, Any]:
        return {count: _answer(self._graph, batch) for count, batch in self._batches.items()}

    def check(self, model: nn.Module, what: str, way_out: str = "") -> None:
        """Runs a pruned network's own forward with two samples and with one.

        Sizes that are written into a forward, and shapes that depend on a width (``squeeze()`` of
        a single channel), only show then. What the unpruned network cannot do, a pruned one need
        not.

        Args:
            model: the pruned network; its neurons are reset.
            what: was pruned, for messages.
            way_out: what else can be done about it.

        Raises:
            PlanError: when it fails, or its output has other axes than the unpruned network's.
        """
        for count, batch in self._batches.items():
            whole, found = self._whole[count], _answer(self._graph.rebind(model), batch)
            if isinstance(whole, Exception) or found == whole:
                continue
            failed = isinstance(found, Exception)
            told = f": {found}" if failed else f": {found} axes returned in place of {whole}"
            raise PlanError(
                f"the network's forward fails with {what}, given {count} "
                f"sample{'s' * (count > 1)}, so it depends on the number of channels or has a size "
                f"written into it{told}; write x.flatten(1) for x.view(-1, 1024) and for "
                "x.squeeze(), and take sizes from the tensors or the layers" + way_out
            ) from (found if failed else None)


def _answer(graph: SpikingGraph, inputs: Tensor) -> Any:
    """Numbers of axes of what a forward returns, or the error that it raises."""
    try:
        with torch.no_grad(), preserved_states():
            return _axes(graph.call(inputs))
    except Exception as error:  # whatever the user's forward raises
        return error
    finally:
        reset_neurons(graph.model)


def _axes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.dim()
    if isinstance(output, dict):
        return {key: _axes(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_axes(value) for value in output]
    return None


def check_surgery(graph: SpikingGraph, inputs: Tensor) -> None:
    """Checks that the network's own forward still runs once channels are gone.

    Two stay at least: what a single one does depends on the limits that plans are made under.

    Args:
        graph: the traced network.
        inputs: a small batch, as :meth:`SpikingGraph.call` takes it.

    Raises:
        PlanError: when the pruned network's forward fails.
    """
    own = OwnForward(graph, inputs)
    own.check(_with_fewer(graph, graph.groups), "some channels removed from every layer")


def runnable(graph: SpikingGraph, inputs: Tensor) -> SpikingGraph:
    """The network without the groups that its own forward cannot do with fewer channels.

    A width that is written into it (``GroupNorm(8, 8)``, ``x.view(n, 16, 7, 7)``) fixes the group
    that has it; the graph says so.

    Args:
        graph: the traced network.
        inputs: a small batch, as :meth:`SpikingGraph.call` takes it.

    Raises:
        PlanError: when it fails for no one group alone, or no group is left.
    """
    try:
        check_surgery(graph, inputs)
    except PlanError as error:
        own, fixed = OwnForward(graph, inputs), dict(graph.fixed)
        for group in graph.groups:
            try:
                own.check(_with_fewer(graph, [group]), f"fewer channels of '{group.name}'")
            except PlanError as reason:
                fixed[group.space] = str(reason)
        left = tuple(group for group in graph.groups if group.space not in fixed)
        if not left or len(left) == len(graph.groups):
            raise error
        found = replace(graph, groups=left, fixed=fixed)
        check_surgery(found, inputs)
        return found
    return graph


def _with_fewer(graph: SpikingGraph, groups: Sequence[PrunableGroup]) -> nn.Module:
    """The network with one or two channels fewer of each of some groups."""
    space = PlanSpace(graph.groups, tuple(tuple(range(g.channels)) for g in graph.groups))
    counts = [
        max(min(2 * g.blocks, g.channels), g.channels - (1 + index % 2) * g.blocks)
        if g in groups
        else g.channels
        for index, g in enumerate(graph.groups)
    ]
    return prune_network(graph, space.plan(counts))
