"""Handwritten digits, 8x8 pixels: UCI's "Optical Recognition of Handwritten Digits", test set.

1,797 images of ten classes, values 0..16. No download, no randomness beyond one fixed seed. The
file ``digits.csv.gz`` is the one that scikit-learn ships, byte for byte: Alpaydin and Kaynak
(1998), https://doi.org/10.24432/C50P49, licence CC BY 4.0.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .splits import DataSplits, Split

NUM_CLASSES = 10
WHITE = 16
"""The highest value of a source image."""
SIZES = {"train": 1000, "search": 300, "test": 497}
_SEED = 20261122


@lru_cache(maxsize=1)
def source_images() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All source images, (1797, 8, 8) with values 0..16, and their labels, (1797,)."""
    path = Path(__file__).with_name("digits.csv.gz")
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",").astype(np.int64)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]


@lru_cache(maxsize=1)
def source_indices() -> dict[str, npt.NDArray[np.int64]]:
    """Which source images belong to train, search and test: disjoint, stratified by class.

    Each class is shuffled and spread evenly over [0, 1); cutting that line puts the same share of
    every class, to within one image, into every split *and* into every prefix of a split.
    """
    _, labels = source_images()
    rng = np.random.RandomState(_SEED)
    position = np.empty(len(labels), dtype=np.float64)
    for label in range(NUM_CLASSES):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((labels, position)).astype(np.int64)
    cuts = np.cumsum(list(SIZES.values()))[:-1]
    return dict(zip(SIZES, np.split(order, cuts), strict=True))


@lru_cache(maxsize=1)
def digits() -> DataSplits:
    """The digits as float32 (N, 1, 8, 8) in [0, 1]: 1,000 train, 300 search, 497 test images.

    The result is cached and shared: do not write into its tensors.
    """
    images, labels = source_images()
    splits = {
        name: Split(
            torch.from_numpy(images[indices]).unsqueeze(1).to(torch.float32) / WHITE,
            torch.from_numpy(labels[indices]),
        )
        for name, indices in source_indices().items()
    }
    return DataSplits(**splits, num_classes=NUM_CLASSES)
