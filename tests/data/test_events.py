"""`digits-events`: pinned bytes, disjoint sources, and the camera against a pixel-by-pixel one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spear_gym.data import digits_events
from spear_gym.data.cluttered import resize
from spear_gym.data.digits import source_images, source_indices
from spear_gym.data.events import (
    BACKGROUND,
    DIGIT_SIZES,
    DIMMEST,
    MISSING,
    NUM_STEPS,
    SENSOR,
    SIZES,
    STEPS,
    THRESHOLD,
    camera,
    recordings,
    views,
)

EVENTS_SHA256 = "7d14e1dd0f60778bfbaeb206ad4f225d36b5d5ddf61520ca0e3444c3e6a2edaa"


def test_bytes_are_pinned() -> None:
    assert digits_events().sha256() == EVENTS_SHA256


def test_made_again_the_recordings_are_the_same() -> None:
    assert np.array_equal(recordings("search").events, recordings("search").events)


def test_events_are_0_or_1_in_both_polarities() -> None:
    splits = digits_events()
    assert splits.num_classes == 10
    assert splits.sample_shape == (NUM_STEPS, 2, SENSOR, SENSOR) == (6, 2, 16, 16)
    for name, split in splits.named().items():
        assert split.is_events
        assert len(split) == SIZES[name]
        assert split.inputs.dtype == torch.float32
        assert bool(((split.inputs == 0) | (split.inputs == 1)).all())
        rate = split.inputs.mean((0, 3, 4))  # (time, polarity)
        assert bool(((rate > 0.03) & (rate < 0.15)).all())
        assert bool(split.inputs.amax((1, 3, 4)).all()), "every sample has both polarities"
        assert torch.bincount(split.labels).min() > 0.09 * len(split)


def test_recordings_use_only_their_own_splits_sources() -> None:
    _, labels = source_images()
    used = []
    for name, own in source_indices().items():
        made = recordings(name)
        assert set(made.sources) == set(own)
        assert np.array_equal(made.labels, labels[made.sources])
        used.append(set(made.sources))
    for one, other in combinations(used, 2):
        assert not one & other


def test_the_saccades_close_a_triangle_with_two_equal_sides() -> None:
    assert not STEPS.sum(axis=0).any()
    sides = STEPS.reshape(3, 2, 2).sum(axis=1)
    lengths = sorted((sides**2).sum(axis=1))
    assert len(set(lengths)) == 2
    assert np.linalg.matrix_rank(sides) == 2
    assert np.abs(STEPS).max() == 1


def test_views_show_the_whole_digit_along_the_path() -> None:
    images = source_images()[0][:40]
    seen = views(images, np.random.RandomState(5))
    assert seen.shape == (40, NUM_STEPS + 1, SENSOR, SENSOR)
    assert np.array_equal(seen[:, 0], seen[:, -1]), "the path is closed"
    for image, first in zip(images[:6], seen[:6, 0], strict=True):
        assert any(np.array_equal(first, view) for view in possible_views(image))
    for before, after, (down, right) in zip(
        np.moveaxis(seen, 1, 0), np.moveaxis(seen, 1, 0)[1:], STEPS, strict=False
    ):
        # Nothing wraps around, for nothing reaches the border that it moves across.
        assert np.array_equal(np.roll(before, (down, right), axis=(1, 2)), after)


def possible_views(image: np.ndarray) -> Iterator[np.ndarray]:
    """Every size, contrast and place that leaves room for the saccades, two pixels each way."""
    for size in DIGIT_SIZES:
        whole = resize(image[None], size)[0]
        room = range(SENSOR - size - 2 + 1)
        for contrast, top, left in product(range(DIMMEST, 256), room, room):
            view = np.zeros((SENSOR, SENSOR), dtype=np.int64)
            view[top : top + size, left : left + size] = whole * contrast // 255
            yield view


def slow_camera(seen: np.ndarray, threshold: int) -> np.ndarray:
    """One pixel at a time, one view at a time."""
    samples, times, height, width = seen.shape
    events = np.zeros((samples, times - 1, 2, height, width), dtype=bool)
    for n, y, x in np.ndindex(samples, height, width):
        memory = int(seen[n, 0, y, x])
        for t in range(1, times):
            value = int(seen[n, t, y, x])
            if abs(value - memory) >= threshold:
                events[n, t - 1, 0 if value > memory else 1, y, x] = True
                memory = value
    return events


@given(arrays(np.int64, (2, 4, 2, 3), elements=st.integers(0, 255)), st.integers(1, 255))
def test_camera_equals_a_pixel_by_pixel_one(seen: np.ndarray, threshold: int) -> None:
    assert np.array_equal(camera(seen, threshold), slow_camera(seen, threshold))


def test_a_pixel_remembers_what_it_last_told() -> None:
    """Threshold 48: 0 30 60 70 20 says nothing, ON (60 since 0), nothing (10), nothing (40)."""
    seen = np.array([0, 30, 60, 70, 20, 12]).reshape(1, 6, 1, 1)
    told = camera(seen, 48)[0, :, :, 0, 0]
    assert told.tolist() == [
        [False, False], [True, False], [False, False], [False, False], [False, True],
    ]  # fmt: skip


def test_noise_has_the_stated_rates() -> None:
    """Redrawn without noise, events go missing and appear at the rates that the module names."""
    made = recordings("search")
    clean = camera(views(source_images()[0][made.sources], np.random.RandomState(12)), THRESHOLD)
    kept, added = made.events[clean].mean(), made.events[~clean].mean()
    background = BACKGROUND / 100
    # A missing event may come back as background.
    missing = MISSING / 100
    assert kept == pytest.approx(1 - missing * (1 - background), abs=0.003)
    assert added == pytest.approx(background, abs=0.001)
