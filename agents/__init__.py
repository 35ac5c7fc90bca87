"""Who searches: RL, black-box and design-based agents behind one interface."""

from __future__ import annotations

from collections.abc import Callable

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


def _spear_ddpg() -> Agent:
    from .spear_ddpg import SpearDDPG

    return SpearDDPG()


def _random() -> Agent:
    from .baselines import RandomSearch

    return RandomSearch()


def _uniform() -> Agent:
    from .baselines import Uniform

    return Uniform()


AGENTS: dict[str, Callable[[], Agent]] = {
    "spear-ddpg": _spear_ddpg,
    "random": _random,
    "uniform": _uniform,
}


def make_agent(name: str) -> Agent:
    """An agent by name.

    Raises:
        AgentError: for an unknown name, with near matches.
    """
    if name not in AGENTS:
        raise AgentError(unknown("agent", name, tuple(AGENTS)))
    return AGENTS[name]()
