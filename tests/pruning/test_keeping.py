"""Networks that are kept: in a folder, in a state dictionary, in a pickle; and what is refused."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from networks import (
    FramesNet,
    GroupNet,
    OptionNet,
    ResidualNet,
    StepNet,
    TutorialNet,
    enlivened,
)
from reference import random_plan, run_plain
from safetensors.torch import load_file, save_file
from snntorch import surrogate, utils
from torch import Tensor, nn

import spear_gym
from spear_gym.pruning.keeping import KeepingError, load_network, save_network
from spear_gym.pruning.origin import ATTRIBUTE
from spear_gym.pruning.plan import PlanError
from spear_gym.pruning.resizing import resize_to_fit
from spear_gym.pruning.surgery import prune_network
from spear_gym.snn.handover import hand_over
from spear_gym.snn.trace import trace

Make = Callable[[], nn.Module]


def own_decays(channels: int, dimensions: int) -> snn.Leaky:
    """A neuron with a decay of its own for every channel."""
    return snn.Leaky(torch.linspace(0.3, 0.8, channels).view(channels, *[1] * dimensions))


def hidden_own_decays(channels: int, dimensions: int) -> snn.Leaky:
    beta = torch.linspace(0.3, 0.8, channels).view(channels, *[1] * dimensions)
    return snn.Leaky(beta, init_hidden=True)


def option_net() -> nn.Module:
    return OptionNet(hidden_own_decays)


class ScaledNet(nn.Module):
    """A loop over (batch, time, 1, 8, 8): a BatchNorm a step, a scale a channel, a pinned sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6).view(1, 6, 1, 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))
        self.lif1 = snn.Leaky(beta=0.6, threshold=0.3)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2)
        self.lif2 = snn.Leaky(beta=0.6, threshold=0.3)
        self.fc = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, outputs = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for t in range(x.shape[1]):
            h = self.norms[t](torch.relu(self.conv1(x[:, t])) * self.scale)
            spk1, mem1 = self.lif1(h, mem1)
            spk2, mem2 = self.lif2(self.conv2(spk1), mem2)
            outputs.append(self.fc(spk2.flatten(1)))
        return torch.stack(outputs)


NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "step": (StepNet, (4, 1, 16, 16)),
    "tutorial": (TutorialNet, (4, 1, 10, 10)),
    "residual": (lambda: ResidualNet(4), (4, 1, 8, 8)),
    "groups": (GroupNet, (4, 1, 8, 8)),
    "options": (option_net, (4, 1, 8, 8)),
    "frames": (FramesNet, (3, 4, 2, 8, 8)),
    "scaled": (ScaledNet, (3, 4, 1, 8, 8)),
}


def pruned(name: str, seed: int = 0) -> tuple[nn.Module, Make, list[Tensor]]:
    """A pruned network, what makes the unpruned one with other weights, and calls of both."""
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    graph = trace(enlivened(make()), torch.rand(shape), varying=len(shape) == 5)
    loop = graph.idiom == "loop"
    inputs = torch.rand(shape) * 2
    inputs = inputs.transpose(0, 1) if graph.batch_first else inputs
    network = hand_over(prune_network(graph, random_plan(graph, seed, (0.2, 0.7))))
    return network, make, [inputs] if loop else [inputs] * 4


def assert_alike(one: nn.Module, other: nn.Module, calls: list[Tensor]) -> None:
    ours, theirs = run_plain(one, calls), run_plain(other, calls)
    assert torch.equal(ours.outputs, theirs.outputs)
    for name, spikes in ours.spikes.items():
        assert torch.equal(spikes, theirs.spikes[name]), name
    assert any(spikes.any() for spikes in ours.spikes.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_gives_the_network_back_without_data(name: str, tmp_path: Path) -> None:
    network, make, calls = pruned(name)
    save_network(tmp_path / "net", network)
    torch.manual_seed(99)
    again = load_network(tmp_path / "net", model=make)
    assert type(again) is type(network)
    assert not again.training
    assert_alike(network, again, calls)
    listed = {id(neuron) for neuron in snn.SpikingNeuron.instances}
    assert {id(m) for m in again.modules() if isinstance(m, snn.SpikingNeuron)} <= listed
    # And once more, from what was loaded.
    save_network(tmp_path / "again", again)
    for file in (tmp_path / "net").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_alone_fits_a_resized_instance(name: str) -> None:
    network, make, calls = pruned(name, seed=1)
    torch.manual_seed(99)
    fresh = resize_to_fit(make(), network.state_dict()).eval()
    fresh.load_state_dict(network.state_dict())
    assert_alike(network, fresh, calls)
    for path, module in network.named_modules():
        assert repr(fresh.get_submodule(path)) == repr(module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.bias"), r"has no 'fc\.bias'"),
        (lambda s: s.update({"fc.bais": s["fc.bias"]}), r"'fc\.bais'.*fc\.bias"),
        (lambda s: s.update({"conv1.weight": torch.rand(9, 1, 3, 3)}), "no pruning makes"),
        (lambda s: s.update({"conv1.weight": torch.rand(2, 1, 3)}), "no pruning makes"),
    ],
)
def test_a_state_of_another_network_is_refused(change: Any, message: str) -> None:
    state = dict(pruned("step")[0].state_dict())
    change(state)
    with pytest.raises(PlanError, match=message):
        resize_to_fit(StepNet(), state)


# ------------------------------------------------------------------ pickles


def gradients(model: nn.Module, calls: list[Tensor]) -> list[Tensor]:
    utils.reset(model)
    torch.manual_seed(0)
    outputs = [model(x) for x in calls]
    found = sum(sum(o.sum() for o in out) for out in outputs)
    return list(torch.autograd.grad(found, list(model.parameters()), allow_unused=True))


SURROGATES = {
    "atan": surrogate.atan(alpha=3.0),
    "fast_sigmoid": surrogate.fast_sigmoid(slope=7),
    "SFS": surrogate.SFS(slope=5, B=2),
    "own": lambda x: surrogate.ATan.apply(x, 2.0),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_pickles_and_copies_train_as_the_network_does(name: str) -> None:
    torch.manual_seed(0)
    plain = StepNet(spike_grad=SURROGATES[name])
    graph = trace(enlivened(plain), torch.rand(4, 1, 16, 16))
    network = prune_network(graph, random_plan(graph, 0))
    calls = [torch.rand(3, 1, 16, 16)] * 3
    expected = gradients(network, calls)
    network = hand_over(prune_network(graph, random_plan(graph, 0)))
    content = io.BytesIO()
    torch.save(network, content)
    content.seek(0)
    copies = [
        network,
        pickle.loads(pickle.dumps(network)),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(network)))),
        copy.deepcopy(network),
        torch.load(content, weights_only=False),
    ]
    assert any(g is not None and g.any() for g in expected)
    for each in copies:
        for found, wanted in zip(gradients(hand_over(each), calls), expected, strict=True):
            assert (found is None and wanted is None) or torch.equal(found, wanted)


def test_a_copy_can_be_kept_too(tmp_path: Path) -> None:
    network, make, calls = pruned("step")
    save_network(tmp_path, pickle.loads(pickle.dumps(copy.deepcopy(network))))
    assert_alike(network, load_network(tmp_path, make), calls)


# ------------------------------------------------------------------ what is refused


def test_a_network_that_was_not_pruned_here(tmp_path: Path) -> None:
    with pytest.raises(KeepingError, match=r"was not pruned by spear-gym.*env\.finetune"):
        save_network(tmp_path / "net", StepNet())
    assert not (tmp_path / "net").exists()


def test_a_network_in_the_folder_stays_unless_told_otherwise(tmp_path: Path) -> None:
    network, make, calls = pruned("step")
    save_network(tmp_path, pruned("step", seed=5)[0])
    with pytest.raises(KeepingError, match="overwrite=True"):
        save_network(tmp_path, network)
    save_network(tmp_path, network, overwrite=True)
    assert_alike(network, load_network(tmp_path, make), calls)


class Wider(StepNet):
    def __init__(self) -> None:
        super().__init__((6, 9))


class Slower(StepNet):
    def __init__(self) -> None:
        super().__init__(reset_mechanism="zero")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Wider, r"'conv2' has \[9, 4, 4\], where it had \[8, 4, 4\]"),
        (Slower, r"'lif1' has Leaky\(zero.*where it had Leaky\(subtract"),
        (lambda: "net", "model gives a str"),
    ],
)
def test_another_network_is_refused_by_the_first_difference(
    model: Any, message: str, tmp_path: Path
) -> None:
    save_network(tmp_path, pruned("step")[0])
    with pytest.raises(KeepingError, match=message):
        load_network(tmp_path, model)


def weights(folder: Path) -> None:
    tensors = load_file(folder / "network.safetensors")
    save_file({k: -v for k, v in tensors.items()}, folder / "network.safetensors")


def plan(folder: Path) -> None:
    content = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(content.replace("conv1", "conv0"))


def structure(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "network.json").read_text())
        found["input" if key in found["input"] else key] = (
            {**found["input"], key: value} if key in found["input"] else value
        )
        (folder / "network.json").write_text(json.dumps(found))

    return change


def pickled(folder: Path) -> None:
    (folder / "network.safetensors").write_bytes(pickle.dumps(StepNet))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weights, r"network\.safetensors' was changed since the network was kept"),
        (pickled, "was changed since"),
        (plan, r"plan\.json' was changed since"),
        (structure("format", "spear-gym network 9"), "'format' is"),
        (structure("shape", [10**6, 10**6]), "entries over all time steps"),
        (structure("shape", []), "one to five sizes"),
        (structure("shape", [1, 16, 17]), "where it had"),
        (structure("layers", "none"), "no list of layers"),
        (structure("readout", "loudness"), "'readout' is"),
        (structure("sha256", {}), r"'plan\.json' is missing"),
        (lambda f: (f / "network.safetensors").unlink(), "cannot read"),
        (lambda f: (f / "plan.json").unlink(), "cannot read"),
        (lambda f: (f / "network.json").unlink(), r"earlier version.*workload="),
    ],
)
def test_what_was_changed_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    save_network(tmp_path, pruned("step")[0])
    change(tmp_path)
    with pytest.raises(KeepingError, match=message):
        load_network(tmp_path, StepNet)


def test_one_of_model_and_workload_is_needed(tmp_path: Path) -> None:
    for given in ({}, {"model": StepNet, "workload": object()}):
        with pytest.raises(KeepingError, match="either model="):
            load_network(tmp_path, **given)


def test_the_origin_on_a_module_is_plain() -> None:
    """So that a pickle of it asks for nothing of ours but the closures' stand-ins."""
    network = pruned("groups")[0]
    found = getattr(network, ATTRIBUTE)
    assert json.loads(json.dumps(found)) == found
    assert not any(ATTRIBUTE in key for key in network.state_dict())


def test_the_names_at_the_top() -> None:
    assert spear_gym.save_network is save_network
    assert spear_gym.load_network is load_network
    assert spear_gym.resize_to_fit is resize_to_fit
