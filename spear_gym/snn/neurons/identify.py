"""Which way a user's neuron is simulated: by a model that is proven to do the same, or its own.

What a neuron does is found by running it, not by the names of snnTorch's functions: another
version of snnTorch may do another thing under the same name.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import product

import snntorch as snn
import torch
from torch import Tensor, nn

from spear_gym.snn.errors import TraceError
from spear_gym.snn.neurons import MODELS, with_surrogate
from spear_gym.snn.neurons.base import RESETS, Model, Stepper
from spear_gym.snn.neurons.general import same
from spear_gym.snn.neurons.own import copied, steps_itself
from spear_gym.snn.neurons.recurrent import Recurrent, wiring_problem

STEPS = 5

_AT_ONCE = "computes all time steps in one call, and "
UNSUPPORTED: dict[type[nn.Module], str] = {
    snn.LeakyParallel: _AT_ONCE
    + "holds its input synapses and the membrane's decay as a recurrent network (nn.RNN), whose "
    "membrane never falls below 0 and is never reset; use nn.Linear and snntorch.Leaky",
    snn.StateLeaky: _AT_ONCE
    + "convolves the input with its decay, without a reset; use snntorch.Leaky with "
    "reset_mechanism='none'",
    snn.AssociativeLeaky: _AT_ONCE
    + "keeps a matrix as its state, to which keys and values are added; use snntorch.Leaky",
    snn.SLSTM: "computes gates from its membrane, which is no spike: those products are not "
    "synaptic operations; use snntorch.RLeaky or snntorch.RSynaptic",
    snn.SConv2dLSTM: "computes gates from its membrane, which is no spike: those products are not "
    "synaptic operations; use snntorch.RLeaky or snntorch.RSynaptic",
}
"""Classes of snnTorch that cannot be simulated, and why."""

RECURRENT = tuple(model.module for model in MODELS if issubclass(model, Recurrent))

_PYTHONS_OWN = frozenset({"__init__", "__doc__", "__module__", "__annotations__", "__dict__"})


def refusal(module: snn.SpikingNeuron) -> str | None:
    """Why a neuron cannot be simulated in any way, as far as it shows without running it."""
    for kind, reason in UNSUPPORTED.items():
        if isinstance(module, kind):
            return f"is not supported: it {reason}"
    if module.inhibition:
        return (
            "uses lateral inhibition, by which a channel's spikes depend on the others; that is "
            "not supported: set inhibition=False"
        )
    inner = _recurrent_problem if isinstance(module, RECURRENT) else _layers_problem
    problems = (inner, _spike_problem, _hook_problem, _outside_problem)
    return next(filter(None, (problem(module) for problem in problems)), None)


def _layers_problem(neuron: snn.SpikingNeuron) -> str | None:
    inner = [name for name, _ in neuron.named_children()]
    if not inner:
        return None
    return (
        f"holds layers of its own ({', '.join(inner)}), which act on its state and whose synapses "
        "would go uncounted; use snntorch.RLeaky or snntorch.RSynaptic as they are"
    )


def _recurrent_problem(neuron: snn.SpikingNeuron) -> str | None:
    if isinstance(neuron, snn.RSynaptic) and not neuron.reset_delay:
        return (
            "has reset_delay=False, which snnTorch does not carry out for it: its forward fails, "
            "or resets nothing; set reset_delay=True"
        )
    return wiring_problem(neuron)


def _spike_problem(neuron: snn.SpikingNeuron) -> str | None:
    probe = torch.arange(-200, 201) / 100
    problem = (
        "has a spike_grad that does not fire exactly when the membrane is above the threshold; "
        "use one of snntorch.surrogate's deterministic ones"
    )
    try:
        fired = neuron.spike_grad(probe)
    except Exception as error:  # whatever the user's function raises
        return f"has a spike_grad that fails: {error}"
    return None if torch.equal(fired.detach(), (probe > 0).to(probe.dtype)) else problem


def _hook_problem(neuron: snn.SpikingNeuron) -> str | None:
    if neuron._backward_hooks or neuron._backward_pre_hooks:
        return "has a backward hook, which training here does not call; remove it"
    return None


def _outside_problem(neuron: snn.SpikingNeuron) -> str | None:
    """Functions set on an instance that hold a module, of which a copy would hold the original."""
    for name, value in vars(neuron).items():
        if not inspect.isfunction(value):
            continue
        seen = inspect.getclosurevars(value)
        for held in (*seen.nonlocals.values(), *seen.globals.values()):
            if isinstance(getattr(held, "__self__", held), nn.Module):
                return (
                    f"has a function {name} set on it that refers to a network from outside, so "
                    "that a pruned copy would still use the original; write it as a method of a "
                    "subclass"
                )
    return None


def model_of(name: str, neuron: snn.SpikingNeuron) -> Model | str:
    """The model that a neuron is an instance of, or why none is.

    Args:
        name: of its layer, for messages.
        neuron: the user's, at rest and on the CPU; left as it is.

    Raises:
        TraceError: when the neuron does another thing than it says.
    """
    kind = type(neuron).__name__
    model = next((m for m in MODELS if isinstance(neuron, m.module)), None)
    if model is None:
        return f"{kind} is not written out"
    change = _change(neuron, model)
    found = _settings_of(neuron, model) if change is None else None
    if found is None:
        reason = change or f"it does not do what {model.module.__name__} is known to do"
        if issubclass(model, Recurrent):
            raise TraceError(
                f"neuron '{name}' ({kind}) cannot be simulated: {reason}; its recurrent synapses "
                f"are counted for snntorch.{model.module.__name__} as it is only"
            )
        return reason
    if found.reset != neuron.reset_mechanism:
        raise TraceError(
            f"neuron '{name}' ({kind}) has the reset_mechanism '{neuron.reset_mechanism}', but "
            f"what it does is '{found.reset}': snnTorch does not take up a change; pass "
            "reset_mechanism to the constructor"
        )
    return found


def _change(neuron: snn.SpikingNeuron, model: type[Model]) -> str | None:
    """What of a neuron is not snnTorch's own, ``None`` if only its settings differ."""
    kind = type(neuron)
    if neuron.state_quant:
        return "its state is quantised"
    for ancestor in kind.__mro__[: kind.__mro__.index(model.module)]:
        for attribute in vars(ancestor):
            if attribute not in _PYTHONS_OWN and hasattr(model.module, attribute):
                return f"{ancestor.__name__} overrides {attribute}"
    for attribute in vars(neuron):
        if hasattr(kind, attribute):
            return f"its {attribute} is replaced"
    return None


def _settings_of(neuron: snn.SpikingNeuron, model: type[Model]) -> Model | None:
    """The settings of a model at which it does what a neuron does, ``None`` if there are none."""
    delays = (True, False) if model.has_delay else (True,)
    says = model.of(neuron, neuron.reset_mechanism, getattr(neuron, "reset_delay", True))
    others = [replace(says, reset=reset, delay=delay) for reset, delay in product(RESETS, delays)]
    try:
        recorded = Answer(neuron, says)
    except Exception:  # whatever another version's neuron raises; it is then tried by itself
        return None
    return next((each for each in (says, *others) if recorded.is_done_by(each)), None)


class Answer:
    """What a neuron does with a fixed input, at parameters that tell all settings apart.

    Its spikes, its membrane potentials, and the gradients of its input and its parameters.
    """

    def __init__(self, neuron: snn.SpikingNeuron, model: Model) -> None:
        values, shape = model.trial(neuron)
        self.tensors = {name: value.requires_grad_() for name, value in values.items()}
        self.neuron = copied(neuron, self.tensors)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(3, STEPS, 1, *shape, generator=generator)
        self.currents, self.weights = drawn[0].clone().requires_grad_(), drawn[1:]
        self.expected = self._values(steps_itself(self.neuron))

    def is_done_by(self, model: Model) -> bool:
        """Whether a model does the same."""
        fire = with_surrogate(self.neuron)
        found = self._values(model.stepper(self.neuron, self.tensors, self.currents[0], fire))
        pairs = zip(found, self.expected, strict=True)
        return all(same(one, other, max(1.0, float(other.abs().max()))) for one, other in pairs)

    def _values(self, step: Stepper) -> list[Tensor]:
        # Some surrogate gradients are drawn at random.
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            steps = [step(now) for now in self.currents]
            recorded = [torch.stack(each) for each in zip(*steps, strict=True)]
            total = (self.weights * torch.stack(recorded)).sum()
            sources = [self.currents, *self.tensors.values()]
            found = torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True)
        return [each.detach() for each in (*recorded, *found)]
