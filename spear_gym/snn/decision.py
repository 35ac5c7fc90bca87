"""Decision rules: from what the output layer does over time to one score a class.

A *readout* names what is recorded of the output node (its current, spikes or membrane potential)
and the rule by which the recording over time becomes scores (docs/definitions.md, "Readout").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spear_gym.boundary.plugins import blaming
from spear_gym.boundary.text import unknown
from spear_gym.snn.errors import TraceError

Recorded = Literal["current", "spikes", "membrane"]
"""What is recorded of the output node at every time step."""

Rule = Literal["total", "max", "last", "population", "latency", "own"]

ScoreFunction = Callable[[Tensor], Tensor]
"""A user's rule: outputs ``(time, samples, outputs)`` to scores ``(samples, classes)``."""


class Asked(NamedTuple):
    """What a readout asks for; ``None`` where the network decides."""

    recorded: Recorded | None
    rule: Rule | None


READOUTS: dict[str, Asked] = {
    "current": Asked("current", "total"),
    "spikes": Asked("spikes", "total"),
    "rate": Asked("spikes", "total"),
    "membrane": Asked("membrane", "total"),
    "membrane_max": Asked("membrane", "max"),
    "last": Asked(None, "last"),
    "population": Asked(None, "population"),
    "latency": Asked("spikes", "latency"),
}


def asked_for(readout: str | ScoreFunction | None) -> Asked:
    """What a readout, by its name or as a user's function, asks for.

    Raises:
        TraceError: for an unknown name, with near matches.
    """
    if readout is None:
        return Asked(None, None)
    if callable(readout):
        return Asked(None, "own")
    if readout not in READOUTS:
        raise TraceError(
            f"{unknown('readout', str(readout), tuple(READOUTS))}; or give a function of the "
            "outputs (time, samples, outputs) that returns scores (samples, classes)"
        )
    return READOUTS[readout]


@dataclass(frozen=True, slots=True)
class Decision:
    """How the outputs over time become one score a class.

    Attributes:
        rule: ``"total"``: the count of spikes, the mean over time of currents and membranes;
            ``"max"``: the largest value over time; ``"last"``: the last time step's;
            ``"population"``: ``"total"`` summed over blocks of neighbouring outputs, one a class;
            ``"latency"``: minus the time step of the first spike; ``"own"``: ``function``.
        num_classes: of a population code.
        function: a user's rule.
    """

    rule: Rule = "total"
    num_classes: int | None = None
    function: ScoreFunction | None = None

    def scores(self, outputs: Tensor, recorded: Recorded) -> Tensor:
        """Scores ``(samples, classes)`` of outputs ``(time, samples, outputs)``.

        Args:
            outputs: a floating tensor.
            recorded: what they are.

        Raises:
            TraceError: when a user's function returns something else.
            PluginError: when it raises an error.
        """
        if self.function is not None:
            return _own_scores(self.function, outputs)
        if self.rule == "max":
            return outputs.amax(0)
        if self.rule == "last":
            return outputs[-1]
        if self.rule == "latency":
            earliness: Tensor = _Earliness.apply(outputs)  # type: ignore[no-untyped-call]
            return earliness
        total = outputs.sum(0) if recorded == "spikes" else outputs.mean(0)
        if self.num_classes is None:
            return total
        blocks: Tensor = total.unflatten(1, (self.num_classes, -1))
        return blocks.sum(2)

    def describe(self) -> list[object]:
        """Plain values that say what it is: what a fingerprint needs beside the function."""
        return [self.rule, self.num_classes]


def decision_of(
    rule: Rule, readout: str | ScoreFunction | None, width: int, num_classes: int | None
) -> Decision:
    """The decision that a user asked for.

    Args:
        rule: as inferred or asked for.
        readout: as given by the user.
        width: outputs of the network.
        num_classes: as given by the user.

    Raises:
        TraceError: when classes and outputs do not fit.
    """
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise TraceError(f"num_classes is {num_classes!r}; it must be a whole number, at least 1")
    if callable(readout):
        return Decision(rule, None, readout)
    if rule != "population":
        if num_classes is not None and num_classes != width:
            blocks = num_classes < width and width % num_classes == 0
            raise TraceError(
                f"num_classes is {num_classes}, but the network has {width} outputs; "
                + ("if blocks of them stand for a class, give readout='population'; " if blocks
                   else "")
                + "if another output is meant, give outputs=...; else give a function as readout"
            )  # fmt: skip
        return Decision(rule)
    if num_classes is None:
        raise TraceError(
            f"readout 'population' needs num_classes: the network has {width} outputs, which are "
            "divided into as many blocks of neighbours"
        )
    if width % num_classes:
        raise TraceError(
            f"readout 'population' divides the network's {width} outputs into num_classes = "
            f"{num_classes} blocks of equal size, which does not go; give a divisor of {width}, or "
            "a function as readout"
        )
    return Decision(rule, num_classes)


def _own_scores(function: ScoreFunction, outputs: Tensor) -> Tensor:
    with blaming("the readout raised"):
        scores: Any = function(outputs)
    if not isinstance(scores, Tensor):
        raise TraceError(
            f"the readout returns a {type(scores).__name__}; it must return a tensor of scores "
            "(samples, classes)"
        )
    samples = outputs.shape[1]
    if scores.dim() != 2 or len(scores) != samples or not scores.is_floating_point():
        raise TraceError(
            f"the readout returns {scores.dtype} of shape {tuple(scores.shape)} for outputs of "
            f"shape {tuple(outputs.shape)}, (time, samples, outputs); it must return floating "
            f"scores of shape ({samples}, classes): one number a class, not the class itself"
        )
    return scores


def check_function(decision: Decision, outputs: Tensor) -> None:
    """Checks that a user's rule scores each sample by itself.

    Args:
        decision: with a function, or without, in which case all is well.
        outputs: some outputs, ``(time, samples, outputs)``, at least 2 samples.

    Raises:
        TraceError: when it does not, or returns something that is no score.
        PluginError: when it raises an error.
    """
    if decision.function is None:
        return
    whole = _own_scores(decision.function, outputs.clone())
    alone = _own_scores(decision.function, outputs[:, :1].clone())
    if not torch.allclose(whole[:1], alone, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise TraceError(
            "the readout scores a sample otherwise when others stand beside it; each sample must "
            "be scored by itself, whatever the size of the batch"
        )


class _Earliness(torch.autograd.Function):
    """Minus the time step, from 0, of an output's first spike; the last step without a spike.

    The gradient is snnTorch's estimate (`functional.loss.SpikeTime`): more at the step of the
    first spike, or at the last one, means earlier.
    """

    @staticmethod
    def forward(ctx: Any, spikes: Tensor) -> Tensor:
        fired = spikes != 0
        first = fired.byte().argmax(0)
        step = torch.where(fired.any(0), first, len(spikes) - 1)
        ctx.save_for_backward(step)
        ctx.shape = spikes.shape
        return -step.to(spikes.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (step,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.new_zeros(ctx.shape).scatter_(0, step[None], gradient[None])
