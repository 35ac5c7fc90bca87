"""``snntorch.Leaky``: one state, the membrane potential; the model with fast paths."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import snntorch as snn
from torch import Tensor

from spear_gym import device
from spear_gym.snn.neurons.base import Model, State, Tensors
from spear_gym.snn.neurons.leaky_scan import RESET_CODES, LeakyScan, arctan_sharpness


@dataclass(frozen=True)
class Leaky(Model):
    """u(t) = beta * u(t-1) + x(t) - r * threshold; "zero" sets u(t-1) to 0 before the input."""

    module = snn.Leaky
    states = ("mem",)
    own = MappingProxyType({"beta": 0.8})
    has_delay = True
    loops = "spear_gym.snn.neurons.leaky_loops"

    def prepared(self, tensors: Tensors) -> Tensors:
        """Clamps beta."""
        return {**tensors, "beta": tensors["beta"].clamp(0, 1)}

    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """See the class."""
        (mem,) = state
        if self.reset == "zero":
            mem = (1 - reset) * mem
        mem = p["beta"] * mem
        mem += now  # in place from here on, which the product's gradient does not mind
        if self.reset == "subtract":
            mem -= reset * p["threshold"]
        return (mem,)

    # ------------------------------------------------------------ fast paths

    def loop_arguments(self, tensors: Tensors) -> tuple[tuple[Tensor, ...], int]:
        """Beta and threshold."""
        return (tensors["beta"].clamp(0, 1), tensors["threshold"]), RESET_CODES[self.reset]

    def scoring_fallback(self, tensors: Tensors) -> str | None:
        """A negative threshold resets a membrane at rest."""
        return self._obstacle(tensors["threshold"])

    def training_fallback(self, module: snn.SpikingNeuron) -> str | None:
        """The scan's backward pass is for fixed parameters."""
        tensors = {name: getattr(module, name) for name in self.parameters}
        if any(tensor.requires_grad for tensor in tensors.values()):
            return "beta, threshold or grade is learned"
        if not bool((tensors["graded_spikes_factor"] == 1).all()):
            return "its spikes are graded"
        return self._obstacle(tensors["threshold"])

    def _obstacle(self, threshold: Tensor) -> str | None:
        if not self.delay and self.reset != "none":
            return "reset_delay=False"
        if not bool((threshold >= 0).all()):
            return "a threshold is negative"
        return None

    def scan(self, module: snn.SpikingNeuron, current: Tensor, num_steps: int) -> Tensor:
        """See :class:`LeakyScan`."""
        beta, threshold = module.beta.detach().clamp(0, 1), module.threshold.detach()
        return LeakyScan.apply(  # type: ignore[no-any-return, no-untyped-call]
            current, beta, threshold, num_steps, self.reset, module.spike_grad
        )

    def scan_fallback(self, module: snn.SpikingNeuron, inputs: Tensor) -> str | None:
        """Only snnTorch's arctan has a compiled way back."""
        reason = device.fallback_reason(inputs)
        if reason is not None:
            return f"PyTorch, because {reason}"
        if arctan_sharpness(module.spike_grad) is None:
            return "PyTorch on the way back, because the surrogate is not atan"
        return None
