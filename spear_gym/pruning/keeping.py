"""Pruned networks in a folder, which their own class and no data bring back.

A folder holds the plan and the tensors as run folders do, and ``network.json``, which says what
network the plan is of. It may come from a stranger: nothing in it is unpickled or executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import (
    JSON_LIMIT,
    FileError,
    json_bytes,
    largest_tensor_file,
    parse_json,
    parse_tensors,
    raised_as,
    read_whole,
    tensor_bytes,
    write_bytes,
)
from spear_gym.pruning.origin import description, origin_of
from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import OwnForward, prune_network
from spear_gym.snn.decision import Recorded
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.handover import hand_over
from spear_gym.snn.trace import trace

PLAN, NETWORK, STRUCTURE = "plan.json", "network.safetensors", "network.json"
FORMAT = "spear-gym network 1"

LARGEST_INPUT = 2**26
"""Entries of an input: two samples are made of that size to look at a network."""


class KeepingError(ValueError):
    """A network cannot be kept, or what was kept is not that of the module given."""


class _Traced(Protocol):
    """A workload, as far as it is needed here."""

    graph: SpikingGraph


class _Tuned(Protocol):
    """A fine-tuned network, as far as it is needed here."""

    @property
    def model(self) -> nn.Module: ...


def save_network(
    folder: str | Path, network: nn.Module | _Tuned, *, overwrite: bool = False
) -> None:
    """Writes a pruned network to a folder: its plan, its tensors, and what it is.

    Args:
        folder: made when missing.
        network: what ``env.finetune()``, ``env.finetuned()`` or ``evaluator.finetune(...)`` gave,
            perhaps trained further since; or a copy of it.
        overwrite: replace a network that the folder holds.

    Raises:
        KeepingError: when the network was not pruned here, its layers have changed since, or the
            folder holds a network.
    """
    model = network if isinstance(network, nn.Module) else network.model
    path = Path(folder)
    contents = network_files(model)
    if not overwrite and any((path / name).exists() for name in contents):
        raise KeepingError(
            f"'{path}' holds a network; choose another folder, or replace it with overwrite=True"
        )
    for name, content in contents.items():
        write_bytes(path / name, content)


def network_files(model: nn.Module) -> dict[str, bytes]:
    """A pruned network's files by name; the one that vouches for the others comes last.

    Raises:
        KeepingError: when it was not pruned here.
    """
    found = origin_of(model)
    if found is None:
        raise KeepingError(
            "this network was not pruned by spear-gym, so what it comes from is not known; give "
            "what env.finetune() returned, or keep its state_dict() yourself"
        )
    plan, structure = found
    contents = {
        PLAN: json_bytes(plan.to_json()),
        NETWORK: tensor_bytes(model.state_dict()),
    }
    about = {
        "format": FORMAT,
        **structure,
        "versions": {name: version(name) for name in ("spear-gym", "snntorch", "torch")},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    return contents | {STRUCTURE: json_bytes(about)}


def load_network(
    folder: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    workload: _Traced | None = None,
) -> nn.Module:
    """A network that :func:`save_network` or ``spear search`` wrote; no data is needed.

    Args:
        folder: where it is.
        model: the unpruned network, or a function that makes one; its weights do not matter. It is
            copied and pruned by the plan that was kept.
        workload: in place of ``model``, for run folders of versions that did not write
            ``network.json`` yet.

    Returns:
        A module of the user's own class in eval mode, which runs under plain snnTorch.

    Raises:
        KeepingError: when a file is missing, damaged or was changed, or the network is another
            than the one that was pruned; the message names the first difference.
        TraceError: when the module given cannot be traced.
        PlanError: when the plan is damaged, or the pruned network's forward fails.
    """
    if (model is None) == (workload is None):
        raise KeepingError("give either model=, a function that makes the network, or workload=")
    path = Path(folder)
    with raised_as(KeepingError):
        kept = _read(path)
        if workload is not None:
            graph = workload.graph
        else:
            assert model is not None
            graph = _traced(model, kept, path)
        if kept.structure is not None:
            _check_same(description(graph), kept.structure, path)
            graph = graph.deciding(kept.plan.groups)  # the others were excluded
        network = prune_network(graph, kept.plan)
        content = read_whole(path / NETWORK, largest_tensor_file(network.state_dict()))
        kept.check_sum(path, NETWORK, content)
        network.load_state_dict(read_tensors(content, network, path / NETWORK))
    OwnForward(graph, example_inputs(graph)).check(network, "the network as it was kept")
    return hand_over(network)


@dataclass(frozen=True)
class _Kept:
    """What a folder says of its network; ``structure`` is ``None`` in earlier versions' folders."""

    plan: Plan
    structure: dict[str, Any] | None
    sums: Mapping[str, str]

    def check_sum(self, folder: Path, name: str, content: bytes) -> None:
        """Sees that a file is the one that was written with the others.

        Raises:
            FileError: when it is not.
        """
        if self.structure and self.sums.get(name) != hashlib.sha256(content).hexdigest():
            raise FileError(
                f"'{folder / name}' was changed since the network was kept: its SHA-256 is not "
                f"what '{STRUCTURE}' says"
            )


def _read(folder: Path) -> _Kept:
    content = read_whole(folder / PLAN, JSON_LIMIT)
    plan = Plan.from_json(parse_json(content, f"'{folder / PLAN}'"))
    path = folder / STRUCTURE
    if not path.exists():
        return _Kept(plan, None, {})
    given = Fields(parse_json(read_whole(path, JSON_LIMIT), f"'{path}'"), f"'{path}'")
    given.choice("format", (FORMAT,))
    source = given.mapping("input")
    shape = list(source.wholes("shape", 1, LARGEST_INPUT))
    if not 1 <= len(shape) <= 5:
        raise source.wrong("shape", "a list of one to five sizes")
    steps = source.whole("steps", 1, 2**16)
    if steps * torch.Size(shape).numel() > LARGEST_INPUT:
        raise source.wrong("shape", f"at most {LARGEST_INPUT:,} entries over all time steps")
    structure = {
        "input": {
            "shape": shape,
            "varying": source.flag("varying"),
            "batch_first": source.flag("batch_first"),
            "events": source.flag("events"),
            "steps": steps,
        },
        "readout": given.choice("readout", get_args(Recorded)),
        "outputs": given.items("outputs"),
        "layers": given.value("layers"),
    }
    sums = given.mapping("sha256")
    kept = _Kept(plan, structure, {name: sums.text(name) for name in (PLAN, NETWORK)})
    kept.check_sum(folder, PLAN, content)
    return kept


def _traced(model: nn.Module | Callable[[], nn.Module], kept: _Kept, folder: Path) -> SpikingGraph:
    """The unpruned network, traced on random inputs: values play no part in that."""
    if kept.structure is None:
        raise KeepingError(
            f"'{folder}' has no {STRUCTURE}: an earlier version of spear-gym wrote it, which did "
            "not keep what the network is; load it with load_network(folder, workload=...)"
        )
    whole = model if isinstance(model, nn.Module) else model()
    if not isinstance(whole, nn.Module):
        raise KeepingError(
            f"model gives a {type(whole).__name__}; it must be a torch.nn.Module, or a function "
            "that makes one"
        )
    source = kept.structure["input"]
    frames = (max(2, source["steps"]),) if source["varying"] else ()
    device = next((p.device for p in whole.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(*frames, 4, *source["shape"], generator=generator).to(device)
    return trace(
        whole,
        example,
        varying=source["varying"],
        events=source["events"],
        readout=kept.structure["readout"],
        outputs=kept.structure["outputs"],
        batch_first=source["batch_first"] or None,  # which it finds out
    )


def example_inputs(graph: SpikingGraph) -> Tensor:
    """Two random samples as :meth:`SpikingGraph.call` takes them."""
    frames = (graph.traced_steps,) if graph.varying and graph.idiom == "loop" else ()
    generator = torch.Generator().manual_seed(0)
    device = next((p.device for p in graph.model.parameters()), torch.device("cpu"))
    return torch.rand(*frames, 2, *graph.nodes[0].shape, generator=generator).to(device)


def _check_same(found: dict[str, Any], kept: dict[str, Any], folder: Path) -> None:
    """Sees that a network is the one that was pruned.

    Raises:
        KeepingError: naming the first difference.
    """
    of = f"the network given is not the one that the network in '{folder}' was pruned from"
    for name in ("input", "readout", "outputs"):
        if found[name] != kept[name]:
            raise KeepingError(f"{of}: {name} is {found[name]!r}, was {kept[name]!r}")
    layers, before = found["layers"], kept["layers"]
    if not isinstance(before, list) or not all(isinstance(x, list) and len(x) > 1 for x in before):
        raise KeepingError(f"'{folder / STRUCTURE}' is damaged: 'layers' is no list of layers")
    for layer, other in zip(layers, before, strict=False):
        if layer != other:
            different = next(
                (pair for pair in zip(layer, other, strict=False) if pair[0] != pair[1]),
                (layer, other),
            )
            raise KeepingError(
                f"{of}: '{str(layer[1])[:80]}' has {str(different[0])[:200]}, where it had "
                f"{str(different[1])[:200]}"
            )
    if len(layers) != len(before):
        raise KeepingError(f"{of}: it has {len(layers)} operations a time step, not {len(before)}")


def read_tensors(content: bytes, network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors of a network's file, which must be those of a network like this.

    Args:
        content: of the file.
        network: the pruned network, with whatever weights.
        path: of the file, for messages.

    Raises:
        FileError: when it is damaged, or a tensor is missing, unknown, of another shape or type, or
            not finite.
    """
    tensors = parse_tensors(content, network.state_dict(), f"'{path}'")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FileError(f"'{path}' holds NaN or infinite weights in '{name}'")
    return tensors
