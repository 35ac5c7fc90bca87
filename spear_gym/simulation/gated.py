"""A network with channel gates, and its SynOps as a differentiable function of the gates.

Every channel c of a prunable group carries a gate g_c, and the inputs of all connection layers and
of all recurrent synapses are multiplied by the gates of their channels: a channel whose gate is 0
is read by nobody, as if it had been cut out. With gates of 0 and 1 the pass equals that of the
pruned network; pooling, residual addition and concatenation stand between a neuron and a connection
and commute with gates that are not negative.

    SynOps = 1/B * sum over layers of  (sum_c a_c * g_c) * (sum over outputs of g)

a_c is measured: non-zero entries of input channel c times their exact fan-outs to one output
channel, over the batch's B samples and all time steps, gates aside, so that a closed channel's
cost is known too. It is held constant in the gradient, which therefore leaves out how gates change
firing rates further on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spear_gym.simulation.differentiable import BnTime, outputs_over_time
from spear_gym.simulation.layers import channel_shape
from spear_gym.simulation.structure import fanouts
from spear_gym.snn.features import spread_over_features
from spear_gym.snn.graph import CONNECTIONS, Kind, Node, Segment, SpikingGraph
from spear_gym.snn.neurons import Tensors

Gates = Mapping[int, Tensor]
"""Channel space -> gates ``(channels,)``, at least 0. A space that is absent is open."""


class GatedNetwork:
    """Runs a network with channel gates.

    Args:
        graph: the unpruned, traced network.
        num_steps: time steps T.
    """

    def __init__(self, graph: SpikingGraph, num_steps: int) -> None:
        self.graph = graph
        self.num_steps = num_steps
        device = next(graph.model.parameters()).device
        self._fanouts = {index: each.to(device) for index, each in fanouts(graph).items()}

    def forward(
        self,
        inputs: Tensor,
        gates: Gates,
        *,
        training: bool,
        bn_time: BnTime = "step",
        counted: Gates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A pass over a batch.

        Args:
            inputs: ``(batch, channel, ...)``, or ``(batch, time, channel, ...)`` when it varies.
            gates: see the module docstring.
            training: BatchNorm normalises by the batch.
            bn_time: see ``differentiable.forward``.
            counted: gates in the formula for SynOps, the same by default; where gates are drawn at
                random, their probabilities.

        Returns:
            What the output layer does, ``(time, batch, outputs)``, and the SynOps per sample, a
            float64 scalar; both differentiable in the gates.
        """
        counted = gates if counted is None else counted
        counts: list[Tensor] = []

        def read(node: Node, source: Tensor) -> Tensor:
            if node.operation is not None:
                if not node.analog:
                    counts.append(self._product(node, source.detach(), counted))
                return source
            if node.kind not in CONNECTIONS:
                return source
            opened = spread_over_features(self._read_by(node), gates, 1.0)
            if not node.analog:
                counts.append(self._synops(node, source.detach(), counted))
            return source if opened is None else source * opened.view(channel_shape(source))

        outputs = outputs_over_time(
            self.graph,
            inputs,
            self.num_steps,
            training=training,
            bn_time=bn_time,
            reading=read,
            recurring=_Recurring(self, gates, counted, counts),
        )
        total = torch.stack(counts).sum() if counts else outputs.new_zeros((), dtype=torch.float64)
        return outputs, total / len(inputs)

    def _read_by(self, node: Node) -> tuple[Segment, ...]:
        """The channels that a connection, or a neuron layer's recurrent synapses, read."""
        source = node if node.kind is Kind.NEURON else self.graph.nodes[node.inputs[0]]
        return source.channels

    def _synops(self, node: Node, source: Tensor, gates: Gates) -> Tensor:
        """SynOps of a layer over the batch.

        Args:
            node: the connection, or the neuron layer of recurrent synapses.
            source: its input before the gates, ``(time, batch, channels, ...)``.
            gates: that it is counted at.
        """
        opened = spread_over_features(self._read_by(node), gates, 1.0)
        repeats = self.num_steps // len(source)
        active = (source != 0).sum((0, 1)) * self._fanouts[node.index] * repeats
        per_channel = active.reshape(len(active), -1).sum(1).double()
        inputs = per_channel if opened is None else per_channel * opened
        if node.neuron is not None and node.neuron.wiring == "one-to-one":
            return inputs.sum()
        module = self.graph.module(node)
        groups = module.groups if isinstance(module, nn.Conv1d | nn.Conv2d) else 1
        if groups > 1 and groups == len(inputs):
            # Depthwise: a channel reaches the outputs that are its own, and go with it.
            return inputs.sum() * (node.shape[0] / groups)
        outputs = spread_over_features(node.channels, gates, 1.0)
        if outputs is None:
            return inputs.sum() * (node.shape[0] / groups)
        return (inputs.view(groups, -1).sum(1) * outputs.double().view(groups, -1).sum(1)).sum()

    def _product(self, node: Node, source: Tensor, gates: Gates) -> Tensor:
        """SynOps of a product of two activations over the batch, as of :meth:`_synops`."""
        assert node.operation is not None
        opened = spread_over_features(self.graph.nodes[node.inputs[0]].channels, gates, 1.0)
        repeats = self.num_steps // len(source)
        active = (source != 0).transpose(0, 2).flatten(1).sum(1).double()
        return (active if opened is None else active * opened).sum() * (
            node.operation.columns * repeats
        )


class _Recurring:
    """Gates in front of recurrent synapses, which read spikes inside of a step.

    A gate multiplies the weights of its channel instead of the channel's spikes, which is the same.
    """

    def __init__(
        self, network: GatedNetwork, gates: Gates, counted: Gates, counts: list[Tensor]
    ) -> None:
        self.network, self.gates, self.counted, self.counts = network, gates, counted, counts

    def tensors(self, node: Node, tensors: Tensors) -> Tensors:
        opened = spread_over_features(node.channels, self.gates, 1.0)
        weight = tensors.get("recurrent.weight")
        if opened is None or weight is None:
            return tensors  # one to one: a closed channel is nobody's but its own
        return {**tensors, "recurrent.weight": weight * opened.view(channel_shape(weight[None]))}

    def fired(self, node: Node, spikes: Tensor) -> None:
        arrived = torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]]).detach()
        self.counts.append(self.network._synops(node, arrived, self.counted))
