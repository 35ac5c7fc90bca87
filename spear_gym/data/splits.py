"""Labelled samples, checked once on the way in.

A `Split` is one set of samples and labels; `DataSplits` is the three that a workload needs:

- **train**: pretraining and fine-tuning; a fixed seeded subset of it is the calibration set;
- **search**: scores plans;
- **test**: touched once, after fine-tuning.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch

LabelKind = Literal["classes", "multilabel", "targets"]
"""One class a sample, several labels of 0 or 1, or values to be predicted."""

_LAYOUTS = {
    2: "(N, C) features",
    3: "(N, C, L) sequences or (N, T, C) frames",
    4: "(N, C, H, W) images or (N, T, C, L) frames",
    5: "(N, T, C, H, W) frames",
}


@runtime_checkable
class MapDataset(Protocol):
    """A map-style dataset: `dataset[i]` is a pair (tensor, label), `len(dataset)` is known."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and their labels; valid once constructed.

    Floating inputs become float32, integer labels int64 and floating labels float32; anything that
    would need a guess is refused with a ValueError.

    Args:
        inputs: float32 (N, C, H, W) static images, shown at every time step, or (N, T, C, H, W)
            event frames, one per time step. Integer tensors are refused, for only their owner
            knows their scale.
        labels: integers (N,), class indices from 0; integers or booleans (N, K), several labels of
            0 or 1 a sample; or floats (N, ...), values to be predicted.
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _as_float32(self.inputs))
        object.__setattr__(self, "labels", _as_labels(self.labels))
        self.validate()

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    @property
    def is_events(self) -> bool:
        """Whether the samples carry their own time axis: event frames (N, T, C, H, W)."""
        return self.inputs.ndim == 5

    @property
    def label_kind(self) -> LabelKind:
        """What the labels are, by their type and shape."""
        if self.labels.is_floating_point():
            return "targets"
        return "classes" if self.labels.ndim == 1 else "multilabel"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W), or (T, C, H, W) for event frames."""
        return tuple(self.inputs.shape[1:])

    def subset(self, indices: torch.Tensor) -> Split:
        """The samples at `indices`, int64 (M,), in that order."""
        return Split(self.inputs[indices], self.labels[indices])

    def to(self, device: torch.device) -> Split:
        """The same samples on a device."""
        return Split(self.inputs.to(device), self.labels.to(device))

    def sha256(self) -> str:
        """Fingerprint of shapes, inputs and labels; equal only for equal bytes."""
        digest = hashlib.sha256(repr(tuple(self.inputs.shape)).encode())
        if self.label_kind != "classes":
            digest.update(f"{self.labels.dtype} {tuple(self.labels.shape)}".encode())
        for tensor in (self.inputs, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def validate(self) -> None:
        """Raise a ValueError that names value, limit and way out if a sample cannot be used."""
        if self.inputs.ndim not in _LAYOUTS:
            raise ValueError(
                f"inputs have {self.inputs.ndim} axes, shape {tuple(self.inputs.shape)}; "
                f"they must be {' or '.join(_LAYOUTS.values())}; "
                "add the missing axis, e.g. inputs.unsqueeze(1) for grey images (N, H, W)"
            )
        if self.labels.ndim not in (1, 2) and self.label_kind != "targets":
            raise ValueError(
                f"labels have shape {tuple(self.labels.shape)}; integers must be (N,), one class "
                "index per sample, or (N, K), several labels of 0 or 1"
            )
        if self.labels.ndim == 0:
            raise ValueError("labels are one number; there must be one or more for each sample")
        if len(self.inputs) != len(self.labels):
            raise ValueError(
                f"there are {len(self.inputs)} inputs and {len(self.labels)} labels; "
                "they must be equally many; check that both were cut alike, and that inputs have "
                "samples first"
            )
        if self.inputs.numel() == 0:
            raise ValueError(
                f"the split is empty, shape {tuple(self.inputs.shape)}; it needs at least 1 sample "
                "with at least 1 value; check the indices that it was cut with"
            )
        self._validate_values()

    def _validate_values(self) -> None:
        bad = int((~torch.isfinite(self.inputs)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {self.inputs.numel()} input values are NaN or infinite as float32; all "
                "must be finite; clean them, e.g. with torch.nan_to_num, or drop those samples"
            )
        self._validate_labels()

    def _validate_labels(self) -> None:
        kind = self.label_kind
        if self.labels.numel() == 0:
            raise ValueError(
                f"labels have shape {tuple(self.labels.shape)}; there must be at least one a sample"
            )
        if kind == "targets" and not bool(torch.isfinite(self.labels).all()):
            raise ValueError(
                "labels are NaN or infinite as float32; all must be finite; drop those samples"
            )
        lowest, highest = self.labels.min(), self.labels.max()
        if kind == "classes" and lowest < 0:
            raise ValueError(
                f"the lowest label is {int(lowest)}; labels start at 0; renumber the classes, e.g. "
                "with torch.unique(labels, return_inverse=True)"
            )
        if kind == "multilabel" and (lowest < 0 or highest > 1):
            raise ValueError(
                f"labels of shape {tuple(self.labels.shape)} lie in {int(lowest)} to "
                f"{int(highest)}; several labels a sample must be 0 or 1; give one class index per "
                "sample, (N,), or floats for values to be predicted"
            )

    @classmethod
    def from_dataset(cls, dataset: MapDataset) -> Split:
        """Read a whole map-style dataset, e.g. a `torch.utils.data.Dataset`, into memory.

        Args:
            dataset: yields pairs (tensor, label): (C, H, W) or (T, C, H, W), floating, the same
                shape for all; an integer label, or a tensor of labels. NumPy arrays are taken as
                tensors.
        """
        if not isinstance(dataset, MapDataset):
            raise ValueError(
                f"{type(dataset).__name__} has no length or cannot be indexed; the dataset must be "
                "map-style; collect an iterable one first, e.g. list(dataset)"
            )
        if len(dataset) == 0:
            raise ValueError(
                "the dataset is empty; it needs at least 1 sample; check its path and its filter"
            )
        samples, labels = zip(*_pairs(dataset), strict=True)
        return cls(torch.stack(samples), torch.stack(labels))


@dataclass(frozen=True, eq=False)
class DataSplits:
    """The three splits of a workload; valid once constructed.

    Args:
        train: for pretraining, fine-tuning and calibration.
        search: for scoring plans.
        test: for the final figures only.
        num_classes: how many scores a sample gets; class labels lie in 0 .. num_classes - 1.
    """

    train: Split
    search: Split
    test: Split
    num_classes: int

    def __post_init__(self) -> None:
        self.validate()

    def named(self) -> dict[str, Split]:
        """The splits by name, in the order train, search, test."""
        return {"train": self.train, "search": self.search, "test": self.test}

    def to(self, device: torch.device) -> DataSplits:
        """The same samples on a device."""
        train, search, test = (split.to(device) for split in self.named().values())
        return DataSplits(train, search, test, self.num_classes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W), or (T, C, H, W) for event frames."""
        return self.train.sample_shape

    def sha256(self) -> str:
        """Fingerprint of all three splits and the number of classes."""
        parts = [str(self.num_classes), *(split.sha256() for split in self.named().values())]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def validate(self) -> None:
        """Raise a ValueError that names value, limit and way out if the splits do not agree."""
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int):
            raise ValueError(
                f"num_classes is {self.num_classes!r}; it must be a whole number; pass an int"
            )
        if self.num_classes < 2 and self.train.label_kind == "classes":
            raise ValueError(
                f"num_classes is {self.num_classes}; a classifier needs at least 2; "
                "count the classes, not the highest label"
            )
        for name, split in self.named().items():
            self._validate_split(name, split)

    def _validate_split(self, name: str, split: Split) -> None:
        if not isinstance(split, Split):
            raise ValueError(
                f"{name} is a {type(split).__name__}; it must be a Split; "
                "make one with spear_gym.data.as_split"
            )
        split.validate()
        if split.sample_shape != self.train.sample_shape:
            raise ValueError(
                f"{name} samples have shape {split.sample_shape}, train samples "
                f"{self.train.sample_shape}; channels, sizes and frames must be the same in "
                "every split; resize or pad them alike"
            )
        alike = split.label_kind == self.train.label_kind
        if not alike or split.labels.shape[1:] != self.train.labels.shape[1:]:
            raise ValueError(
                f"{name} labels are {split.labels.dtype} of shape {tuple(split.labels.shape)}, "
                f"train labels {self.train.labels.dtype} of shape "
                f"{tuple(self.train.labels.shape)}; they must be of one kind in every split"
            )
        highest = int(split.labels.max())
        if split.label_kind == "classes" and highest >= self.num_classes:
            raise ValueError(
                f"{name} holds the label {highest}; labels must be below num_classes = "
                f"{self.num_classes}; raise num_classes or renumber the classes from 0"
            )


def as_split(data: Split | tuple[torch.Tensor, torch.Tensor] | MapDataset, name: str) -> Split:
    """A Split from whatever a user has; errors begin with the split's `name`.

    Args:
        data: a Split, a pair (inputs, labels) of tensors, or a map-style dataset.
        name: "train", "search" or "test", for the messages.
    """
    try:
        if isinstance(data, Split):
            return data
        if isinstance(data, tuple):
            return _from_pair(data)
        return Split.from_dataset(data)
    except ValueError as error:
        raise ValueError(f"{name} split: {error}") from error


def _from_pair(pair: tuple[Any, ...]) -> Split:
    if len(pair) != 2:
        raise ValueError(
            f"the tuple has {len(pair)} entries; it must be the pair (inputs, labels); "
            "pass exactly these two tensors"
        )
    return Split(*pair)


def _as_float32(inputs: torch.Tensor) -> torch.Tensor:
    _require_tensor("inputs", inputs)
    if not (inputs.is_floating_point() or inputs.dtype == torch.bool):
        raise ValueError(
            f"inputs are {inputs.dtype}; they must be floating (or bool, for events); scale them "
            "yourself, e.g. inputs.float() / 255 for bytes, inputs.float() for event counts"
        )
    return inputs.detach().to(torch.float32).contiguous()


def _as_labels(labels: torch.Tensor) -> torch.Tensor:
    _require_tensor("labels", labels)
    if labels.is_complex() or (labels.dtype == torch.bool and labels.ndim < 2):
        raise ValueError(
            f"labels are {labels.dtype}; they must be integer class indices; "
            "convert them with labels.long() if they hold whole numbers"
        )
    kind = torch.float32 if labels.is_floating_point() else torch.int64
    return labels.detach().to(kind).contiguous()


def _require_tensor(name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{name} are a {type(value).__name__}; they must be a torch.Tensor; "
            "convert them with torch.as_tensor"
        )


def _pairs(dataset: MapDataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The samples of a dataset in order, each checked against the shape of the first."""
    shape: torch.Size | None = None
    first: torch.Tensor | None = None
    for index in range(len(dataset)):
        sample, label = _pair(dataset[index], index)
        shape = sample.shape if shape is None else shape
        first = label if first is None else first
        if (label.shape, label.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"the label of sample {index} is {label.dtype} of shape {tuple(label.shape)}, "
                f"that of sample 0 {first.dtype} of shape {tuple(first.shape)}; all must be of one "
                "kind; turn them into one in the dataset's target_transform"
            )
        if sample.shape != shape:
            raise ValueError(
                f"sample {index} has shape {tuple(sample.shape)}, sample 0 {tuple(shape)}; all "
                "must be the same; add a resize or a crop to the dataset's transform"
            )
        yield sample, label


def _pair(item: Any, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        sample, label = item
    except (TypeError, ValueError):
        raise ValueError(
            f"sample {index} is a {type(item).__name__}, not a pair; "
            "the dataset must yield (tensor, label); wrap it in one that does"
        ) from None
    try:
        tensor = torch.as_tensor(sample)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"sample {index} is a {type(sample).__name__}; it must be a tensor; "
            "add a conversion such as ToTensor() to the dataset's transform"
        ) from None
    return tensor, _label(label, index)


def _label(label: Any, index: int) -> torch.Tensor:
    try:
        return torch.tensor(operator.index(label))
    except (TypeError, ValueError):
        pass
    try:
        return torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"the label of sample {index} is {label!r}; it must be one integer, or a tensor of "
            "labels; map names to class indices in the dataset's target_transform"
        ) from None
