"""Recipes and the training loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import Tensor

from spear_gym.simulation.differentiable import forward
from spear_gym.snn.trace import private_copy
from spear_gym.training import Recipe, TrainingDiverged, train
from spear_gym.workload import Workload


def test_usual_precision_goes_unsaid() -> None:
    """Fingerprints made before the setting existed stay valid."""
    assert "precision" not in Recipe(epochs=1).to_json()
    mixed = Recipe(epochs=1, precision="bfloat16")
    assert mixed.to_json()["precision"] == "bfloat16"
    for recipe in (Recipe(epochs=1), mixed):
        assert Recipe.from_json(recipe.to_json()) == recipe


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision is 'float16'; choose 'float32' or 'bfloat16'"):
        Recipe(epochs=1, precision="float16")  # type: ignore[arg-type]


def trained(workload: Workload, recipe: Recipe) -> dict[str, Tensor]:
    graph = workload.graph.rebind(private_copy(workload.graph.model))
    train(graph, workload.splits.train, workload.num_steps, recipe, seed=0)
    return dict(graph.model.state_dict())


def test_bfloat16_trains_nearly_the_same_network(tiny: Workload) -> None:
    recipe = Recipe(epochs=1, lr=1e-3)
    before = dict(tiny.graph.model.state_dict())
    usual, mixed = trained(tiny, recipe), trained(tiny, replace(recipe, precision="bfloat16"))
    for name, value in mixed.items():
        assert value.dtype == before[name].dtype, "weights keep their precision"
    weights = [name for name in mixed if name.endswith("weight")]
    moved = sum(float((usual[n] - before[n]).square().sum()) for n in weights)
    apart = sum(float((usual[n] - mixed[n]).square().sum()) for n in weights)
    assert 0 < apart < 0.25 * moved


def test_products_are_really_computed_in_bfloat16() -> None:
    workload = toys.toy()
    # Training updates the statistics of BatchNorm; other tests share the toy.
    graph = workload.graph.rebind(private_copy(workload.graph.model))
    inputs = workload.splits.train.inputs[:32]
    seen: set[torch.dtype] = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "convolution" in str(function) or "addmm" in str(function):
                seen.update(a.dtype for a in args if isinstance(a, Tensor))
            return function(*args, **(kwargs or {}))

    with Watch(), torch.autocast("cpu", torch.bfloat16):
        mixed = forward(graph, inputs, workload.num_steps, training=True)
    assert seen == {torch.bfloat16}
    assert mixed.dtype == torch.float32
    usual = forward(graph, inputs, workload.num_steps, training=True)
    labels = workload.splits.train.labels[:32]
    torch.testing.assert_close(
        F.cross_entropy(mixed, labels), F.cross_entropy(usual, labels), rtol=0.05, atol=0.02
    )


def test_weights_that_the_last_batch_spoils(toy: Workload) -> None:
    """The loss was finite, its gradient was not."""
    graph = toy.graph.rebind(private_copy(toy.graph.model))
    weight = graph.model.get_parameter("classifier.weight")
    weight.register_hook(lambda gradient: gradient * float("nan"))
    whole = Recipe(epochs=1, batch_size=len(toy.splits.train))
    with pytest.raises(TrainingDiverged, match=r"NaN or infinite in the last of 1 batches; lower"):
        train(graph, toy.splits.train, toy.num_steps, whole, seed=0)
