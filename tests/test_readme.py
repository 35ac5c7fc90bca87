"""The README says what the code does: its examples run as written."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import page
from safetensors.torch import load_file

import spear_gym
from spear_gym.workload import measure


@pytest.mark.slow
def test_python_examples_run_as_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", page("README.md"), flags=re.DOTALL)
    search, learning, _own = blocks
    scope: dict[str, object] = {}
    exec(compile(search, "README.md", "exec"), scope)
    assert sum(p.numel() for p in scope["net"].parameters()) > 0  # type: ignore[attr-defined]
    exec(compile(learning, "README.md", "exec"), scope)
    assert scope["env"].unwrapped.best is not None  # type: ignore[attr-defined]


MODEL = """
import snntorch as snn
import torch
from torch import nn


class SpikingNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.lif1 = snn.Leaky(beta=0.8, threshold=0.3, init_hidden=True)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.lif2 = snn.Leaky(beta=0.8, threshold=0.3, init_hidden=True)
        self.fc = nn.Linear(8 * 16, 3)

    def forward(self, x):
        return self.fc(self.lif2(self.conv2(self.lif1(self.conv1(x)))).flatten(1))


labels = torch.arange(30) % 3
images = torch.rand(30, 1, 8, 8) * 0.5
images[torch.arange(30), 0, 2 * labels + 1] = 1.5
train = search = test = (images, labels)
"""


def test_a_network_of_ones_own_is_pruned_and_kept_in_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.findall(r"```python\n(.*?)```", page("README.md"), flags=re.DOTALL)[2]
    assert len(block.splitlines()) < 15
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), scope)
    whole, pruned = scope["workload"].graph.model, scope["pruned"]
    sizes = [sum(p.numel() for p in model.parameters()) for model in (whole, pruned)]
    assert sizes[1] < sizes[0]
    figures = measure(scope["workload"], pruned, "test")
    assert figures.synops < scope["workload"].reference("test").synops
    state = load_file(tmp_path / "pruned" / "network.safetensors")
    fresh = spear_gym.resize_to_fit(scope["SpikingNet"](), state)
    fresh.load_state_dict(state)
    assert measure(scope["workload"], fresh.eval(), "test") == figures


def test_the_first_screen_of_findings_says_what_they_rest_on() -> None:
    findings = page("README.md").split("## What was found")[1].split("\n## ")[0]
    assert findings.strip().startswith("**No result of the paper is reproduced or refuted:**")
