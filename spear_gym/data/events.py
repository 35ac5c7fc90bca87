"""Digits seen by an event camera: 16x16 pixels, 6 time steps, ON and OFF events.

One handwritten digit of `digits`, resized to 9..12 pixels and dimmed at random, stands before a
simulated event camera that makes three small saccades along a triangle, as N-MNIST's does (Orchard
et al. 2015, "Converting static image datasets to spiking neuromorphic datasets using saccades",
Frontiers in Neuroscience 9:437; theirs is a real sensor and MNIST). Two steps of one pixel per axis
make a saccade, so that seven views give six frames of events.

A pixel remembers the (linear) intensity at its last event. When the intensity differs from that by
the threshold or more it fires, ON if brighter and OFF if darker, and remembers the new one; at most
one event per pixel and frame. Then pixels fail at random and background events are added, the two
kinds of noise of such sensors. Train, search and test come from the disjoint source images of the
`digits` splits.

All arithmetic is on integers and all randomness from `numpy.random.RandomState`, whose stream is
frozen (that of `numpy.random.Generator` may change with NumPy's version), so the bytes are the same
on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from .cluttered import resize
from .digits import NUM_CLASSES, source_images, source_indices
from .splits import DataSplits, Split

IntArray = npt.NDArray[np.int64]

SENSOR = 16
STEPS = np.array([(1, 1), (1, 0), (-1, 0), (-1, 1), (0, -1), (0, -1)], dtype=np.int64)
"""Movement of the digit on the sensor before each frame, (T, 2) pixels down and right: down along
one side of the triangle, up along the other, and back along its base."""
NUM_STEPS = len(STEPS)
DIGIT_SIZES = (9, 10, 11, 12)
THRESHOLD = 40
"""Change of intensity, out of 255, that makes a pixel fire."""
DIMMEST = 160
"""Lowest contrast, out of 255: white is drawn anew for every sample from here to 255."""
MISSING = 5
"""Events in 100 that do not come."""
BACKGROUND = 1
"""Background events in 100 places (pixel, polarity and frame)."""
SIZES = {"train": 6000, "search": 1000, "test": 2000}
_EXCURSION = np.cumsum(STEPS, axis=0).max()
_SEEDS = {"train": 11, "search": 12, "test": 13}


@dataclass(frozen=True, eq=False)
class Recordings:
    """Events and what they were made from; indices are those of `digits.source_images`.

    Args:
        events: bool (N, T, 2, 16, 16), polarity 0 is ON and 1 is OFF.
        labels: int64 (N,), class of the digit.
        sources: int64 (N,), source image of the digit.
    """

    events: npt.NDArray[np.bool_]
    labels: IntArray
    sources: IntArray


@lru_cache(maxsize=1)
def digits_events() -> DataSplits:
    """Events as float32 0 or 1, (N, T = 6, 2, 16, 16): 6,000 train, 1,000 search, 2,000 test.

    The result is cached and shared: do not write into its tensors.
    """
    splits = {}
    for name in SIZES:
        made = recordings(name)
        splits[name] = Split(torch.from_numpy(made.events), torch.from_numpy(made.labels))
    return DataSplits(**splits, num_classes=NUM_CLASSES)


def recordings(split: str) -> Recordings:
    """Make the recordings of one split ("train", "search" or "test"); always the same ones.

    Every source image of the split is used equally often, to within one recording.
    """
    images, labels = source_images()
    own, count = source_indices()[split], SIZES[split]
    rng = np.random.RandomState(_SEEDS[split])
    sources = own[np.arange(count) % len(own)]
    events = camera(views(images[sources], rng), THRESHOLD)
    events &= _draw(rng, 100, events.shape) >= MISSING
    events |= _draw(rng, 100, events.shape) < BACKGROUND
    return Recordings(events, labels[sources], sources)


def views(images: IntArray, rng: np.random.RandomState) -> IntArray:
    """What the sensor sees before the first saccade and after each step of them.

    Args:
        images: int64 (N, 8, 8), values 0..16.
        rng: source of size, place and contrast, one of each per image.

    Returns:
        int64 (N, T + 1, 16, 16), values 0..255.
    """
    count = len(images)
    sizes = np.asarray(DIGIT_SIZES)[_draw(rng, len(DIGIT_SIZES), (count,))]
    # The triangle lies below and to the right of the corner, and all of it on the sensor.
    corners = _draw(rng, (SENSOR - sizes - _EXCURSION + 1)[:, None], (count, 2))
    contrast = DIMMEST + _draw(rng, 256 - DIMMEST, (count,))
    path = np.concatenate([np.zeros((1, 2), dtype=np.int64), np.cumsum(STEPS, axis=0)])
    seen = np.zeros((count, len(path), SENSOR, SENSOR), dtype=np.int64)
    for size in DIGIT_SIZES:
        members = np.flatnonzero(sizes == size)
        digits = resize(images[members], size) * contrast[members, None, None] // 255
        rows, columns = (corners[members, axis, None] + np.arange(size) for axis in (0, 1))
        for view, (down, right) in enumerate(path):
            place = (members[:, None, None], view, (rows + down)[:, :, None])
            seen[(*place, (columns + right)[:, None, :])] = digits
    return seen


def camera(seen: IntArray, threshold: int) -> npt.NDArray[np.bool_]:
    """Events of noiseless pixels: change since a pixel's last event, against a threshold.

    Args:
        seen: int64 (N, T + 1, H, W) intensities; the first view sets the pixels' memory.
        threshold: smallest change that makes an event.

    Returns:
        bool (N, T, 2, H, W), polarity 0 is ON and 1 is OFF.
    """
    remembered = seen[:, 0].copy()
    frames = []
    for now in np.moveaxis(seen[:, 1:], 1, 0):
        change = now - remembered
        polarities = np.stack([change >= threshold, change <= -threshold], axis=1)
        remembered = np.where(polarities.any(axis=1), now, remembered)
        frames.append(polarities)
    return np.stack(frames, axis=1)


def _draw(rng: np.random.RandomState, number: int | IntArray, shape: tuple[int, ...]) -> IntArray:
    """Uniform integers in 0 .. number - 1; the dtype is named because the stream depends on it."""
    return np.asarray(rng.randint(0, number, size=shape, dtype=np.int64))
