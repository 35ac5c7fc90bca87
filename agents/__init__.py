"""Who searches: RL, black-box, gradient-based and design-based agents behind one interface."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from spear_gym.boundary.plugins import PluginError, blaming, import_path
from spear_gym.boundary.text import shown, unknown

from .algorithms import ALGORITHMS, hyperparameters_file
from .base import Agent, AgentError, AgentFailed, SearchResult, SearchSession, run_search

__all__ = [
    "AGENTS",
    "Agent",
    "AgentError",
    "AgentFailed",
    "SearchResult",
    "SearchSession",
    "make_agent",
    "run_search",
]


def _later(module: str, factory: str, *arguments: Any, **fixed: Any) -> Callable[..., Agent]:
    """An agent whose module is imported when it is asked for: some need heavy libraries."""

    def make(**settings: Any) -> Agent:
        made = getattr(import_module(module, __package__), factory)
        if not inspect.signature(made).parameters:
            for name in settings:
                raise AgentError(f"agent '{made.name}' has no settings; it is given '{name}'")
        agent: Agent = made(*arguments, **fixed, **settings)
        return agent

    return make


AGENTS: dict[str, Callable[..., Agent]] = {
    "spear-ddpg": _later(".spear_ddpg", "SpearDDPG"),
    "random": _later(".baselines", "RandomSearch"),
    "uniform": _later(".design", "Uniform"),
    "global-l1": _later(".design", "GlobalL1"),
    "network-slimming": _later(".design", "NetworkSlimming"),
    "sca": _later(".design", "SCA"),
    "gates": _later(".gradient", "GateSearch"),
}
"""Agents by name; called with an agent's settings."""

for _name in ("qmc", "tpe", "gp", "cma-es", "nsga-ii", "nsga-ii-2", "evolution"):
    AGENTS[_name] = _later(".blackbox", "OptunaAgent", _name)

for _name in ALGORITHMS:
    AGENTS[f"{_name}-default"] = _later(".sb3", "named_agent", _name, tuned=False)
    if hyperparameters_file(_name).is_file():
        AGENTS[_name] = _later(".sb3", "named_agent", _name, tuned=True)


def make_agent(name: str, settings: Mapping[str, Any] | None = None) -> Agent:
    """An agent by name, or a user's own by its path.

    Args:
        name: a name in :data:`AGENTS`, or ``module:attribute``. The attribute is a class (or a
            function) that gives an :class:`Agent` when called with the settings, or an algorithm
            in the manner of Stable-Baselines3, such as ``sb3_contrib:QRDQN``. Modules are looked
            for in the working folder too.
        settings: of the agent.

    Raises:
        AgentError: for an unknown name or setting, with near matches, and for a path that gives
            no agent.
    """
    if ":" in name:
        return _own_agent(name, settings or {})
    if name not in AGENTS:
        raise AgentError(unknown("agent", name, tuple(AGENTS)))
    agent: Agent = _called(name, AGENTS[name], settings or {})
    return agent


def _own_agent(path: str, settings: Mapping[str, Any]) -> Agent:
    try:
        factory = import_path(path)
    except PluginError as error:
        raise AgentError(f"cannot import the agent '{path}': {error}") from error
    if _is_algorithm(factory):
        from .sb3 import SB3Agent

        return SB3Agent(path, factory, settings=settings)
    if not callable(factory):
        raise AgentError(f"'{path}' is no class or function that gives an agent")
    try:
        with blaming("it raised"):
            agent: Any = factory(**settings)
            is_agent = isinstance(getattr(agent, "name", None), str)
            is_agent &= callable(getattr(agent, "search", None))
    except PluginError as error:
        given = f"the settings {shown(dict(settings))}" if settings else "no settings"
        raise AgentError(f"agent '{path}' cannot be made with {given}: {error}") from error
    if not is_agent:
        raise AgentError(
            f"'{path}' gives a {type(agent).__name__}, which is no agent: it needs a `name` and a "
            "method `search(session, seed)`"
        )
    found: Agent = agent
    return found


def _is_algorithm(found: Any) -> bool:
    """Whether this is an algorithm of Stable-Baselines3, which then is imported already."""
    base = sys.modules.get("stable_baselines3.common.base_class")
    return base is not None and isinstance(found, type) and issubclass(found, base.BaseAlgorithm)


def _called(name: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    try:
        return factory(**settings)
    except TypeError as error:
        given = f"the settings {shown(dict(settings))}" if settings else "no settings"
        raise AgentError(f"agent '{name}' cannot be made with {given}: {error}") from error
