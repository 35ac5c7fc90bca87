"""Gymnasium's `EnvSpec` for our environments: what it says, and how it is written as JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from enum import Enum
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from spear_gym.workload import Workload

DERIVED = ("namespace", "name", "version")
"""Fields of a spec that follow from its id and are not written."""


class SpecError(ValueError):
    """A spec cannot be written, or an id does not fit what is made under it."""


class PruneSpec(EnvSpec):
    """The spec of an environment that was made; equal to the one that is read back from JSON."""

    def to_json(self) -> str:
        """The spec as JSON, for :meth:`EnvSpec.from_json`.

        Raises:
            SpecError: naming what JSON cannot hold, and what to give in its place.
        """
        written = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in DERIVED}
        wrappers = written.pop("additional_wrappers")
        plain = {name: _plain(f"'{name}'", value) for name, value in written.items()}
        plain["additional_wrappers"] = [_plain_wrapper(vars(wrapper)) for wrapper in wrappers]
        return json.dumps(plain)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EnvSpec):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # as of the dataclass that it derives from


class HasSpec:
    """Keeps the spec that `gym.make` or `gym.make_vec` gives an environment, see :func:`completed`.

    Attributes:
        spec: how to make the environment again; ``None`` when its class was called directly.
    """

    _spec: PruneSpec | None = None

    def _groups_and_workload(self) -> tuple[int, str]:
        """Length of an episode, and the name of the workload."""
        raise NotImplementedError

    @property
    def spec(self) -> EnvSpec | None:
        """How to make the environment again."""
        return self._spec

    @spec.setter
    def spec(self, given: EnvSpec | None) -> None:
        self._spec = None if given is None else completed(given, *self._groups_and_workload())


def completed(given: EnvSpec, groups: int, workload: str) -> PruneSpec:
    """A spec in the form that JSON keeps, with the longest episode in it.

    Sequences become lists, NumPy's numbers Python's, and a workload of the catalogue its name.
    Where `max_episode_steps` is not set it is one more than an episode has steps, so that a time
    limit made from the spec truncates nothing.

    Args:
        given: what Gymnasium made.
        groups: steps of an episode.
        workload: the name of the environment's workload.

    Raises:
        SpecError: when the id stands for another workload, or for shorter episodes.
    """
    _check_id(given.id, groups, workload)
    made = PruneSpec.__new__(PruneSpec)
    made.__dict__.update(given.__dict__)
    made.kwargs = {name: _listed(value) for name, value in given.kwargs.items()}
    if made.max_episode_steps is None:
        made.max_episode_steps = groups + 1
    return made


def _check_id(name: str, groups: int, workload: str) -> None:
    registered = gym.registry.get(name)
    if registered is None:
        return
    fixed, limit = registered.kwargs.get("workload"), registered.max_episode_steps
    if fixed not in (None, workload):
        raise SpecError(
            f"'{name}' stands for workload '{fixed}', but '{workload}' is given; make "
            "'SpearPrune-v0' with it"
        )
    if limit is not None and limit <= groups:
        raise SpecError(
            f"'{name}' is registered for episodes of fewer than {limit} steps, but workload "
            f"'{workload}' has {groups} groups; make 'SpearPrune-v0' with it"
        )


def _listed(value: Any) -> Any:
    """The form in which a value comes back from JSON; what JSON cannot hold stays as it is."""
    if isinstance(value, Workload) and value.catalogued:
        return value.name
    if isinstance(value, Enum):
        return _listed(value.value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


def _plain_wrapper(wrapper: dict[str, Any]) -> dict[str, Any]:
    if wrapper["kwargs"] is None:
        raise SpecError(
            f"the spec cannot be written as JSON: wrapper {wrapper['name']} does not record its "
            "arguments; derive it from gymnasium.utils.RecordConstructorArgs too, or write "
            "env.unwrapped.spec, which is without wrappers"
        )
    named = f"'{wrapper['name']}'"
    return {key: _plain(f"{named}.{key}", value) for key, value in wrapper.items()}


INSTEAD = {
    "workload": "register it with spear_gym.workload.register_workload(name, factory) and give "
    "its name",
    "reward": "give a reward by name, with reward_settings",
    "lre": "give the path to a fit, 'auto' or 'none'",
    "evaluator": "leave it out: what environments share cannot be written",
}
"""What to give in place of an argument that JSON cannot hold."""


def _plain(place: str, value: Any) -> Any:
    """A value in JSON's own types.

    Args:
        place: where it stands, for errors.
        value: to write.
    """
    value = _listed(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(f"{place}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{place}.{key}", item) for key, item in value.items()}
    instead = INSTEAD.get(place.rpartition(".")[2], "give it as numbers and names")
    raise SpecError(
        f"the spec cannot be written as JSON: {place} is a {type(value).__name__}; {instead}"
    )
