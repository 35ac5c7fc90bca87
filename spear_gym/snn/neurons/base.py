"""What a layer of neurons says of itself, and how it is stepped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

import snntorch as snn
import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
State = tuple[Tensor, ...]

Fire = Callable[[Tensor, Tensor], Tensor]
"""1 where a membrane potential (first) is above the threshold (second), else 0."""

Reset = Literal["subtract", "zero", "none"]
RESETS: tuple[Reset, ...] = ("subtract", "zero", "none")

Wiring = Literal["linear", "conv2d", "one-to-one"]
"""How recurrent synapses lead from neurons to neurons of the same layer."""

NEURONS = 48
"""Of a layer on which a model is tried."""

MEMBRANE = "mem"
"""snnTorch's name of the state that fires, and that a network may return as its membrane."""

SPIKES = "spk"
"""Its name of the spikes of the step before, where they are a state."""


class Stepper(Protocol):
    """A layer that keeps its state from one call to the next."""

    def __call__(self, now: Tensor) -> tuple[Tensor, Tensor]:
        """One time step.

        Args:
            now: input current ``(batch, channels, ...)``.

        Returns:
            Spikes and membrane potentials after the step, both like ``now``.
        """


class Neuron(ABC):
    """How one layer of neurons is simulated. Holds no tensors: they are the network's."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the tensors of the module that a step reads; paths, of inner modules."""

    @abstractmethod
    def axes(self, name: str, tensor: Tensor, dims: int) -> tuple[int, ...]:
        """Along which axes of one of its tensors the channels lie.

        Args:
            name: one of :attr:`parameters`.
            tensor: the unpruned network's.
            dims: axes of the layer's output for one sample, ``(channels, ...)``.
        """

    @abstractmethod
    def stepper(
        self, module: snn.SpikingNeuron, tensors: Tensors, like: Tensor, fire: Fire
    ) -> Stepper:
        """The layer at rest.

        Args:
            module: the user's neuron; left as it is.
            tensors: (sliced) tensors in the place of the module's own, by name.
            like: a current of the shape, dtype and device that the steps will have.
            fire: how a membrane fires, with or without a surrogate gradient.
        """

    @abstractmethod
    def describe(self) -> str:
        """What it does besides its tensors: its part of a network's fingerprint."""

    def is_binary(self, tensors: Tensors) -> bool:
        """Whether its spikes are all 0 or 1 with these (sliced) tensors."""
        return False

    wiring: Wiring | None = None
    """Of its recurrent synapses, ``None`` where it has none."""

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why it cannot read a current of this shape ``(channels, ...)`` for one sample."""
        return None

    def resize(self, module: snn.SpikingNeuron) -> None:
        """Tells a module, whose tensors were cut, its new width, where it remembers one."""
        return

    # ------------------------------------------------------------ fast paths, where there are some

    loops: ClassVar[str | None] = None
    """Module whose compiled ``score`` runs the layer in scoring, see ``leaky_loops.score``."""

    def loop_arguments(self, tensors: Tensors) -> tuple[tuple[Tensor, ...], int]:
        """What ``loops.score`` is told: parameters per neuron, and the code of the reset."""
        raise NotImplementedError

    def scoring_fallback(self, tensors: Tensors) -> str | None:
        """Why ``loops`` do not serve with these (sliced) tensors, ``None`` if they do."""
        return f"{self.name} has no compiled loop"

    def training_fallback(self, module: snn.SpikingNeuron) -> str | None:
        """Why training is left to autograd step by step, ``None`` if :meth:`scan` serves."""
        return f"{self.name} has no backward pass of its own"

    def scan(self, module: snn.SpikingNeuron, current: Tensor, num_steps: int) -> Tensor:
        """All time steps as one operation with a hand-written backward pass.

        Args:
            module: the user's neuron.
            current: ``(time, batch, ...)``, a time axis of 1 for a static input.
            num_steps: time steps T.

        Returns:
            Spikes ``(num_steps, batch, ...)``.
        """
        raise NotImplementedError

    def scan_fallback(self, module: snn.SpikingNeuron, inputs: Tensor) -> str | None:
        """Which part of :meth:`scan` runs without compiled loops, and why; ``None`` if none."""
        return None

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call it."""


def broadcast_axes(tensor: Tensor, dims: int) -> tuple[int, ...]:
    """The axis of a neuron's parameter that broadcasts against the channels.

    Args:
        tensor: the parameter, which broadcasts against ``(batch, channels, ...)``.
        dims: axes of ``(channels, ...)``.
    """
    axis = tensor.dim() - dims
    return () if axis < 0 or tensor.shape[axis] == 1 else (axis,)


@dataclass(frozen=True)
class Model(Neuron):
    """A neuron model that is written out here: its file holds one subclass.

    Attributes:
        module: snnTorch's class.
        states: names of its states, :data:`MEMBRANE` last.
        reset: what a spike does to the state.
        delay: whether it does so at the next time step (snnTorch's ``reset_delay``).
    """

    module: ClassVar[type[snn.SpikingNeuron]]
    states: ClassVar[tuple[str, ...]]
    own: ClassVar[Mapping[str, float]]
    """Its parameters, threshold and grade aside, which every neuron has; each with a value, such
    that all settings do different things at them."""
    has_delay: ClassVar[bool] = False
    """Whether snnTorch's class takes ``reset_delay``."""

    reset: Reset
    delay: bool = True

    @classmethod
    def of(cls, neuron: snn.SpikingNeuron, reset: Reset, delay: bool) -> Self:  # noqa: ARG003
        """The model of a neuron, were these its settings."""
        return cls(reset, delay)

    @property
    def name(self) -> str:
        """Its name in snnTorch."""
        return self.module.__name__

    @property
    def parameters(self) -> tuple[str, ...]:
        """Its own, threshold and grade."""
        return (*self.own, "threshold", "graded_spikes_factor")

    def axes(self, name: str, tensor: Tensor, dims: int) -> tuple[int, ...]:
        """As the parameters of snnTorch's neurons broadcast."""
        return broadcast_axes(tensor, dims)

    def describe(self) -> str:
        """Its name, its reset and, where it has one, the delay."""
        delay = f", reset_delay={self.delay}" if self.has_delay else ""
        return f"{self.name}({self.reset}{delay})"

    def is_binary(self, tensors: Tensors) -> bool:
        """Whether its spikes are not graded."""
        return bool((tensors["graded_spikes_factor"] == 1).all())

    def prepared(self, tensors: Tensors) -> Tensors:
        """What of the parameters' arithmetic is the same at every step."""
        return tensors

    def fired(self, state: State, spikes: Tensor) -> State:
        """The state once the spikes of the time step are known."""
        return state

    def trial(self, neuron: snn.SpikingNeuron) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Tensors that tell all settings apart, and the shape of a sample for them.

        Args:
            neuron: whose model it may be.
        """
        # Decays beyond 1 show whether they are clamped; a membrane at rest is above a threshold
        # that is negative, and a reset to zero at once shows its other resets only there.
        spread = torch.linspace(0.6, 1.3, NEURONS)
        sign = 1.0 - 2.0 * (torch.arange(NEURONS) % 3 == 2)
        values = {name: value * spread for name, value in self.own.items()}
        values |= {"threshold": 0.5 * sign * spread, "graded_spikes_factor": torch.tensor(1.25)}
        return values, (NEURONS,)

    @abstractmethod
    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """The state after the input of a time step, and after the reset of the spike before.

        The order of floating-point operations is snnTorch's own, so that spikes are equal.

        Args:
            p: :meth:`prepared` tensors.
            state: of the step before, in the order of :attr:`states`.
            now: input current ``(batch, channels, ...)``.
            reset: 1 where the membrane was above the threshold, without gradient.
        """

    def stepper(
        self, module: snn.SpikingNeuron, tensors: Tensors, like: Tensor, fire: Fire
    ) -> Stepper:
        """Charges, fires, and resets at once where the reset is not delayed."""
        p = self.prepared(tensors)
        threshold, grade = tensors["threshold"], tensors["graded_spikes_factor"]
        graded = grade.requires_grad or not self.is_binary(tensors)
        state: State = tuple(torch.zeros_like(like) for _ in self.states)
        # A membrane at rest is above a threshold that is negative.
        reset = fire(state[-1], threshold).detach()

        def step(now: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal state, reset
            state = self.charge(p, state, now, reset)
            fired = fire(state[-1], threshold)
            spikes = fired * grade if graded else fired
            if self.delay or self.reset == "none":
                reset = fired.detach()
            else:
                mem = state[-1]
                early = spikes / grade - reset  # what the last step's spike has not reset yet
                mem = mem - early * (threshold if self.reset == "subtract" else mem)
                state = (*state[:-1], mem)
                reset = fire(mem, threshold).detach()
            state = self.fired(state, spikes)
            return spikes, state[-1]

        return step
