"""Plans: how many channels a ratio keeps, limits, and what is read back from JSON."""

from __future__ import annotations

import json
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.pruning.plan import PLAN_FORMAT, Plan, PlanError, PlanSpace, kept_by_space
from spear_gym.snn.graph import PrunableGroup


def space(*channels: int, **limits: Any) -> PlanSpace:
    """Groups g0, g1, ... whose channels are ranked backwards."""
    groups = tuple(PrunableGroup(f"g{i}", 10 + i, n, (i,)) for i, n in enumerate(channels))
    return PlanSpace(groups, tuple(tuple(reversed(range(n))) for n in channels), **limits)


# ------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("channels", "multiple", "least", "ratio", "kept"),
    [
        (10, 1, 1, 0.0, 10),
        (10, 1, 1, 0.5, 5),
        (10, 1, 1, 0.25, 8),  # 7.5 goes up, where rounding half to even agrees
        (10, 1, 1, 0.75, 3),  # 2.5 goes up, where rounding half to even says 2
        (10, 1, 1, 0.9, 1),
        (3, 1, 1, 0.9, 1),  # 0.3 rounds to 0, one channel stays
        (16, 1, 4, 0.9, 4),
        (16, 4, 1, 0.5, 8),
        (16, 4, 1, 0.375, 12),  # 10 channels are 2.5 fours, up to 3
        (16, 4, 1, 0.9, 1),  # 0.4 fours round to none: min_channels, not a multiple
        (10, 4, 1, 0.0, 10),  # 2.5 fours, up to 12, of which there are 10
    ],
)
def test_counts_by_hand(channels: int, multiple: int, least: int, ratio: float, kept: int) -> None:
    limits = space(channels, channel_multiple=multiple, min_channels=least)
    assert limits.counts([ratio]) == (kept,)


@given(
    channels=st.integers(8, 512),
    multiple=st.integers(1, 8),
    least=st.integers(1, 8),
    ratio=st.floats(0, 1, width=32, allow_subnormal=False),
)
def test_counts_equal_exact_arithmetic(
    channels: int, multiple: int, least: int, ratio: float
) -> None:
    limits = space(channels, channel_multiple=multiple, min_channels=least)
    applied = Fraction(min(ratio, float(np.float32(0.9))))
    exact = floor((1 - applied) * channels / multiple + Fraction(1, 2)) * multiple
    assert limits.counts([ratio]) == (min(max(exact, least), channels),)


def test_ratios_pass_through_float32() -> None:
    # In float64 this is below one half of a channel, in float32 it is exactly 0.75.
    ratio = 0.75 + 1e-12
    assert floor((1 - ratio) * 10 + 0.5) == 2
    for given_as in (ratio, np.float64(ratio), np.float32(ratio), torch.tensor(ratio)):
        assert space(10).counts([given_as]) == (3,)
    assert space(10).counts(np.array([ratio])) == (3,)


def test_ratios_are_clipped() -> None:
    assert space(10, 10).counts([-0.5, 2.0]) == (10, 1)
    assert space(10, max_ratio=0.5).counts([0.9]) == (5,)
    assert space(10, max_ratio=0.5).smallest_counts() == (5,)


@pytest.mark.parametrize("ratios", [[], [0.1], [0.1, 0.2, 0.3]])
def test_wrong_number_of_ratios(ratios: list[float]) -> None:
    with pytest.raises(PlanError, match=f"{len(ratios)} ratios given; the network has 2 groups"):
        space(4, 4).counts(ratios)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_ratios_must_be_finite(bad: float) -> None:
    with pytest.raises(PlanError, match="ratios must be finite"):
        space(4, 4).counts([0.1, bad])


@given(channels=st.integers(1, 20), multiple=st.integers(1, 20), least=st.integers(1, 20))
def test_next_counts_equal_brute_force(channels: int, multiple: int, least: int) -> None:
    """Nine channels in fours: 8 is the most, for 9 / 4 rounds to 2."""
    multiple, least = min(multiple, channels), min(least, channels)
    limits = space(channels, channel_multiple=multiple, min_channels=least)
    can = sorted({limits.count(0, ratio) for ratio in np.linspace(0, 1, 20 * channels + 1)})
    for count in can:
        assert limits.next_lower(0, count) == max([c for c in can if c < count], default=count)
        assert limits.next_higher(0, count) == min([c for c in can if c > count], default=count)


@given(
    channels=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    multiple=st.integers(1, 20),
    least=st.integers(1, 20),
    max_ratio=st.floats(0.01, 0.99),
)
def test_size_equals_brute_force(
    channels: list[int], multiple: int, least: int, max_ratio: float
) -> None:
    narrowest = min(channels)
    limits = space(
        *channels,
        channel_multiple=min(multiple, narrowest),
        min_channels=min(least, narrowest),
        max_ratio=max_ratio,
    )
    ratios = [*np.linspace(0, max_ratio, 2001), max_ratio]
    can = [{limits.count(i, float(r)) for r in ratios} for i in range(len(channels))]
    assert limits.size == np.prod([len(one) for one in can])


def test_next_counts_by_hand() -> None:
    limits = space(9, 10, channel_multiple=4, min_channels=3)
    assert [limits.next_lower(0, n) for n in (10, 9, 8, 4, 3)] == [8, 8, 4, 3, 3]
    assert [limits.next_higher(0, n) for n in (3, 4, 8, 9)] == [4, 8, 8, 9]
    assert [limits.next_higher(1, n) for n in (3, 4, 8, 10)] == [4, 8, 10, 10]


# ------------------------------------------------------------------ limits


@pytest.mark.parametrize("name", ["channel_multiple", "min_channels"])
@pytest.mark.parametrize("value", [0, -1, 5])
def test_limits_must_fit_the_narrowest_group(name: str, value: int) -> None:
    message = rf"{name} is {value}; it must lie in 1\.\.4, .* narrowest group 'g1'"
    with pytest.raises(PlanError, match=message):
        space(8, 4, 16, **{name: value})
    assert space(8, 4, 16, **{name: 4}).counts([0, 0, 0]) == (8, 4, 16)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_max_ratio_must_lie_inside(ratio: float) -> None:
    with pytest.raises(PlanError, match=r"max_ratio is .*; it must lie inside \(0, 1\)"):
        space(4, max_ratio=ratio)


def test_a_network_without_groups() -> None:
    with pytest.raises(PlanError, match="no prunable layer"):
        space()


# ------------------------------------------------------------------ kept channels


def test_the_best_ranked_stay_in_their_order() -> None:
    groups = (PrunableGroup("a", 1, 5, (1,)),)
    plan = PlanSpace(groups, ((3, 0, 4, 1, 2),)).plan([3])
    assert plan == Plan(("a",), (5,), ((0, 3, 4),))
    assert plan.counts == (3,)


def test_plans_are_equal_when_their_indices_are() -> None:
    limits = space(10, 6)
    assert limits.from_ratios([0.5, 0.0]) == limits.from_ratios([0.51, 0.01])
    assert limits.from_ratios([0.5, 0.0]) != limits.from_ratios([0.4, 0.0])
    assert len({limits.from_ratios([0.5, 0.0]), limits.from_ratios([0.51, 0.01])}) == 1


def test_kept_by_space() -> None:
    limits = space(4, 6)
    kept = kept_by_space(limits.from_ratios([0.5, 0.0]), limits.groups)
    assert kept.keys() == {10}  # the group that keeps everything is left out
    assert kept[10].tolist() == [2, 3]
    assert kept[10].dtype == torch.int64


@pytest.mark.parametrize("other", [(4, 7), (4,), (6, 4), (4, 6, 6)])
def test_a_plan_for_another_network(other: tuple[int, ...]) -> None:
    plan = space(*other).from_ratios([0.0] * len(other))
    with pytest.raises(PlanError, match=r"the plan is for groups .*, the network has"):
        kept_by_space(plan, space(4, 6).groups)


# ------------------------------------------------------------------ JSON


@st.composite
def plans(draw: Any) -> Plan:
    channels = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    kept = tuple(tuple(sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))) for n in channels)
    names = draw(st.lists(st.text(max_size=5), min_size=len(channels), max_size=len(channels)))
    return Plan(tuple(names), tuple(channels), kept)


@given(plans())
def test_json_round_trip(plan: Plan) -> None:
    assert Plan.loads(json.dumps(plan.to_json())) == plan
    assert Plan.from_json(plan.to_json()) == plan


@given(plans(), st.data())
def test_a_truncated_plan_is_refused(plan: Plan, data: st.DataObject) -> None:
    text = json.dumps(plan.to_json())
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(PlanError):
        Plan.loads(text[:cut])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(JSON)
def test_a_foreign_file_is_refused(value: Any) -> None:
    with pytest.raises(PlanError, match=r"this is no plan|the plan (holds|is damaged)"):
        Plan.loads(json.dumps(value))


@given(plans(), JSON, st.data())
def test_a_damaged_plan_is_refused_or_whole(plan: Plan, value: Any, data: st.DataObject) -> None:
    """One entry replaced by any JSON value: an error, unless the result is a plan after all."""
    damaged = plan.to_json()
    group = data.draw(st.sampled_from(damaged["groups"]))
    places = [(group, key) for key in group]
    places += [(group["kept"], 0), (damaged["groups"], 0), (damaged, "groups")]
    target, key = data.draw(st.sampled_from(places))
    target[key] = value
    try:
        read = Plan.loads(json.dumps(damaged))
    except PlanError:
        return
    assert read.to_json() == damaged
    for channels, kept in zip(read.channels, read.kept, strict=True):
        assert list(kept) == sorted(set(kept))
        assert 0 <= kept[0] <= kept[-1] < channels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": []}, "ascending and not empty"),
        ({"kept": [2, 1]}, "ascending"),
        ({"kept": [1, 1]}, "ascending"),
        ({"kept": [0, 4]}, r"must lie in 0\.\.3"),
        ({"kept": [-1, 2]}, r"must lie in 0\.\.3"),
        ({"kept": [0, 1.5]}, "damaged"),
        ({"kept": [0, True]}, "damaged"),
        ({"kept": "01"}, "damaged"),
        ({"kept": None}, "damaged"),
        ({"channels": "4"}, "damaged"),
        ({"channels": 4.0}, "damaged"),
        ({"channels": float("inf")}, "damaged"),
        ({"name": 3}, "damaged"),
    ],
)
def test_damaged_entries(change: dict[str, Any], message: str) -> None:
    group = {"name": "a", "channels": 4, "kept": [0, 1]} | change
    with pytest.raises(PlanError, match=message):
        Plan.from_json({"format": PLAN_FORMAT, "groups": [group]})


def test_other_formats() -> None:
    with pytest.raises(PlanError, match="its 'format' is not 'spear-gym plan 1'"):
        Plan.from_json({"format": "spear-gym plan 2", "groups": []})
    for damage in ({}, {"groups": {}}, {"groups": ""}, {"groups": None}, {"groups": [1]}):
        with pytest.raises(PlanError, match="damaged"):
            Plan.from_json({"format": PLAN_FORMAT, **damage})
    with pytest.raises(PlanError, match="damaged or no JSON"):
        Plan.loads("{")
