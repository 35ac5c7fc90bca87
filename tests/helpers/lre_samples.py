"""Made-up samples of SynOps estimators."""

from __future__ import annotations

import numpy as np

from spear_gym.lre import Sample


def made_up_samples(
    count: int,
    *,
    seed: int = 0,
    factors: tuple[float, ...] = (1.1, 0.9, 1.0),
    noise: float = 0.0,
    curve: float = 0.0,
) -> list[Sample]:
    """Plans whose layers' SynOps change by known factors in fine-tuning.

    The layers' shares are drawn for each plan; ``noise`` and ``curve`` (times s squared) are added
    to the total, not to the layers.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        scored = float(rng.uniform(0.05, 1.0))
        layers = scored * rng.dirichlet(np.full(len(factors), 20.0))
        after = layers * np.array(factors)
        total = float(after.sum()) + curve * scored**2 + float(rng.normal(0, noise))
        sample = Sample(
            (index + 1, 3), scored, total, 0.9, 1.0, tuple(layers.tolist()), tuple(after.tolist())
        )
        samples.append(sample)
    return samples
