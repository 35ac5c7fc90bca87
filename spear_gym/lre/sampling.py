"""Random plans: spread over the range of SynOps, or near one value of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.snn.graph import counted_synapses, kept_features

TRIES = 400


def expected_fraction(evaluator: PlanEvaluator, counts: Counts) -> float:
    """SynOps fraction of a plan if no firing rate changed; costs no simulation."""
    graph, space = evaluator.graph, evaluator.space
    kept = {group.space: space.kept(i, counts[i]) for i, group in enumerate(space.groups)}
    unpruned, total = evaluator.reference.layer_synops, 0.0
    for synapses in counted_synapses(graph):
        share = unpruned[synapses.name]
        for node in (synapses.gives, synapses.reads):
            index = None if node is None else kept_features(node.channels, kept)
            share *= 1.0 if node is None or index is None else len(index) / node.shape[0]
        total += share
    return total / evaluator.reference.synops


def spread_plans(
    evaluator: PlanEvaluator, count: int, seed: int, exclude: Iterable[Counts] = ()
) -> list[Counts]:
    """Distinct random plans whose expected SynOps are spread evenly over what can be reached.

    Args:
        evaluator: gives the plan space.
        count: how many.
        seed: of the draw.
        exclude: plans that are not drawn.

    Raises:
        ValueError: when there are not so many plans.
    """
    rng = np.random.default_rng(seed)
    low = expected_fraction(evaluator, evaluator.space.smallest_counts())
    edges = np.linspace(low, 1.0, count + 1)
    chosen: list[Counts] = []
    taken = set(exclude)
    for left, right in pairwise(edges):
        middle = (left + right) / 2
        chosen.append(_draw_near(evaluator, rng, middle, (right - left) / 2, taken))
        taken.add(chosen[-1])
    return chosen


def spanning_plans(evaluator: PlanEvaluator, count: int, seed: int) -> list[Counts]:
    """Distinct plans that span the SynOps that can be reached, however early one stops.

    First the smallest plan and the largest one, then random plans whose expected SynOps halve the
    gaps between those before them (van der Corput's sequence). The first n plans of a longer
    sequence are those of a shorter one.

    Args:
        evaluator: gives the plan space.
        count: how many.
        seed: of the draw.

    Returns:
        The plans; fewer when there are no more.
    """
    space, rng = evaluator.space, np.random.default_rng(seed)
    ends = (space.smallest_counts(), space.counts([0.0] * len(space)))
    chosen = list(dict.fromkeys(ends))[:count]
    low = expected_fraction(evaluator, chosen[0])
    for index in range(1, count - len(chosen) + 1):
        aim = low + (1.0 - low) * _van_der_corput(index)
        tolerance = (1.0 - low) / (4.0 * index)
        try:
            chosen.append(_draw_near(evaluator, rng, aim, tolerance, set(chosen)))
        except ValueError:
            break
    return chosen


def _van_der_corput(index: int) -> float:
    """The binary digits of an index, mirrored at the point: 1/2, 1/4, 3/4, 1/8, ..."""
    digits = bin(index)[:1:-1]
    return sum(int(digit) * 0.5 ** (place + 1) for place, digit in enumerate(digits))


def plans_near(
    evaluator: PlanEvaluator, fraction: float, count: int, seed: int, tolerance: float = 0.1
) -> list[Counts]:
    """Distinct random plans whose scored SynOps lie within a tolerance of one value.

    Args:
        evaluator: scores them.
        fraction: the SynOps fraction.
        count: how many.
        seed: of the draw.
        tolerance: relative.

    Raises:
        ValueError: when too few are found.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction:g}; it must lie in (0, 1], a share of the SynOps")
    rng = np.random.default_rng(seed)
    chosen: list[Counts] = []
    aim = fraction
    for _ in range(40 * count):
        counts = _draw_near(evaluator, rng, aim, 0.05 * fraction, set(chosen))
        scored = evaluator.evaluate(counts).synops_fraction
        # Firing rates change with pruning, so the expectation is corrected as plans come in.
        aim *= (fraction / scored) ** 0.2
        if abs(scored / fraction - 1) <= tolerance:
            chosen.append(counts)
        if len(chosen) == count:
            return chosen
    raise ValueError(
        f"only {len(chosen)} of {count} plans found within {tolerance:.0%} of the SynOps fraction "
        f"{fraction}; choose another fraction"
    )


def _draw_near(
    evaluator: PlanEvaluator,
    rng: np.random.Generator,
    fraction: float,
    tolerance: float,
    taken: set[Counts],
) -> Counts:
    """A random plan near an expected fraction; the nearest of the tries when none is inside."""
    space = evaluator.space
    best: Counts | None = None
    smallest = np.inf
    for _ in range(TRIES):
        level = rng.uniform(0.0, space.largest_ratio)
        spread = rng.uniform(0.0, 0.5)
        ratios = level + spread * rng.uniform(-1.0, 1.0, len(space))
        counts = space.counts(np.clip(ratios, 0.0, space.largest_ratio))
        distance = abs(expected_fraction(evaluator, counts) - fraction)
        if counts not in taken and distance < smallest:
            best, smallest = counts, distance
        if best is not None and smallest <= tolerance:
            return best
    if best is None:
        raise ValueError("the plan space is too small for so many distinct plans")
    return best
