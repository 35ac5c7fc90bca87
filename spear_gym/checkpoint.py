"""Checkpoints of a training run: all that its further course depends on, after an epoch.

One file in the safetensors format: weights, the optimizer's state and that of the random number
generators as tensors; the epochs done, and what is trained, as JSON in its header. It is replaced
as a whole, so that a process killed at any moment leaves the last one or the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spear_gym.boundary.files import (
    FileError,
    largest_tensor_file,
    parse_json,
    parse_tensors,
    raised_as,
    read_tensor_header,
    read_whole,
    write_tensors,
)

FORMAT = "spear-gym checkpoint 1"


_NAME = re.compile(r"finetune-[0-9a-f]{12}\.safetensors")


def is_checkpoint(name: str) -> bool:
    """Whether this is the name of a file that :func:`checkpoint_in` names."""
    return _NAME.fullmatch(name) is not None


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of another training run."""


@dataclass
class Trained:
    """What a training run changes.

    Attributes:
        model: the network.
        optimizer: of its parameters.
        generator: of the sample order.
        device: whose random numbers the network draws, beside the CPU's.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        found |= dict(self._of_optimizer())
        found |= {"random.order": self.generator.get_state(), "random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["random.device"] = torch.cuda.get_rng_state(self.device)
        return found

    def _of_optimizer(self) -> Iterator[tuple[str, Tensor]]:
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    yield f"optimizer.{index}.{key}", value

    def like(self, names: set[str]) -> dict[str, Tensor]:
        """Tensors of the forms that those of a checkpoint must have.

        Args:
            names: of the tensors in it. A parameter that got no gradient has no state.
        """
        expected = {k: v for k, v in self.tensors().items() if not k.startswith("optimizer.")}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        adam = isinstance(self.optimizer, torch.optim.AdamW)
        for index, parameter in enumerate(parameters):
            forms = {"exp_avg": parameter, "exp_avg_sq": parameter, "step": torch.zeros(())}
            for key, form in forms.items() if adam else (("momentum_buffer", parameter),):
                if f"optimizer.{index}.{key}" in names:
                    expected[f"optimizer.{index}.{key}"] = form.detach()
        return expected

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Becomes what a checkpoint holds."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.generator.set_state(parts["random"]["order"])
        torch.set_rng_state(parts["random"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["random"]["device"], self.device)


@dataclass(frozen=True)
class Checkpoint:
    """Where a training run is kept, and what it trains.

    Attributes:
        path: of the file.
        of: network, data, recipe and whatever else the run depends on, by name.
    """

    path: Path
    of: Mapping[str, str]

    def save(self, trained: Trained, epochs: int) -> None:
        """Writes the checkpoint after so many epochs; the one before is replaced."""
        note = {"format": FORMAT, "epochs": str(epochs), "of": json.dumps(dict(self.of))}
        write_tensors(self.path, trained.tensors(), note)

    def restore(self, trained: Trained, most: int) -> int:
        """Takes up the run where it was left.

        Args:
            trained: is changed.
            most: epochs of the whole run.

        Returns:
            The epochs done; 0 when there is no checkpoint yet.

        Raises:
            CheckpointError: when it is damaged, or of another run: what differs is named.
        """
        if not self.path.exists():
            return 0
        try:
            with raised_as(CheckpointError):
                header = read_tensor_header(self.path)
                epochs = self._epochs(header.pop("__metadata__", None), most)
                expected = trained.like(set(header))
                content = read_whole(self.path, largest_tensor_file(expected))
                trained.restore(parse_tensors(content, expected, "the file"))
        except (CheckpointError, RuntimeError) as error:  # a generator's state can be nonsense
            raise CheckpointError(
                f"the checkpoint '{self.path}' cannot be gone on from: {error}; remove it to begin "
                "anew"
            ) from error
        return epochs

    def _epochs(self, note: Any, most: int) -> int:
        """Epochs done, by the note of a file that is of this run."""
        if not isinstance(note, dict) or note.get("format") != FORMAT:
            raise FileError(f"its format is not '{FORMAT}'")
        of = parse_json(str(note.get("of")).encode(), "its note")
        if not isinstance(of, dict):
            raise FileError("it does not say what it is of")
        differing = [
            f"{key} was {str(of.get(key, 'not set'))[:40]}, is {self.of.get(key, 'not set')[:40]}"
            for key in sorted({*of, *self.of})
            if of.get(key) != self.of.get(key)
        ]
        if differing:
            raise FileError(f"it is of another training run ({'; '.join(differing)})")
        epochs = note.get("epochs")
        if not (isinstance(epochs, str) and epochs in map(str, range(1, most + 1))):
            raise FileError(f"its epochs are {str(epochs)[:20]!r}, of a run of {most}")
        return int(epochs)


def checkpoint_in(folder: Path, of: Mapping[str, str]) -> Checkpoint:
    """The checkpoint of a fine-tune in a folder, named by what it is of."""
    digest = hashlib.sha256(json.dumps(dict(of), sort_keys=True).encode()).hexdigest()[:12]
    return Checkpoint(folder / f"finetune-{digest}.safetensors", of)


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of fine-tunes from a folder, and nothing else."""
    for path in folder.iterdir():
        if is_checkpoint(path.name) and (path.is_symlink() or path.is_file()):
            path.unlink()
