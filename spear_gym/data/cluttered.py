"""Cluttered digits, 16x16 pixels: one digit among fragments of others.

A canvas shows one handwritten digit, resized to 8..11 pixels, at a random place, and three 4x4
fragments cut from other digits. The whole digit lies in front, its square opaque, and its class is
the label; among fragments the brighter pixel wins. Train, search and test canvases are made from
the disjoint source images of the `digits` splits, fragments included.

All arithmetic is on integers and all randomness from `numpy.random.RandomState`, whose stream is
frozen, so the bytes are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from .digits import NUM_CLASSES, WHITE, source_images, source_indices
from .splits import DataSplits, Split

IntArray = npt.NDArray[np.int64]

CANVAS = 16
DIGIT_SIZES = (8, 9, 10, 11)
FRAGMENT = 4
NUM_FRAGMENTS = 3
SIZES = {"train": 6000, "search": 1000, "test": 2000}
_SOURCE = 8
_SEEDS = {"train": 1, "search": 2, "test": 3}


@dataclass(frozen=True, eq=False)
class Canvases:
    """Canvases and what they were made from; indices are those of `digits.source_images`.

    Args:
        pixels: int64 (N, 16, 16), values 0..255.
        labels: int64 (N,), class of the whole digit.
        digit_sources: int64 (N,), source image of the whole digit.
        fragment_sources: int64 (N, 3), source images of the fragments.
    """

    pixels: IntArray
    labels: IntArray
    digit_sources: IntArray
    fragment_sources: IntArray


@lru_cache(maxsize=1)
def cluttered_digits() -> DataSplits:
    """Canvases as float32 (N, 1, 16, 16), values k / 255: 6,000 train, 1,000 search, 2,000 test.

    The result is cached and shared: do not write into its tensors.
    """
    splits = {}
    for name in SIZES:
        made = canvases(name)
        inputs = torch.from_numpy(made.pixels).unsqueeze(1).to(torch.float32) / 255
        splits[name] = Split(inputs, torch.from_numpy(made.labels))
    return DataSplits(**splits, num_classes=NUM_CLASSES)


def canvases(split: str) -> Canvases:
    """Make the canvases of one split ("train", "search" or "test"); always the same ones.

    Every source image of the split is used equally often, to within one canvas.
    """
    images, labels = source_images()
    sources, count = source_indices()[split], SIZES[split]
    rng = np.random.RandomState(_SEEDS[split])
    place = np.arange(count) % len(sources)
    # A shift of 1 .. len - 1 places: a fragment never comes from the canvas' own digit.
    shift = _draw(rng, 1, len(sources), (count, NUM_FRAGMENTS))
    digit_sources = sources[place]
    fragment_sources = sources[(place[:, None] + shift) % len(sources)]
    pixels = np.zeros((count, CANVAS, CANVAS), dtype=np.int64)
    for k in range(NUM_FRAGMENTS):
        _paste_fragments(pixels, images[fragment_sources[:, k]], rng)
    _paste_digits(pixels, images[digit_sources], rng)
    return Canvases(pixels, labels[digit_sources], digit_sources, fragment_sources)


def resize(images: IntArray, size: int) -> IntArray:
    """Bilinear resize with half-pixel centres, in exact integer arithmetic.

    Args:
        images: int64 (N, 8, 8), values 0..16.
        size: edge of the result in pixels.

    Returns:
        int64 (N, size, size), values 0..255, rounded half up.
    """
    weights = _bilinear_weights(size)
    total = weights @ images @ weights.T
    white = WHITE * (2 * size) ** 2
    return (2 * 255 * total + white) // (2 * white)


def _bilinear_weights(size: int) -> IntArray:
    """Weights of one axis times 2 * size, which makes them whole: (size, 8), rows sum to that."""
    unit = 2 * size
    # Pixel i lies at ((2 i + 1) * 8 - size) / (2 size) in source pixels, clamped to the image.
    at = np.clip((2 * np.arange(size) + 1) * _SOURCE - size, 0, (_SOURCE - 1) * unit)
    distance = np.abs(at[:, None] - unit * np.arange(_SOURCE)[None, :])
    return np.asarray(np.maximum(unit - distance, 0), dtype=np.int64)


def _paste_digits(pixels: IntArray, images: IntArray, rng: np.random.RandomState) -> None:
    sizes = np.asarray(DIGIT_SIZES)[_draw(rng, 0, len(DIGIT_SIZES), (len(pixels),))]
    corners = _corners(rng, CANVAS - sizes)
    for size in DIGIT_SIZES:
        members = np.flatnonzero(sizes == size)
        window = (members[:, None, None], *_window(corners[members], size))
        pixels[window] = resize(images[members], size)


def _paste_fragments(pixels: IntArray, images: IntArray, rng: np.random.RandomState) -> None:
    everyone = np.arange(len(pixels))
    cut = _window(_corners(rng, np.full(len(images), _SOURCE - FRAGMENT)), FRAGMENT)
    fragments = resize(images, _SOURCE)[(everyone[:, None, None], *cut)]
    corners = _corners(rng, np.full(len(images), CANVAS - FRAGMENT))
    window = (everyone[:, None, None], *_window(corners, FRAGMENT))
    pixels[window] = np.maximum(pixels[window], fragments)


def _window(corners: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """Row and column indices, (M, size, 1) and (M, 1, size), of squares at `corners`, (M, 2)."""
    steps = np.arange(size)
    return (
        corners[:, 0, None, None] + steps[None, :, None],
        corners[:, 1, None, None] + steps[None, None, :],
    )


def _corners(rng: np.random.RandomState, highest: IntArray) -> IntArray:
    """Random upper left corners, (M, 2), each coordinate uniform in 0 .. highest[i]."""
    return _draw(rng, 0, np.stack([highest, highest], axis=1) + 1, (len(highest), 2))


def _draw(
    rng: np.random.RandomState, low: int, high: int | IntArray, shape: tuple[int, ...]
) -> IntArray:
    """Uniform integers in low .. high - 1; the dtype is named because the stream depends on it."""
    return np.asarray(rng.randint(low, high, size=shape, dtype=np.int64))
