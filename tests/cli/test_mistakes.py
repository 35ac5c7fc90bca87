"""Bad input to `spear search`: one clear line for each, before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import Spear, assert_one_error
from searches import RANDOM, TINY

BROKEN = """
import torch
from torch import nn
import snntorch as snn
from spear_gym import Workload

class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = middle
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)
        self.fc = nn.Linear(4 * 64, 3)
    def forward(self, x):
        return self.fc(self.lif(self.middle(self.conv(x))).flatten(1))

class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x) * x

class Shallow(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 3)
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)
    def forward(self, x):
        return self.lif(self.fc(x.flatten(1)))

class Branching(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 3 else 2 * x)

X, Y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])

def make(model=None, x=X, y=Y):
    data = (x, y)
    return Workload(model=model or Net(nn.Identity()), train=data, search=data, test=data,
                    num_steps=2)

def random_module(): return make(Net(Noise()))
def shallow(): return make(Shallow())
def branching(): return make(Branching(nn.Identity()))
def nan_data(): return make(x=X / 0 * 0)
def wrong_rank(): return make(x=X[0, 0, 0])
def wrong_channels(): return make(x=X.repeat(1, 3, 1, 1))
def wrong_labels(): return make(y=Y + 1)
def empty(): return make(x=X[:0], y=Y[:0])
def nothing(): return 3
NOT_A_FUNCTION = 3
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "digit"), "unknown workload 'digit'; did you mean 'digits'"),
        (("--workload", "toys:nothing"), "cannot import the workload 'toys:nothing'"),
        (("--workload", "no_such_module:f"), "cannot import the workload 'no_such_module:f'"),
        (("--workload", ":f"), "cannot import the workload ':f'"),
        (("--workload", "toys:STEPS"), "is no function that returns a Workload"),
        (("--agent", "spear-dpg"), "unknown agent 'spear-dpg'; did you mean 'spear-ddpg'"),
        (("--reward", "tarr"), "unknown reward 'tarr'; did you mean 'tar'"),
        (("--agent", "spear-ddgp"), "did you mean 'spear-ddpg'"),
        (("--agent", "nowhere:Agent"), "cannot import the agent 'nowhere:Agent'"),
        (("--agent-setting", "lr=3"), "agent 'random' has no settings; it is given 'lr'"),
        (("--agent-setting", "hidden"), "'hidden' is not of the form name=value"),
        (("--agent-setting", "hidden=[1"), "'hidden=[1' is not of the form name=value"),
        (("--reward-setting", "lamb=3"), "unknown setting of reward 'tar' 'lamb'"),
        (("--reward-setting", "lam"), "'lam' is not of the form name=number"),
        (("--reward-setting", "lam=-1"), "lam is -1"),
        (("--criterion", "l2"), "unknown criterion 'l2'; did you mean 'l1'"),
        (("--scoring", "plan"), "unknown scoring 'plan'; did you mean 'plain'"),
        (("--target", "0"), "target is 0; it must lie in (0, 1]"),
        (("--target", "1.5"), "target is 1.5; it must lie in (0, 1]"),
        (("--target", "nan"), "target is nan"),
        (("--target", "0.0001"), "the lowest that can be reached is 0.0"),
        (("--target-synops", "100"), "either target (a fraction) or target_synops"),
        (("--budget", "0"), "budget is 0"),
        (("--top", "0"), "top is 0"),
        (("--threads", "0"), "threads is 0"),
        (("--min-channels", "99"), "min_channels is 99; it must lie in 1..6"),
        (("--channel-multiple", "0"), "channel_multiple is 0"),
        (("--max-ratio", "1.5"), "max_ratio is 1.5"),
        (("--lre", "missing.json"), "cannot read an LRE fit from 'missing.json'"),
        (("--overwrite", "--resume"), "choose one of --overwrite and --resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments(
    spear: Spear, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "run"
    assert_one_error(spear("search", *RANDOM, "--out", out, *arguments), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("random_module", "made for 4 samples, as noise that is drawn"),
        ("shallow", "no prunable layer"),
        ("branching", ""),
        ("nan_data", "NaN or infinite"),
        ("wrong_rank", "axes"),
        ("wrong_channels", "channel"),
        ("wrong_labels", "label 3"),
        ("empty", "split is empty"),
        ("nothing", "gives a int, not a Workload"),
        ("NOT_A_FUNCTION", "is no function"),
    ],
)
def test_bad_networks_and_data(
    spear: Spear,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    message: str,
) -> None:
    (tmp_path / "broken_workloads.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_workloads", raising=False)
    arguments = ("--lre", "none", "--agent", "random", "--out", "run")
    ran = spear("search", "--workload", f"broken_workloads:{function}", *arguments)
    sys.modules.pop("broken_workloads", None)
    assert_one_error(ran, message)
    assert not Path("run").exists()


def test_messages_are_not_taken_for_markup(spear: Spear, tmp_path: Path) -> None:
    ran = spear("search", *TINY[:2], "--lre", tmp_path / "[bold]fit[/nonsense].json")
    assert_one_error(ran, "[bold]fit[/nonsense].json")
