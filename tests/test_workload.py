"""Workloads: copies, fingerprints, the catalogue, and one clear error for each bad input."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
import toys
from networks import StepNet
from safetensors.torch import save_file
from torch import Tensor, nn

from spear_gym.boundary.files import write_tensors
from spear_gym.data import Split
from spear_gym.envs_registry import ENTRIES
from spear_gym.envs_registry.catalogue import load_weights
from spear_gym.evaluation import PlanEvaluator
from spear_gym.pruning.plan import PlanError
from spear_gym.snn.errors import TraceError
from spear_gym.snn.zoo import ConvSNN, digits_net
from spear_gym.training import Recipe
from spear_gym.workload import (
    Workload,
    WorkloadError,
    load_workload,
    measure,
    register_workload,
    workload_names,
)

CLASSES = 5


def images(count: int = 12, shape: tuple[int, ...] = (1, 16, 16)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, *shape, generator=generator), torch.arange(count) % CLASSES


def make(**changes: Any) -> Workload:
    """A StepNet on random images."""
    parts = {"model": StepNet(), "train": images(), "search": images(), "test": images()}
    return Workload(**{**parts, "num_steps": 2, **changes})


class Fixed(nn.Module):
    """A network with a size written into its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)
        self.fc = nn.Linear(4 * 64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lif(self.conv(x)).view(-1, 256))


class Flat(nn.Module):
    """Nothing to prune: one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(256, CLASSES)
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.fc(x.flatten(1)))


class Unknown(StepNet):
    """Holds a module that nobody can replay."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.FractionalMaxPool2d(3, output_ratio=0.5)  # type: ignore[assignment]


# What a workload is.


def test_the_users_network_is_left_as_it_was() -> None:
    model = StepNet()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    workload = make(model=model)
    PlanEvaluator(workload).finetune((2, 2), recipe=Recipe(epochs=1, batch_size=4))
    assert model.training
    assert workload.graph.model is not model
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_takes_tensors_datasets_and_splits() -> None:
    inputs, labels = images()
    dataset = torch.utils.data.TensorDataset(inputs, labels)
    workload = make(train=Split(inputs, labels), search=(inputs, labels), test=dataset)
    assert len({split.sha256() for split in workload.splits.named().values()}) == 1
    assert workload.scoring == "recalibrated"
    assert workload.finetune == Recipe(epochs=2)


def test_calibration_is_a_fixed_part_of_train() -> None:
    train = images(40)
    one, again = (make(train=train, calibration_samples=10) for _ in range(2))
    assert torch.equal(one.calibration.inputs, again.calibration.inputs)
    assert len(one.calibration) == 10
    rows = {tuple(row.flatten().tolist()) for row in train[0]}
    chosen = [tuple(row.flatten().tolist()) for row in one.calibration.inputs]
    assert len(set(chosen)) == 10
    assert set(chosen) <= rows
    assert len(make(train=train, calibration_samples=1000).calibration) == 40


def test_event_frames_vary() -> None:
    class Frames(ConvSNN):
        pass

    net = Frames((4, 4), pool_after=(1, 2), image_size=8, in_channels=2, num_classes=CLASSES)
    frames = images(8, (3, 2, 8, 8))
    data = {"train": frames, "search": frames, "test": frames}
    workload = Workload(model=net, num_steps=3, **data)
    assert workload.varying
    assert PlanEvaluator(workload, scoring="plain").evaluate((4, 4)).synops > 0
    with pytest.raises(WorkloadError, match="num_steps is 4, but the samples have 3 frames"):
        Workload(model=net, num_steps=4, **data)


class OneStep(nn.Module):
    """One time step that starts its neuron's state itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)
        self.lif = snn.Leaky(beta=0.5)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.lif(self.fc(x), self.lif.init_leaky())[0]
        return spikes


def test_one_step_that_forgets_its_state_is_named() -> None:
    data = dict.fromkeys(("train", "search", "test"), images(8, (6,)))
    with pytest.raises(WorkloadError, match=r"forward runs 1 time step .*; loop over 3 time steps"):
        Workload(model=OneStep(), num_steps=3, **data)


class OverFrames(OneStep):
    """The same as a loop over sequences, batch first."""

    def forward(self, x: Tensor) -> Tensor:
        mem, spikes = self.lif.init_leaky(), []
        for t in range(x.shape[1]):
            spk, mem = self.lif(self.fc(x[:, t]), mem)
            spikes.append(spk)
        return torch.stack(spikes)


def test_sequences_that_were_taken_for_static_are_named() -> None:
    data = dict.fromkeys(("train", "search", "test"), images(8, (3, 6)))
    with pytest.raises(TraceError, match=r"\(3, 6\) each, were shown whole .* say varying=True"):
        Workload(model=OverFrames(), num_steps=3, **data)
    assert Workload(model=OverFrames(), num_steps=3, varying=True, **data).graph.batch_first


def test_reference_is_measured_once(toy: Workload) -> None:
    assert toy.reference("search") is toy.reference("search")
    assert toy.reference("search") == measure(toy, toy.graph.model, "search")
    assert toy.reference("test") != toy.reference("search")


# Copies and fingerprints.


@pytest.mark.parametrize("way", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_copies_measure_the_same(toy: Workload, way: Any) -> None:
    other = way(toy)
    assert other is not toy
    assert other.fingerprint() == toy.fingerprint()
    assert measure(other, other.graph.model, "search") == toy.reference("search")
    assert (other.name, other.scoring, other.finetune) == (toy.name, toy.scoring, toy.finetune)
    copied, own = PlanEvaluator(other).evaluate((3, 4)), PlanEvaluator(toy).evaluate((3, 4))
    assert (copied.accuracy, copied.layer_synops) == (own.accuracy, own.layer_synops)


def test_catalogued_workloads_travel_by_name() -> None:
    digits = load_workload("digits")
    payload = pickle.dumps(digits)
    assert len(payload) < 200
    assert pickle.loads(payload) is digits


def test_fingerprint_sees_every_part() -> None:
    torch.manual_seed(1)
    model = StepNet()
    base = make(model=model)
    assert make(model=model).fingerprint() == base.fingerprint()
    changed = copy.deepcopy(base.graph.model)
    with torch.no_grad():
        changed.conv2.weight[0, 0, 0, 0] += 1e-6
    others = [
        make(model=changed),
        make(model=model, num_steps=3),
        make(model=model, events=True),
        make(model=model, calibration_samples=8),
        make(model=model, finetune=Recipe(epochs=9)),
        make(model=model, test=images(13)),
        make(model=model, readout="membrane"),
    ]
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 8
    assert make(model=model, name="other").fingerprint() == base.fingerprint()


# Bad input.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": -2}, "num_steps is -2"),
        ({"scoring": "best"}, "scoring is 'best'; choose one of plain, recalibrated, refit"),
        ({"calibration_samples": 1}, "calibration_samples is 1"),
        ({"train": images(1)}, "train split has 1 sample"),
        ({"train": (images()[0], images()[1] + 3)}, r"label 7; .*network has 5 outputs"),
        ({"search": (images()[0], images()[1] + 1)}, "search holds the label 5"),
        ({"test": images(4, (1, 8, 8))}, "test samples have shape"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.full((4, 1, 16, 16), torch.nan), torch.zeros(4).long()), "NaN or infinite"),
        ((torch.zeros(4, 1, 16, 16), torch.zeros(3).long()), "4 inputs and 3 labels"),
        ((torch.zeros(0, 1, 16, 16), torch.zeros(0).long()), "split is empty"),
        ((torch.zeros(16), torch.zeros(16).long()), "1 axes"),
        ((torch.zeros(4, 1, 16, 16), torch.tensor([0, 1, -1, 2])), "lowest label is -1"),
        ((torch.zeros(4, 1, 16, 16), torch.zeros(4)), "labels are torch.float32"),
    ],
)
@pytest.mark.parametrize("split", ["train", "search", "test"])
def test_data_that_cannot_be_used(split: str, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)^{split} split: .*{message}"):
        make(**{split: data})


def test_channels_that_do_not_fit_the_network() -> None:
    wide = images(4, (3, 16, 16))
    with pytest.raises(TraceError, match="channel"):
        make(train=wide, search=wide, test=wide)


def test_weights_that_are_not_finite() -> None:
    model = StepNet()
    with torch.no_grad():
        model.conv2.weight[1, 2, 0, 0] = torch.nan
    with pytest.raises(WorkloadError, match=r"weight 'conv2\.weight' holds NaN"):
        make(model=model)


def test_modules_that_draw_at_random_are_named() -> None:
    with pytest.raises(TraceError, match=r"FractionalMaxPool2d.*draws at random"):
        make(model=Unknown())


def test_nothing_to_prune() -> None:
    data = images(8)
    workload = Workload(model=Flat(), train=data, search=data, test=data, num_steps=2)
    with pytest.raises(PlanError, match="no prunable layer"):
        PlanEvaluator(workload)


def test_sizes_written_into_the_forward() -> None:
    data = images(8, (1, 8, 8))
    with pytest.raises((PlanError, TraceError), match=r"flatten|size"):
        Workload(model=Fixed(), train=data, search=data, test=data, num_steps=2)


# The catalogue.


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(WorkloadError, match=r"unknown workload 'digit'; did you mean 'digits'"):
        load_workload("digit")
    with pytest.raises(WorkloadError, match=r"known are: .*cluttered-digits.*digits"):
        load_workload("mnist-of-the-far-future")


def test_catalogue_names() -> None:
    assert set(ENTRIES) <= set(workload_names())
    assert {"digits", "cluttered-digits", "cluttered-digits-b", "cluttered-digits-c"} <= set(
        ENTRIES
    )
    for name, entry in ENTRIES.items():
        assert entry.name == name
        assert entry.weights.is_file()


def test_loaded_once_per_process() -> None:
    assert load_workload("digits") is load_workload("digits")


def test_registered_by_the_user() -> None:
    made = []

    def factory() -> Workload:
        made.append(toys.tiny())
        return made[-1]

    from spear_gym import workload as module

    try:
        register_workload("mine", factory)
        assert load_workload("mine") is load_workload("mine")
        assert len(made) == 1
        register_workload("mine", factory)
        load_workload("mine")
        assert len(made) == 2, "registering again replaces it"
    finally:
        module.FACTORIES.pop("mine")
        module._LOADED.pop("mine", None)
        toys.tiny().catalogued = False  # others use it too


def test_shipped_weights_are_good() -> None:
    assert load_workload("digits").reference("search").accuracy > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cluttered-digits", "cluttered-digits-b", "cluttered-digits-c"])
def test_shipped_cluttered_weights_are_good(name: str) -> None:
    assert load_workload(name).reference("search").accuracy >= 0.9


def test_weights_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    source, target = digits_net(3), digits_net(4)
    write_tensors(path, dict(source.state_dict()))
    load_weights(target, path)
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key])


def test_weights_that_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    entry = ENTRIES["digits"]
    with pytest.raises(WorkloadError, match="cannot read weights from"):
        entry.load(path)
    content = entry.weights.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WorkloadError, match="cannot read weights from"):
            entry.load(path)
    save_file(dict(StepNet().state_dict()), path)
    with pytest.raises(WorkloadError, match=r"it has float32 .* for 'bn1.bias', not float32"):
        entry.load(path)
    save_file(dict(ConvSNN((4, 4, 4, 4), (2, 4), 8).state_dict()), path)
    with pytest.raises(WorkloadError, match=r"has float32 \(4,\) for 'bn1.bias', not float32"):
        entry.load(path)
    path.write_bytes(b"this is no safetensors file, whatever its name says")
    with pytest.raises(WorkloadError, match="cannot read weights from"):
        entry.load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_another_precision_are_refused(dtype: torch.dtype) -> None:
    model = StepNet().to(dtype)
    with pytest.raises(WorkloadError, match=rf"is {dtype}; .* call model.float\(\) first"):
        make(model=model)
    assert make(model=model.float()).graph.groups
