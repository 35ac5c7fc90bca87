"""The catalogue: workloads that ship with the package, and how their networks were trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from spear_gym.boundary.files import FileError, largest_tensor_file, parse_tensors, read_whole
from spear_gym.data.splits import DataSplits
from spear_gym.simulation.simulate import Scoring
from spear_gym.training import OnBatch, Recipe, train
from spear_gym.workload import Workload, WorkloadError

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Entry:
    """A workload of the catalogue.

    Attributes:
        name: its name.
        environment: id of its environment.
        groups: prunable groups of the network, so steps of an episode.
        network: makes the untrained network from a seed.
        data: makes its splits.
        seed: seed of the shipped network.
        num_steps: time steps T.
        pretrain: recipe of the shipped network.
        finetune: recipe of fine-tuning.
        scoring: default scoring.
        calibration_samples: size of the calibration set.
        events: the samples' non-zero entries count as spikes, so the first layer has SynOps.
    """

    name: str
    environment: str
    groups: int
    network: Callable[[int], nn.Module]
    data: Callable[[], DataSplits]
    seed: int
    num_steps: int
    pretrain: Recipe
    finetune: Recipe
    scoring: Scoring
    calibration_samples: int
    events: bool = False

    @property
    def weights(self) -> Path:
        """The shipped weights."""
        return WEIGHTS / f"{self.name}.safetensors"

    def variant(self, suffix: str, seed: int) -> Entry:
        """The same workload with an independently trained network."""
        return replace(
            self,
            name=f"{self.name}-{suffix}",
            environment=self.environment.replace("-v0", f"-{suffix.upper()}-v0"),
            seed=seed,
        )

    def workload(self, model: nn.Module) -> Workload:
        """The workload around a given network."""
        data = self.data()
        return Workload(
            model=model,
            train=data.train,
            search=data.search,
            test=data.test,
            num_steps=self.num_steps,
            name=self.name,
            events=self.events,
            finetune=self.finetune,
            scoring=self.scoring,
            calibration_samples=self.calibration_samples,
        )

    def load(self, path: Path | None = None) -> Workload:
        """The workload with trained weights.

        Args:
            path: a safetensors file; the shipped one by default.

        Raises:
            WorkloadError: when the weights are missing, damaged or do not fit.
        """
        model = self.network(self.seed)
        load_weights(model, self.weights if path is None else path)
        return self.workload(model)

    def train_network(self, on_batch: OnBatch | None = None) -> nn.Module:
        """Trains the network again from scratch."""
        workload = self.workload(self.network(self.seed))
        graph, samples = workload.graph, workload.split("train")
        train(graph, samples, self.num_steps, self.pretrain, seed=self.seed, on_batch=on_batch)
        return graph.model


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file into a network.

    Raises:
        WorkloadError: when the file is missing, damaged, or its tensors do not fit.
    """
    expected = model.state_dict()
    try:
        content = read_whole(path, largest_tensor_file(expected))
        tensors = parse_tensors(content, expected, "it")
    except FileError as error:
        raise WorkloadError(f"cannot read weights from '{path}': {error}") from error
    model.load_state_dict(tensors)
