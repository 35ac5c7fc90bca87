"""Steps over plans: single ones where few are needed, halved ones on wide networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toys

from spear_gym.agents.stepping import FEW, Stepping
from spear_gym.evaluation import Counts, Evaluation


class MadeUp:
    """A network whose channels each have a cost and a worth: SynOps and accuracy are their sums."""

    def __init__(self, channels: int, groups: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.cost = rng.uniform(0.5, 2.0, (groups, channels)) * rng.uniform(0.2, 5.0, (groups, 1))
        self.worth = np.sort(rng.uniform(0.0, 1.0, (groups, channels)))[:, ::-1] / channels / groups
        self.channels, self.groups = channels, groups
        self.tried: list[Counts] = []

    def evaluate(self, counts: Counts) -> Evaluation:
        self.tried.append(counts)
        synops, accuracy = (
            sum(float(row[:count].sum()) for row, count in zip(table, counts, strict=True))
            for table in (self.cost, self.worth)
        )
        return toys.made_up(counts, accuracy, synops, unpruned=float(self.cost.sum()))

    def trim(self, share: float, **options: Any) -> tuple[Evaluation, float]:
        """From the whole network down to a share of its SynOps; the plan, and the limit."""
        limit = share * float(self.cost.sum())

        def step(counts: Counts, index: int, size: int) -> Counts | None:
            count = max(1, counts[index] - size)
            return None if count == counts[index] else replaced(counts, index, count)

        def price(here: Evaluation, move: Evaluation) -> tuple[float, ...]:
            return ((here.accuracy - move.accuracy) / (here.synops - move.synops),)

        whole = self.evaluate((self.channels,) * self.groups)
        evaluate = options.get("evaluate", self.evaluate)
        walk = Stepping(
            self.groups, step, evaluate, lambda plan: plan.synops - limit, price, past=True
        )
        return walk.walk(whole), limit

    def widen(self, share: float) -> tuple[Evaluation, float]:
        """From half of the channels up to a share of all SynOps."""
        limit = share * float(self.cost.sum())

        def step(counts: Counts, index: int, size: int) -> Counts | None:
            count = min(self.channels, counts[index] + size)
            return None if count == counts[index] else replaced(counts, index, count)

        def price(here: Evaluation, move: Evaluation) -> tuple[float, ...]:
            return ((here.accuracy - move.accuracy) / (move.synops - here.synops),)

        half = self.evaluate((self.channels // 2,) * self.groups)
        walk = Stepping(
            self.groups, step, self.evaluate, lambda plan: limit - plan.synops, price, past=False
        )
        return walk.walk(half), limit


def replaced(counts: Counts, index: int, count: int) -> Counts:
    return (*counts[:index], count, *counts[index + 1 :])


def test_few_steps_are_single_ones_after_all_groups_were_tried() -> None:
    network = MadeUp(6, 4)
    found, limit = network.trim(0.7)
    taken = sum(network.channels - count for count in found.counts)
    assert found.synops <= limit
    assert len(network.tried) == 1 + 4 * taken <= FEW


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.99, 0.97, 0.8, 0.5])
def test_wide_networks_are_trimmed_in_tens(seed: int, share: float) -> None:
    """One at a time it would be hundreds: every group for every channel that goes."""
    network = MadeUp(300, 13, seed)
    found, limit = network.trim(share)
    assert found.synops <= limit
    assert len(network.tried) <= 80
    largest = float(network.cost.max())
    assert found.synops > limit - largest, "not a channel more than must be"
    # What is lost is near the least that can be, by the accuracy of a fractional choice.
    gone = [row[count:].sum() for row, count in zip(network.worth, found.counts, strict=True)]
    assert sum(gone) < network.worth.sum() * (1 - share) + 1e-9


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.55, 0.8])
def test_wide_networks_are_widened_in_tens(seed: int, share: float) -> None:
    network = MadeUp(300, 13, seed)
    found, limit = network.widen(share)
    assert len(network.tried) <= 130
    assert limit - float(network.cost.max()) < found.synops <= limit
    assert all(count >= 150 for count in found.counts)


def test_it_ends_where_no_step_is_left_or_paid_for() -> None:
    network = MadeUp(5, 3)
    floor, _ = network.trim(0.0)
    assert floor.counts == (1, 1, 1)
    start, _ = network.trim(0.5, evaluate=lambda _: None)
    assert start.counts == (5, 5, 5)
    left = [7]

    def paid(counts: Counts) -> Evaluation | None:
        left[0] -= 1
        return network.evaluate(counts) if left[0] >= 0 else None

    some, limit = network.trim(0.2, evaluate=paid)
    assert some.synops > limit
    assert sum(some.counts) == 12, "two rounds of three, and the one that was paid for"
