"""The digits network without BatchNorm, for the study of SynOps estimators.

    cd notebooks/results/lre-study && spear lre-study without_batchnorm:make_workload ...

Trained here from scratch, seeded, in about a minute.
"""

from __future__ import annotations

import torch
from torch import nn

from spear_gym.data import digits
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import digits_net
from spear_gym.training import Recipe, train
from spear_gym.workload import Workload

STEPS = 4
GAIN = 3.0
"""Of the first weights: without BatchNorm, PyTorch's own are too small for neurons to fire."""


def make_workload() -> Workload:
    """The workload; the recipes are those of `digits`."""
    model = digits_net(0)
    for name, module in list(model.named_children()):
        if isinstance(module, nn.BatchNorm2d):
            setattr(model, name, nn.Identity())
        elif isinstance(module, nn.Conv2d):
            with torch.no_grad():
                module.weight.mul_(GAIN)
    data = digits()
    graph = trace(model, data.train.inputs[:4])
    train(graph, data.train, STEPS, Recipe(epochs=30, lr=2e-3, shift=1), seed=0)
    return Workload(
        model=graph.model,
        train=data.train,
        search=data.search,
        test=data.test,
        num_steps=STEPS,
        name="digits-without-batchnorm",
        finetune=Recipe(epochs=4, lr=1e-3),
        scoring="refit",
    )
