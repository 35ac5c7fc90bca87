"""Who searches: RL, black-box and design-based agents behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from spear_gym.plugins import import_path
from spear_gym.workload import unknown

from .base import Agent, AgentError, SearchResult, SearchSession, run_search

__all__ = [
    "AGENTS",
    "Agent",
    "AgentError",
    "SearchResult",
    "SearchSession",
    "make_agent",
    "run_search",
]


def _later(module: str, factory: str, *arguments: Any) -> Callable[[], Agent]:
    """An agent whose module is imported when it is asked for: some need heavy libraries."""

    def make() -> Agent:
        agent: Agent = getattr(import_module(module, __package__), factory)(*arguments)
        return agent

    return make


AGENTS: dict[str, Callable[[], Agent]] = {
    "spear-ddpg": _later(".spear_ddpg", "SpearDDPG"),
    "random": _later(".baselines", "RandomSearch"),
    "uniform": _later(".baselines", "Uniform"),
}
"""Agents by name."""


def make_agent(name: str) -> Agent:
    """An agent by name, or a user's own by its path.

    Args:
        name: a name in :data:`AGENTS`, or ``module:attribute``, the attribute being a class (or
            function) that gives an :class:`Agent` when called without arguments. Modules are
            looked for in the working folder too.

    Raises:
        AgentError: for an unknown name, with near matches, and for a path that gives no agent.
    """
    if ":" in name:
        return _own_agent(name)
    if name not in AGENTS:
        raise AgentError(unknown("agent", name, tuple(AGENTS)))
    return AGENTS[name]()


def _own_agent(path: str) -> Agent:
    try:
        factory = import_path(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise AgentError(f"cannot import the agent '{path}': {error}") from error
    try:
        agent: Any = factory()
    except TypeError as error:
        raise AgentError(f"'{path}' cannot be called without arguments: {error}") from error
    search: Any = getattr(agent, "search", None)
    if not (isinstance(getattr(agent, "name", None), str) and callable(search)):
        raise AgentError(
            f"'{path}' gives a {type(agent).__name__}, which is no agent: it needs a `name` and a "
            "method `search(session, seed)`"
        )
    found: Agent = agent
    return found
