"""A run folder, read again: whoever it comes from, it is believed no more than it shows.

Nothing is unpickled, no code is run because a file names it, sizes are looked at before anything is
read, and what is read must be in range, belong together and agree with itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import (
    JSON_LIMIT,
    FileError,
    largest_tensor_file,
    raised_as,
    read_whole,
)
from spear_gym.pruning.keeping import NETWORK, PLAN, read_tensors
from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import prune_network
from spear_gym.settings import parted
from spear_gym.simulation.simulate import PRECISIONS, SCORINGS
from spear_gym.snn.graph import SpikingGraph
from spear_gym.workload import Workload

from .folders import (
    RESULT,
    SETTINGS,
    RunError,
    is_front,
    is_identity,
    read_json,
    sum_of_result,
)
from .run_folder import RESULT_FORMAT, Outcome, SearchSettings

MOST_THREADS = 1024


def read_settings(folder: Path) -> SearchSettings:
    """The settings of a run folder.

    Raises:
        RunError: when the folder is no run folder, or its settings are damaged.
    """
    path = folder / SETTINGS
    if not path.exists() and is_front(folder):
        names = ", ".join(sorted(path.name for path in folder.glob("target-*")))
        raise RunError(f"'{folder}' holds several runs; choose one of them: {names}")
    data = read_json(path)
    if not is_identity(data):
        raise RunError(f"'{path}' is damaged: it holds no settings of a search")
    with raised_as(RunError):
        return _settings(Fields(data["settings"], f"'{path}'"))


def _settings(given: Fields) -> SearchSettings:
    """Settings as they were written; versions before 0.1 wrote fewer of them.

    Raises:
        FileError: when one is unknown, of another type, or out of range.
    """
    read: dict[str, Callable[[str], Any]] = {
        **dict.fromkeys(("workload", "agent", "reward", "criterion", "lre"), given.text),
        **dict.fromkeys(("extrapolate", "repair", "use_slack"), given.flag),
        **dict.fromkeys(("top", "budget"), _at_least_1(given)),
        "agent_settings": lambda key: given.mapping(key).data,
        "reward_settings": lambda key: _numbers(given.mapping(key)),
        "target": lambda key: given.number(key, 0.0, 1.0),
        "target_synops": lambda key: given.number(key, 0.0),
        "seed": lambda key: given.whole(key, 0, 2**32 - 1),
        "scoring": lambda key: given.choice(key, SCORINGS),
        "precision": lambda key: given.choice(key, PRECISIONS),
        **dict.fromkeys(("channel_multiple", "min_channels"), lambda key: at_least_1(given, key)),
        "max_ratio": lambda key: share(given, key),
        "exclude": given.texts,
        "confidence": lambda key: given.number(key, 0.0, 1.0),
        "hidden_features": given.texts,
        "threads": lambda key: given.whole(key, 1, MOST_THREADS),
    }
    given.only(read)
    optional = {"target", "target_synops", "scoring", "confidence"}
    values: dict[str, Any] = {
        key: None if key in optional and given.value(key) is None else read[key](key)
        for key in given.names()
    }
    return SearchSettings(**parted(values))


def at_least_1(given: Fields, key: str) -> int | dict[str, int]:
    """A whole number above 0, or such numbers by name."""
    return given.by_name(key, lambda fields, name: fields.whole(name, 1))


def share(given: Fields, key: str) -> float | dict[str, float]:
    """A number in 0 to 1, or such numbers by name."""
    return given.by_name(key, lambda fields, name: fields.number(name, 0.0, 1.0))


def _at_least_1(given: Fields) -> Callable[[str], int]:
    return lambda key: given.whole(key, 1)


def _numbers(given: Fields) -> dict[str, float]:
    return {key: given.number(key) for key in given.names()}


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished run.

    Raises:
        RunError: when there is none, it is damaged, or the files beside it belong to another.
    """
    path = folder / RESULT
    if not path.exists() and (folder / SETTINGS).exists():
        raise RunError(f"the run in '{folder}' has not finished; continue it with --resume")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != RESULT_FORMAT:
        raise RunError(f"'{path}' is no result of spear-gym")
    with raised_as(RunError):
        _check_result(Fields(data, f"'{path}'"), read_settings(folder))
        for name in (SETTINGS, PLAN):
            content = read_whole(folder / name, JSON_LIMIT)
            _check_sum(folder, data, name, hashlib.sha256(content).hexdigest())
        _check_sum(folder, data, RESULT, sum_of_result(data))
    return data


def _check_result(given: Fields, settings: SearchSettings) -> None:
    """Sees that what a result says can be, and that it is of these settings.

    Raises:
        FileError: naming what is not so.
    """
    target = given.number("target", 0.0, 1.0)
    if target == 0.0 or settings.goal.target not in (None, target):
        raise given.wrong("target", "that of the settings")
    synops = [_check_measurement(given.mapping(name)) for name in ("test", "test_unpruned")]
    if synops[1] == 0.0:
        raise given.mapping("test_unpruned").wrong("synops", "a number above 0")
    fraction = synops[0] / synops[1]
    if given.number("test_synops_fraction") != fraction:
        raise given.wrong("test_synops_fraction", f"{fraction}, by the SynOps on test")
    limit = settings.goal.target_synops
    kept = fraction <= target if limit is None else synops[0] <= limit
    if given.flag("kept") != kept:
        raise given.wrong("kept", f"{kept}, by the SynOps on test")
    if "outcome" in given and (given.choice("outcome", get_args(Outcome)) != "broken") != kept:
        raise given.wrong("outcome", f"{'kept or repaired' if kept else 'broken'}, as 'kept' is")


def _check_measurement(given: Fields) -> float:
    given.number("accuracy", 0.0, 1.0)
    given.whole("parameters", 0)
    return given.number("synops", 0.0)


def _check_sum(folder: Path, result: Any, name: str, digest: str) -> None:
    """Sees that a file of a run is that of its result; versions before 0.1 did not write that.

    Raises:
        FileError: when it was changed since the run ended.
    """
    if not isinstance(result, dict) or "sha256" not in result:
        return
    if Fields(result, f"'{folder / RESULT}'").mapping("sha256").text(name) != digest:
        raise FileError(
            f"'{folder / name}' was changed since the run ended: its SHA-256 is not what "
            f"'{RESULT}' says; write the files again with --resume"
        )


def load_network(folder: Path, workload: Workload) -> nn.Module:
    """The pruned, fine-tuned network of a run folder; nothing is unpickled.

    Args:
        folder: the run folder.
        workload: the run's workload, which gives the network's classes.

    Raises:
        RunError: when a file is missing, damaged or does not fit, or was changed since the run
            ended.
        PlanError: when the plan is damaged or was made for another network.
    """
    plan = Plan.from_json(read_json(folder / PLAN))
    model = prune_network(_decided(folder, workload), plan)
    path, expected = folder / NETWORK, model.state_dict()
    with raised_as(RunError):
        content = read_whole(path, largest_tensor_file(expected))
        if (folder / RESULT).exists():
            digest = hashlib.sha256(content).hexdigest()
            _check_sum(folder, read_json(folder / RESULT), NETWORK, digest)
        tensors = read_tensors(content, model, path)
    for name, setting in fixed_buffers(model).items():
        if not torch.equal(tensors[name], setting.cpu()):
            raise RunError(
                f"'{path}' has another '{name}' than the workload's network, which no "
                "fine-tuning changes"
            )
    model.load_state_dict(tensors)
    return model


def _decided(folder: Path, workload: Workload) -> SpikingGraph:
    """The workload's network with the groups that the run decided."""
    graph = workload.graph
    if not (folder / SETTINGS).exists():
        return graph
    exclude = read_settings(folder).plans.exclude
    return graph.deciding({group.name for group in graph.groups} - set(exclude))


def fixed_buffers(model: nn.Module) -> dict[str, Tensor]:
    """What a network's state holds beside weights and running statistics: settings of neurons."""
    statistics = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name, _ in module.named_buffers(recurse=False)
    }
    state, weights = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    return {n: t for n, t in state.items() if n not in weights and n not in statistics}
