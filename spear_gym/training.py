"""Training and fine-tuning: one recipe, one loop, the workload's own loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_gym.checkpoint import Checkpoint, Trained
from spear_gym.data.splits import Split
from spear_gym.device import exact_products
from spear_gym.objective import Objective
from spear_gym.simulation.differentiable import BnTime, outputs_over_time
from spear_gym.simulation.simulate import PRECISIONS, Precision
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import reset_neurons

CROSS_ENTROPY = Objective()
"""The usual loss: cross-entropy of the scores."""

OnBatch = Callable[[int, int, float], None]
"""Called after every batch with (batches done, batches in all, loss)."""


class TrainingDiverged(RuntimeError):  # noqa: N818 - the name says what happened
    """The loss, or a weight, became NaN or infinite."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained or fine-tuned.

    Attributes:
        epochs: passes over the training split; 0 leaves the network as it is.
        batch_size: samples per step.
        lr: peak learning rate, decayed by half a cosine to zero.
        warmup: share of the steps spent rising linearly to ``lr``.
        optimizer: ``"adam"`` or ``"sgd"`` (Nesterov momentum 0.9).
        weight_decay: L2 penalty (decoupled for Adam).
        bn_time: how BatchNorm treats time in training, see ``differentiable.forward``.
        shift: images are moved by up to this many pixels per axis, zeros moving in.
        precision: ``"bfloat16"`` computes convolutions and matrix products in bfloat16 by PyTorch's
            autocast; weights, normalisation and neurons stay as they are.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    warmup: float = 0.0
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0
    bn_time: BnTime = "step"
    shift: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 2:
            raise ValueError(
                f"epochs is {self.epochs} and batch_size {self.batch_size}; they must be at least "
                "0 and 2"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be a positive number")
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer is '{self.optimizer}'; choose 'adam' or 'sgd'")
        if self.bn_time not in ("step", "pooled"):
            raise ValueError(f"bn_time is '{self.bn_time}'; choose 'step' or 'pooled'")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is '{self.precision}'; choose 'float32' or 'bfloat16'")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the usual precision goes unsaid, so that older fingerprints hold."""
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        return values

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Reads :meth:`to_json`'s form; unknown keys are refused."""
        known = {f.name for f in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(
                f"unknown recipe settings {sorted(unknown)}; known are {sorted(known)}"
            )
        return cls(**data)


def train(
    graph: SpikingGraph,
    split: Split,
    num_steps: int,
    recipe: Recipe,
    *,
    seed: int,
    objective: Objective = CROSS_ENTROPY,
    on_batch: OnBatch | None = None,
    penalty: Callable[[], Tensor] | None = None,
    max_batches: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Trains ``graph.model`` in place and leaves it in eval mode with its neurons reset.

    Args:
        graph: the traced network.
        split: training samples.
        num_steps: time steps T.
        recipe: how.
        seed: of the sample order, the shifts and dropout.
        objective: gives the loss.
        on_batch: progress callback.
        penalty: a differentiable scalar added to every batch's loss.
        max_batches: stop after so many batches; the learning rate decays within them.
        checkpoint: written after every epoch, the last too; where there is one, it goes on from it
            to the weights of a run that nobody stopped. Whoever asks for it removes it.

    Raises:
        CheckpointError: when the checkpoint is of another network or recipe, or damaged.
        TrainingDiverged: when the loss, or a weight at the end, is not finite.
    """
    parameters = [p for p in graph.model.parameters() if p.requires_grad]
    total = batches_in(len(split), recipe.batch_size, recipe.epochs)
    if max_batches is not None:
        total = min(total, max_batches)
    if total == 0:
        return
    optimizer = _optimizer(parameters, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(total, recipe.warmup))
    generator = torch.Generator().manual_seed(seed)
    device = split.inputs.device
    trained = Trained(graph.model, optimizer, generator, device)
    each = batches_in(len(split), recipe.batch_size, 1)
    done = 0
    with seeded(seed, device), exact_products(device):
        if checkpoint is not None:
            checkpoint = _of_run(checkpoint, recipe, seed, len(split), num_steps, total)
            done = each * checkpoint.restore(trained, total // each)
            _set_rate(schedule, done)
        graph.model.train()
        for index in sample_batches(len(split), recipe.batch_size, total - done, generator):
            inputs = shifted(split.inputs[index], recipe.shift, generator)
            with _products_in(recipe.precision, inputs.device.type):
                outputs = outputs_over_time(
                    graph, inputs, num_steps, training=True, bn_time=recipe.bn_time
                )
            loss = objective.loss_of(graph, outputs, split.labels[index])
            if penalty is not None:
                loss = loss + penalty()
            if not torch.isfinite(loss):
                graph.model.eval()
                value = float(loss.detach())
                raise TrainingDiverged(
                    f"the training loss became {value} at batch {done + 1} of {total}; lower "
                    f"the learning rate (now {recipe.lr:g})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if on_batch is not None:
                on_batch(done, total, float(loss.detach()))
            if checkpoint is not None and done % each == 0:
                checkpoint.save(trained, done // each)
    graph.model.eval()
    reset_neurons(graph.model)
    _check_weights(parameters, total, recipe)


def _check_weights(parameters: list[Any], total: int, recipe: Recipe) -> None:
    """Sees what the last batch did to the weights, which no loss has seen."""
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise TrainingDiverged(
            f"weights became NaN or infinite in the last of {total} batches; lower the learning "
            f"rate (now {recipe.lr:g})"
        )


def _of_run(
    checkpoint: Checkpoint, recipe: Recipe, seed: int, samples: int, num_steps: int, total: int
) -> Checkpoint:
    """A checkpoint that also says what is trained on, how and how long."""
    numbers = {"seed": seed, "samples": samples, "num_steps": num_steps, "batches": total}
    settings = {f"recipe.{key}": value for key, value in recipe.to_json().items()}
    of = {key: str(value) for key, value in (numbers | settings).items()}
    return replace(checkpoint, of={**checkpoint.of, **of})


def _set_rate(schedule: torch.optim.lr_scheduler.LambdaLR, done: int) -> None:
    """The learning rate after so many batches."""
    schedule.last_epoch = done
    for group, base, factor in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(done)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from a seed, on the CPU and a device; the caller's go on after."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # `torch.manual_seed` would seed every GPU of the machine.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _products_in(precision: Precision, device: str) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "float32" else torch.autocast(device, torch.bfloat16)


def batches_in(samples: int, batch_size: int, epochs: int) -> int:
    """How many batches that many passes over the samples have (see :func:`sample_batches`)."""
    return max(1, samples // batch_size) * epochs


def sample_batches(
    samples: int, batch_size: int, number: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Batches of a training run: every pass in a new random order, whole batches only.

    Args:
        samples: samples of the split.
        batch_size: samples per batch; the whole split is one batch when it has fewer.
        number: how many batches.
        generator: source of the orders, drawn from when a pass begins.

    Yields:
        int64 ``(batch,)`` sample indices.
    """
    done = 0
    while done < number:
        order = torch.randperm(samples, generator=generator)
        for index in _batches(order, batch_size)[: number - done]:
            done += 1
            yield index


def _batches(order: Tensor, size: int) -> Sequence[Tensor]:
    """Whole batches only, since BatchNorm's statistics of a small rest would be poor."""
    whole = len(order) // size
    return list(order[: whole * size].view(whole, size)) if whole else [order]


def loss_gradients(
    graph: SpikingGraph, split: Split, num_steps: int, objective: Objective = CROSS_ENTROPY
) -> dict[str, Tensor]:
    """Gradient of the loss over a split, BatchNorm at its own statistics.

    Returns:
        Parameter name -> gradient, for parameters that receive one.
    """
    graph.model.zero_grad(set_to_none=True)
    frozen = {n: p for n, p in graph.model.named_parameters() if not p.requires_grad}
    for parameter in frozen.values():
        parameter.requires_grad_(True)
    try:
        with exact_products(split.inputs.device):
            outputs = outputs_over_time(graph, split.inputs, num_steps, training=False)
            objective.loss_of(graph, outputs, split.labels).backward()
        named = graph.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}
    finally:
        graph.model.zero_grad(set_to_none=True)
        for parameter in frozen.values():
            parameter.requires_grad_(False)


def shifted(inputs: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Images moved by up to ``limit`` pixels along their last two axes, zeros moving in.

    Args:
        inputs: ``(batch, ..., height, width)``.
        limit: largest shift in pixels; 0 returns the input.
        generator: source of the shifts.
    """
    if limit == 0:
        return inputs
    height, width = inputs.shape[-2:]
    padded = F.pad(inputs, (limit,) * 4)
    moves = torch.randint(0, 2 * limit + 1, (len(inputs), 2), generator=generator)
    crops = [
        image[..., dy : dy + height, dx : dx + width]
        for image, (dy, dx) in zip(padded, moves.tolist(), strict=True)
    ]
    return torch.stack(crops)


def _optimizer(parameters: list[Any], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )


def _schedule(total: int, warmup: float) -> Callable[[int], float]:
    rising = int(total * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(1, total - rising)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor
