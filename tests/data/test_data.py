"""The data sets: disjoint sources, pinned bytes, and one clear error for every bad input."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from spear_gym.data import DataSplits, Split, as_split, cluttered_digits, digits
from spear_gym.data.cluttered import SIZES, canvases, resize
from spear_gym.data.digits import source_images, source_indices

DIGITS_SHA256 = "eb98fe983bf88e9c46d40fa04e4812c1dab258a188532462d9a966aa07470116"
CLUTTERED_SHA256 = "aa2f21055c66fb2e0fbe48ac1dfaa6d06cc81f3d44eb2242ea04287333660db5"


def make_split(count: int = 6, shape: tuple[int, ...] = (1, 4, 4), classes: int = 3) -> Split:
    return Split(torch.rand(count, *shape), torch.arange(count) % classes)


def make_splits(**changes: Any) -> DataSplits:
    parts: dict[str, Any] = {"train": make_split(), "search": make_split(), "test": make_split()}
    return DataSplits(**{**parts, "num_classes": 3, **changes})


class Items(Dataset[Any]):
    """A dataset of whatever items it is given."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    """A dataset that can only be iterated."""

    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(1, 4, 4), 0


# The embedded sets.


def test_bytes_are_pinned() -> None:
    assert digits().sha256() == DIGITS_SHA256
    assert cluttered_digits().sha256() == CLUTTERED_SHA256


def test_made_again_the_canvases_are_the_same() -> None:
    assert np.array_equal(canvases("search").pixels, canvases("search").pixels)


@pytest.mark.parametrize(
    ("data", "shape", "sizes"),
    [
        (digits, (1, 8, 8), {"train": 1000, "search": 300, "test": 497}),
        (cluttered_digits, (1, 16, 16), SIZES),
    ],
)
def test_shapes_and_ranges(data: Any, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    splits = data()
    assert splits.num_classes == 10
    assert splits.sample_shape == shape
    for name, split in splits.named().items():
        assert len(split) == sizes[name]
        assert split.inputs.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert split.inputs.min() == 0
        assert 0.99 < split.inputs.max() <= 1
        assert torch.bincount(split.labels).min() > 0.09 * len(split)
        assert not split.is_events


def test_split_sources_are_disjoint_and_complete() -> None:
    indices = source_indices()
    assert sorted(np.concatenate(list(indices.values()))) == list(range(1797))
    for one, other in combinations(indices.values(), 2):
        assert not set(one) & set(other)


def test_no_source_image_is_in_two_splits_even_as_a_copy() -> None:
    images, _ = source_images()
    hashes = [{hashlib.sha256(images[i].tobytes()).digest() for i in indices}
              for indices in source_indices().values()]  # fmt: skip
    for one, other in combinations(hashes, 2):
        assert not one & other


def test_canvases_use_only_their_own_splits_sources() -> None:
    _, labels = source_images()
    for name, own in source_indices().items():
        made = canvases(name)
        assert set(made.digit_sources) == set(own)
        assert set(made.fragment_sources.ravel()) <= set(own)
        assert not (made.fragment_sources == made.digit_sources[:, None]).any()
        assert np.array_equal(made.labels, labels[made.digit_sources])


def test_canvas_values_are_whole_steps_of_255() -> None:
    steps = cluttered_digits().search.inputs * 255
    assert torch.equal(steps, steps.round())


@pytest.mark.parametrize("size", [8, 9, 10, 11])
def test_resize_agrees_with_torch(size: int) -> None:
    images, _ = source_images()
    scaled = torch.from_numpy(images[:50]).double().unsqueeze(1) * 255 / 16
    expected = torch.nn.functional.interpolate(scaled, (size, size), mode="bilinear")
    difference = torch.from_numpy(resize(images[:50], size)) - expected.squeeze(1)
    assert difference.abs().max() <= 0.5 + 1e-9


# What a Split takes.


def test_dtypes_are_converted() -> None:
    split = Split(torch.rand(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.uint8))
    assert (split.inputs.dtype, split.labels.dtype) == (torch.float32, torch.int64)
    events = Split(torch.rand(2, 3, 1, 4, 4) > 0.5, torch.zeros(2, dtype=torch.int32))
    assert events.is_events
    assert events.inputs.dtype == torch.float32


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 4, 4), (3, 1, 4, 4)])
def test_every_layout_is_taken(shape: tuple[int, ...]) -> None:
    assert make_split(shape=shape).sample_shape == shape


def test_subset_keeps_the_order() -> None:
    split = make_split()
    part = split.subset(torch.tensor([4, 1]))
    assert len(part) == 2
    assert torch.equal(part.inputs, split.inputs[[4, 1]])


def test_fingerprints_tell_apart() -> None:
    split = make_split()
    assert split.sha256() == Split(split.inputs.clone(), split.labels.clone()).sha256()
    assert split.sha256() != Split(split.inputs, split.labels.flip(0)).sha256()
    whole = make_splits(train=split)
    assert whole.sha256() != replace(whole, num_classes=4).sha256()


def test_from_dataset_reads_tensors_and_arrays() -> None:
    split = make_split()
    read = Split.from_dataset(TensorDataset(split.inputs, split.labels))
    assert read.sha256() == split.sha256()
    arrays = Items(*((x.numpy(), np.int64(y)) for x, y in zip(*_tensors(split), strict=True)))
    assert Split.from_dataset(arrays).sha256() == split.sha256()


def test_as_split_takes_a_split_a_pair_and_a_dataset() -> None:
    split = make_split()
    assert as_split(split, "train") is split
    assert as_split((split.inputs, split.labels), "train").sha256() == split.sha256()
    assert as_split(TensorDataset(*_tensors(split)), "train").sha256() == split.sha256()


def _tensors(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return split.inputs, split.labels


# What it refuses: each message names value, limit and way out.

X = torch.rand(3, 1, 4, 4)
Y = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (X.numpy(), Y, "inputs are a ndarray;.*torch.as_tensor"),
        (X, [0, 1, 2], "labels are a list;.*torch.as_tensor"),
        (X.mul(255).byte(), Y, r"inputs are torch.uint8;.*/ 255"),
        (X.to(torch.complex64), Y, "inputs are torch.complex64; they must be floating"),
        (X, Y / 0, "labels are NaN or infinite as float32; .*drop those samples"),
        (X, torch.tensor(1.0), "labels are one number; there must be one or more for each"),
        (X, Y[:, None], r"labels of shape \(3, 1\) lie in 0 to 2; .* must be 0 or 1"),
        (X, Y[:, None, None], r"labels have shape \(3, 1, 1\); integers must be"),
        (X, Y[:, None].float()[:, :0], r"labels have shape \(3, 0\); there must be at least one"),
        (X, Y.bool(), "labels are torch.bool;.*integer"),
        (X[:, 0, 0, 0], Y, r"inputs have 1 axes, shape \(3,\); they must be .*unsqueeze"),
        (X[None, None], Y, "inputs have 6 axes"),
        (X[:2], Y, r"there are 2 inputs and 3 labels; they must be equally many.*samples first"),
        (X[:0], Y[:0], r"the split is empty, shape \(0, 1, 4, 4\); it needs at least 1 sample"),
        (X[:, :0], Y, r"the split is empty, shape \(3, 0, 4, 4\)"),
        (X / 0, Y, "48 of 48 input values are NaN or infinite.*nan_to_num"),
        (X.double().fill_(1e300), Y, "infinite as float32"),
        (X, Y - 1, "the lowest label is -1; labels start at 0; renumber"),
    ],
)
def test_bad_split_is_refused(inputs: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(inputs, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1;.*at least 2"),
        ({"num_classes": 3.0}, "num_classes is 3.0; it must be a whole number"),
        ({"num_classes": 2}, "train holds the label 2;.*below num_classes = 2; raise"),
        ({"search": make_split(shape=(2, 4, 4))}, r"search samples have shape \(2, 4, 4\), train"),
        ({"test": make_split(shape=(5, 1, 4, 4))}, r"test samples have shape \(5, 1, 4, 4\)"),
        ({"test": Split(X, Y.float())}, r"test labels are torch.float32 of shape \(3,\), train"),
        ({"test": (X, Y)}, "test is a tuple; it must be a Split;.*as_split"),
    ],
)
def test_bad_splits_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_splits(**changes)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "Stream has no length or cannot be indexed;.*map-style"),
        (Items(), "the dataset is empty; it needs at least 1 sample"),
        (Items(7), "sample 0 is a int, not a pair"),
        (Items(("picture.png", 0)), "sample 0 is a str; it must be a tensor;.*ToTensor"),
        (Items((X[0], "cat")), "the label of sample 0 is 'cat'; it must be one integer"),
        (Items((X[0], Y)), "several labels a sample must be 0 or 1"),
        (Items((X[0], 0), (X[0], 0.5)), "the label of sample 1 is torch.float32 .* one kind"),
        (Items((X[0], None)), "the label of sample 0 is None; it must be one integer"),
        (Items((X[0], 0), (X[0, :, 1:], 1)), r"sample 1 has shape \(1, 3, 4\), sample 0"),
        ((X, Y, Y), "the tuple has 3 entries; it must be the pair"),
        ((X[:0], Y[:0]), "the split is empty"),
    ],
)
def test_bad_dataset_is_refused_under_its_name(dataset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^search split: .*{message}") as caught:
        as_split(dataset, "search")
    assert re.search(r"; .*; ", str(caught.value)) or "not a pair" in str(caught.value)
