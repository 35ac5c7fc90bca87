"""What a pass through the network has computed so far, as an immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from spear_gym.simulation.synops import Activity, LayerCount


@dataclass(frozen=True, slots=True)
class NeuronCount:
    """Spikes and neuron updates of a neuron layer over all samples and time steps."""

    spikes: int
    updates: int

    @property
    def rate(self) -> float:
        """Spikes per neuron and time step."""
        return self.spikes / self.updates


@dataclass(frozen=True)
class Walk:
    """A pass through the network, stopped before node ``position``.

    Attributes:
        position: index of the next node to run.
        kept: decisions so far: kept indices by channel space (absent: all).
        values: live activations by node, ``(time, batch, ...)``; uint8 where they are spikes.
        activities: non-zero entries of the live activations that connection layers read.
        layers: counts of the connection layers run so far, by node name, and of recurrent
            synapses, by that of their neuron layer and `.recurrent`.
        neurons: counts of the neuron layers run so far, by node name.
        updates: tensors that scoring changed (BatchNorm statistics, classifier), by node name.
        widths: output channels of the connection layers run so far, by node name.
        parameters: trainable parameters of the layers run so far.
        readout: ``(samples, classes)`` once the walk has ended.
    """

    position: int = 0
    kept: Mapping[int, Tensor] = field(default_factory=dict)
    values: Mapping[int, Tensor] = field(default_factory=dict)
    activities: Mapping[int, Activity] = field(default_factory=dict)
    layers: Mapping[str, LayerCount] = field(default_factory=dict)
    neurons: Mapping[str, NeuronCount] = field(default_factory=dict)
    updates: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    readout: Tensor | None = None

    @property
    def synops(self) -> int:
        """SynOps of the layers run so far, summed over all samples."""
        return sum(count.synops for count in self.layers.values())

    def nbytes(self) -> int:
        """Memory of the live activations, bytes."""
        return sum(v.element_size() * v.numel() for v in self.values.values())
