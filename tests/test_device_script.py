"""The checks for a GPU, tried on the CPU, so that they work on the day there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.speed import SMALL
from device import checks

CPU = torch.device("cpu")


def test_rows_of_every_part() -> None:
    digits = SMALL[0]
    assert checks.workload_counts("digits", "plain", CPU)["largest change of accuracy"] == 0
    assert checks.network_counts(digits, CPU)["largest change of a layer's spikes"] == 0
    assert checks.gradient_row(digits, CPU)["against the CPU"] == 0
    assert checks.training_row(digits, CPU)["snnTorch / ours"] > 0  # type: ignore[operator]
    assert checks.scoring_row(digits, CPU, samples=8)["one by one / side by side"] > 0  # type: ignore[operator]
    assert checks.search_row(checks.random_workload(CPU), CPU)["evaluations"] == 3


def test_a_difference_is_told() -> None:
    with pytest.raises(checks.DoesNotHoldError, match=r"conv1: 0\.2 differs by more than 0\.1"):
        checks.within(0.2, 0.1, "conv1")
    with pytest.raises(checks.DoesNotHoldError):
        checks.within(float("nan"), 0.1, "conv1")
    one = {"w": torch.ones(2)}
    assert checks.apart(one, {"w": torch.tensor([1.0, 0.5])}) == 0.5
    with pytest.raises(checks.DoesNotHoldError, match="other parameters"):
        checks.apart(one, {})


def test_figures_of_all_parts_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "counts.json").write_text('{"tables": {}}')
    checks.merge(tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["parts"] == {"counts": {"tables": {}}}
    assert figures["missing"] == ["gradients", "scoring", "search", "training"]
