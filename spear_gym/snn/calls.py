"""Calls of neurons: which time step of which neuron layer one is, told by the states it is given.

A neuron is the only place where time passes: its call number k belongs to step k of the chain that
its states form, whether the network hands them on or the neuron keeps them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spear_gym.snn.drafts import Draft
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Port
from spear_gym.snn.meanings import Meaning, Step
from spear_gym.snn.neurons.base import MEMBRANE, SPIKES
from spear_gym.snn.neurons.own import state_names


@dataclass(frozen=True)
class Call:
    """One call of a neuron.

    Attributes:
        name: of the layer.
        input: the current.
        given: what else the network gives it, by the names of its forward's parameters.
        held: the states that the neuron keeps itself, as they are before the call.
        names: of all states that its forward takes, in the order in which it returns them.
    """

    name: str
    input: Tensor
    given: dict[str, Any]
    held: dict[str, Any]
    names: tuple[str, ...]

    def before(
        self, meaning: Callable[[Any], Meaning | None], drafts: Sequence[Draft], source: Step
    ) -> Step | None:
        """The call before this one, ``None`` when the neuron starts from rest.

        Args:
            meaning: what a tensor means.
            drafts: recorded so far.
            source: what :attr:`input` means.

        Raises:
            TraceError: when its states are not all its own of one step, or not at rest.
        """
        given = {key: value for key, value in self.given.items() if value is not None}
        states = {**self.held, **given}
        meanings = {key: meaning(state) for key, state in states.items()}
        known = {key: found for key, found in meanings.items() if found is not None}
        if not known:
            self._check_rest(states, given)
            return None
        for key in given:
            if key not in known:
                raise TraceError(
                    f"neuron '{self.name}' is given a {key} that is not its own of the step "
                    "before; give it all its states back, or none"
                )
        return self._last(known, drafts, source)

    def _check_rest(self, states: dict[str, Any], given: dict[str, Any]) -> None:
        for key, state in states.items():
            if not isinstance(state, Tensor) and key in given:
                raise TraceError(
                    f"neuron '{self.name}' is called with {key}={state!r}, which is no state; only "
                    "its input and its states, one tensor each, may be given"
                )
            if isinstance(state, Tensor) and state.numel() and bool((state != 0).any()):
                raise TraceError(
                    f"neuron '{self.name}' starts from a state {key} that is not zero; start it "
                    "from `reset_mem()`"
                )

    def _last(self, known: dict[str, Meaning], drafts: Sequence[Draft], source: Step) -> Step:
        steps: set[tuple[int, int | None]] = set()
        for key, before in known.items():
            if (
                not isinstance(before, Step)
                or drafts[before.draft].module != self.name
                or before.port not in (port_of(key), *(("spikes",) if key == SPIKES else ()))
            ):
                raise TraceError(
                    f"neuron '{self.name}' is given a state {key} that is not its own of the step "
                    "before; give every neuron layer its own"
                )
            steps.add((before.draft, before.step))
        draft, step = steps.pop()
        if steps or step is None:
            raise TraceError(
                f"neuron '{self.name}' is given states of different time steps; give it those of "
                "the step before"
            )
        if drafts[draft].inputs != (source.draft,):
            raise TraceError(
                f"neuron '{self.name}' is called again with another input while it keeps its state "
                "(shared by two layers, or fed back from the step before); give each layer a "
                "neuron of its own; recurrent connections are not supported"
            )
        return Step(draft, "spikes", step)


def call_of(name: str, module: nn.Module, forward: Any, a: Any, k: Any) -> Call:
    """A call of a neuron's forward with arguments ``a`` and keywords ``k``."""
    signature = inspect.signature(forward)
    given = dict(signature.bind(*a, **k).arguments)
    first, *names = signature.parameters
    held = {key: getattr(module, key) for key in state_names(module)}
    return Call(name, given.pop(first), given, held, tuple(names))


def port_of(state: str) -> Port:
    """The port at which a state leaves its neuron."""
    return "membrane" if state == MEMBRANE else state
