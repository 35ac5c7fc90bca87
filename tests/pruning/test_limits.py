"""Limits by the name of a group, and groups that are excluded."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import toys

from spear_gym.env import make_env
from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.keeping import load_network, save_network
from spear_gym.pruning.plan import PlanError, PlanSpace
from spear_gym.settings import PlanSettings
from spear_gym.snn.graph import PrunableGroup


def space(**limits: Any) -> PlanSpace:
    groups = tuple(PrunableGroup(f"conv{i}", i, 8 * i, (i,)) for i in (1, 2, 3))
    return PlanSpace(groups, tuple(tuple(range(g.channels)) for g in groups), **limits)


def test_each_group_has_its_own_limits() -> None:
    limited = space(
        max_ratio={"conv1": 0.5, "conv3": 0.0},
        min_channels={"conv2": 5},
        channel_multiple={"conv2": 4},
    )
    assert limited.widths(0) == (4, 5, 6, 7, 8)
    assert limited.widths(1) == (5, 8, 12, 16)
    assert limited.widths(2) == (24,)
    assert limited.size == 5 * 4
    assert limited.counts([0.9, 0.9, 0.9]) == limited.smallest_counts() == (4, 5, 24)
    assert limited.fewest_counts() == (1, 5, 1)
    assert limited.largest_ratio == 0.9


def test_a_mapping_that_says_what_a_number_says_is_the_same() -> None:
    names = ("conv1", "conv2", "conv3")
    plain = space(channel_multiple=2, min_channels=3, max_ratio=0.7)
    named = space(
        channel_multiple=dict.fromkeys(names, 2),
        min_channels=dict.fromkeys(names, 3),
        max_ratio=dict.fromkeys(names, 0.7),
    )
    for ratio in np.linspace(0, 1, 21):
        assert plain.counts([ratio] * 3) == named.counts([ratio] * 3)
    assert plain.size == named.size


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_ratio": {"conv4": 0.5}}, r"max_ratio: unknown .*'conv4'.*conv"),
        ({"max_ratio": {"conv1": 1.0}}, r"max_ratio of group 'conv1' is 1.0.*\[0, 1\)"),
        ({"max_ratio": {"conv1": "half"}}, r"is half"),
        ({"max_ratio": {"conv1": float("nan")}}, r"is nan"),
        ({"max_ratio": 0.0}, r"inside \(0, 1\)"),
        ({"min_channels": {"conv1": 9}}, r"min_channels of group 'conv1' is 9.*1\.\.8"),
        ({"min_channels": {"conv1": 2.5}}, r"is 2\.5"),
        ({"channel_multiple": {"conv": 2}}, r"channel_multiple: unknown .*'conv'"),
        ({"channel_multiple": 9}, r"1\.\.8, the channels of the narrowest group 'conv1'"),
    ],
)
def test_limits_that_do_not_fit(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        space(**limits)


# ------------------------------------------------------------------ in an environment


def test_an_excluded_layer_is_not_decided_and_stays_whole(tmp_path: Any) -> None:
    tiny = toys.tiny()
    first, *others = (group.name for group in tiny.graph.groups)
    env = make_env(tiny, target=0.9, lre="none", exclude=[first])
    assert list(env.group_names) == others
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    for _ in others:
        *_, info = env.step(np.array([0.6], np.float32))
    network = env.finetune()
    assert network.get_parameter(f"{first}.weight").shape == (
        tiny.graph.model.get_parameter(f"{first}.weight").shape
    )
    # The same plan among those that decide all layers.
    whole = PlanEvaluator(tiny)
    counts = (tiny.graph.groups[0].channels, *info["plan"].tolist())
    assert whole.evaluate(counts).synops == info["synops"]
    assert whole.evaluate(counts).accuracy == info["accuracy"]
    save_network(tmp_path, network)
    again = load_network(tmp_path, model=tiny.graph.model)
    state = network.state_dict()
    assert all(bool((state[name] == value).all()) for name, value in again.state_dict().items())


def test_settings_of_layers_are_plain_and_read_back() -> None:
    tiny = toys.tiny()
    names = [group.name for group in tiny.graph.groups]
    given: dict[str, Any] = {"max_ratio": {names[0]: 0.5}, "exclude": (names[1],)}
    settings = PlanSettings.of(PlanSettings(**given).evaluator(tiny))
    assert settings.max_ratio == given["max_ratio"]
    assert settings.exclude == given["exclude"]
    read = json.loads(json.dumps(asdict(settings)))
    assert PlanSettings.of(PlanSettings(**read).evaluator(tiny)) == settings


def test_the_action_of_a_layer_is_clipped_to_its_own_limit() -> None:
    tiny = toys.tiny()
    first = tiny.graph.groups[0]
    env = make_env(tiny, target=0.9, lre="none", max_ratio={first.name: 0.25})
    env.reset()
    *_, info = env.step(np.array([0.9], np.float32))
    assert info["applied_action"] == np.float32(0.25)
    assert info["channels_kept"] == env.evaluator.space.count(0, 0.25)
    *_, info = env.step(np.array([0.9], np.float32))
    assert info["applied_action"] == np.float32(0.9)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["conv9"], r"exclude: unknown group of channels 'conv9'"),
        ("conv1", r"exclude is 'conv1'; give a list"),
        (None, "all are excluded"),
    ],
)
def test_exclusions_that_do_not_fit(exclude: Any, message: str) -> None:
    tiny = toys.tiny()
    every = [group.name for group in tiny.graph.groups]
    with pytest.raises(PlanError, match=message):
        PlanEvaluator(tiny, exclude=every if exclude is None else exclude)


def test_fingerprints_say_what_is_excluded_and_nothing_else_new() -> None:
    tiny = toys.tiny()
    name = tiny.graph.groups[0].name
    plain = PlanEvaluator(tiny).fingerprint()
    assert "exclude" not in plain
    assert PlanEvaluator(tiny, exclude=[name]).fingerprint() == plain | {"exclude": name}
