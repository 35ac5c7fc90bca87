"""Bad input on the command line and to the library: one clear error each, before any work."""

from __future__ import annotations

import inspect
import math
import os
from pathlib import Path
from typing import get_type_hints

import pytest
from commands import Spear, assert_one_clear_error
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_gym.cli import app
from spear_gym.reward import REWARDS, RewardError, make_reward

SEARCH = ("search", "--workload", "toys:tiny", "--lre", "none", "--agent", "random")
LARGE = 10**20


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What no command takes.

COMMANDS = {
    command.name or command.callback.__name__: command.callback
    for command in app.registered_commands
    if command.callback is not None
}
NUMBERS = [
    (command, f"--{name.replace('_', '-')}")
    for command, function in COMMANDS.items()
    for name, kind in get_type_hints(function).items()
    if kind in (int, float, int | None, float | None)
]
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "compare": ("--agents", "random"),
    "evaluate": ("run",),
    "lre": ("toys:tiny",),
    "lre-study": ("toys:tiny",),
    "pretrain": ("digits",),
    "report": ("run",),
    "score-study": ("toys:tiny",),
    "spread-study": ("toys:tiny",),
    "tune": ("ddpg",),
}


@pytest.mark.parametrize("text", ["many", "", "1,5", "0x10", "--seed", "1e", "½"])
@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_numbers_that_are_none(
    spear: Spear, inside: Path, command: str, option: str, text: str
) -> None:
    ran = spear(command, *ARGUMENTS.get(command, ()), option, text)
    assert_one_clear_error(ran, "spear", "--help")
    assert not any(inside.iterdir())


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_that_there_are_none_of(spear: Spear, inside: Path, command: str) -> None:
    arguments = ARGUMENTS.get(command, ())
    assert_one_clear_error(spear(command, *arguments, "--nonsense"), "--nonsense")
    assert_one_clear_error(spear(command, *arguments, "--workerz", "2"), "--workerz")
    assert_one_clear_error(spear(command, *arguments, "more", "and", "more"), "more")
    if arguments:
        assert_one_clear_error(spear(command), "Missing")


@pytest.mark.parametrize("command", ["serch", "Search", "search ", "--nonsense", "-x", "\x1b[31m"])
def test_commands_that_there_are_none_of(spear: Spear, command: str) -> None:
    assert_one_clear_error(spear(command), command.strip().replace("\x1b", ""))


# Values out of range.

OUT_OF_RANGE: dict[tuple[str, ...], dict[str, tuple[object, ...]]] = {
    SEARCH: {
        "--budget": (0, -1, LARGE),
        "--seed": (-1, 2**32, LARGE),
        "--top": (0, -3, LARGE),
        "--workers": (0, -1, LARGE),
        "--threads": (0, -1, 100_000, LARGE),
        "--target": (0, -1, 1.5, "nan", "inf", 1e-9, "1e400"),
        "--target-synops": (0, -1, "nan", "inf", 1e-9),
        "--targets": ("", ",", "0.5,0.5", "0.5;0.3", "nan", "0.5,inf", "0,0.5"),
        "--min-channels": (0, -1, 7, LARGE),
        "--channel-multiple": (0, -1, 7, LARGE),
        "--max-ratio": (0, 1, -1, "nan", "inf"),
        "--confidence": ("yes", "0", "1", "-1", "nan", "2", ""),
        "--reward": ("", "tarr", "TAR ", "tar,hard"),
        "--scoring": ("", "plan", "refitt"),
        "--precision": ("", "float16", "bf16"),
        "--criterion": ("", "l2", "bn"),
        "--hide": ("", "input_rat", "*"),
        "--lre": ("nowhere.json", ".", "", "/", "\x1b[31m.json", "a" * 300),
        "--reward-setting": (
            "lam", "lam=", "=3", "lam=x", "lam=nan", "lam=inf", "lam=-1", "lam=1e308", "lam=[1]",
            "lam=null", "lamb=3", f"lam={'9' * 5000}", "lam=" + "[" * 20_000, "lam=true",
        ),
        "--agent-setting": (
            "lr", "lr=", "=3", "lr=[1", "lr=2020-01-01", "lr={1: [}", "lr=" + "[" * 20_000,
            f"lr={'9' * 5000}", "lr=!!python/object:os.system", "lr=.nan", "lr=1e999", "lr=3",
        ),
        "--out": ("/proc/nothing", "text", "text/run", "/dev/null", "fifo", "a" * 300),
    },
    ("search", "--workload", "toys:tiny", "--lre", "none", "--agent", "tpe"): {
        "--agent-setting": (
            "n_startup_trials=-5", "n_startup_trials=2.5", "n_ei_candidates=0", "gamma=[1,2]",
            "multivariate=maybe", "n_startup_trial=3", "seed=3",
        ),
    },
    ("search", "--workload", "toys:tiny", "--lre", "none", "--agent", "sac"): {
        "--agent-setting": (
            "batch_size=0", "gamma=[1,2]", "buffer_size=-1", "learning_rate=-1", "tau=2",
            "train_freq=[1, day]", "policy_kwargs={net_arch: [-1]}", "policy_kwargs={net: 3}",
            "policy_kwargs='dict(net_arch=[8])'", "ent_coef=automatic", "policy=Mlp",
            "learning_rat=1e-3", "n_timesteps=100", "device=cuda", "noise_std=0.1",
        ),
    },
    ("search", "--workload", "toys:tiny", "--lre", "none", "--agent", "cma-es"): {
        "--agent-setting": ("sigma0=-1", "popsize=1", "x0=[1]", "restart_strategy=ipop"),
    },
    ("search", "--workload", "toys:tiny", "--lre", "none", "--reward", "mnasnet-soft"): {
        "--reward-setting": ("beta=-1e308", "beta=0.1", "beta=nan", "lam=3"),
    },
    ("compare", "--lre", "none", "--workload", "toys:tiny"): {
        "--agents": ("", ",", "randon", "random,random", "ddpg;td3", "a:b"),
    },
    ("compare", "--lre", "none", "--agents", "random", "--workload", "toys:tiny"): {
        "--budget": (0, LARGE),
        "--seeds": (0, -1, LARGE),
        "--workers": (0, LARGE),
        "--targets": ("", "much", "0", "2", "0.3,0.3", "nan"),
        "--workload": ("", "digit", "toys:tiny,toys:tiny", "toys:nothing"),
        "--confidence": ("much", "0", "nan"),
        "--reward": ("tarr",),
        "--scoring": ("plan",),
    },
    ("tune",): {"": ("", "dpg", "random", "../ddpg")},
    ("tune", "ddpg", "--workload", "toys:tiny", "--lre", "none"): {
        "--trials": (0, LARGE),
        "--seeds": (0, LARGE),
        "--budget": (0, LARGE),
        "--targets": ("", "x", "0"),
        "--workload": ("digit",),
    },
    ("lre", "toys:tiny"): {
        "--samples": (0, 2, -1, LARGE),
        "--held-out": (-1, LARGE),
        "--tolerance": (-1, 1, "nan"),
        "--targets": ("", "x", "0", "2"),
        "--confidence": ("x", "2", "0.9999"),
        "--estimator": ("", "liner"),
        "--scoring": ("plan",),
        "--criterion": ("l2",),
        "--seed": (-1, LARGE),
        "--workers": (0,),
        "--out": (".", "text/fit.json", "fifo", "/dev/null"),
    },
    ("lre-study", "toys:tiny"): {
        "--samples": (0, 4, LARGE),
        "--length-samples": (0, LARGE),
        "--held-out": (0, LARGE),
        "--scorings": ("plan",),
        "--lengths": ("x", "0", "-1", "nan", "inf"),
        "--seed": (-1,),
        "--workers": (0,),
    },
    ("score-study", "toys:tiny"): {
        "--plans": (0, 2, LARGE),
        "--fraction": (0, -1, 2, "nan"),
        "--seed": (-1,),
        "--criterion": ("l2",),
        "--workers": (0,),
    },
    ("spread-study", "toys:tiny"): {
        "--plans": (0, 2, LARGE),
        "--seeds": (0, 1, LARGE),
        "--fraction": (0, 2, "nan"),
        "--workers": (0,),
    },
    ("sensitivity", "--workload", "toys:tiny", "--lre", "none", "--agent", "random"): {
        "--agent": ("", "randon"),
        "--lambdas": ("", "x", "-1", "1,1", "nan"),
        "--seeds": (0, LARGE),
        "--budget": (0, LARGE),
        "--targets": ("", "x", "0"),
        "--workers": (0,),
    },
    ("pretrain",): {"": ("", "digit", "toys:tiny", "../digits")},
    ("pretrain", "digits"): {"--out": (".", "text/w", "fifo", "/dev/null")},
    ("evaluate",): {"": ("", "nowhere", "text", ".", "/", "fifo", "a" * 300)},
    ("report",): {"": ("", "nowhere", "text", ".", "/")},
}  # fmt: skip
CASES = [
    (*command, *((option, value) if option else (value,)))
    for command, options in OUT_OF_RANGE.items()
    for option, values in options.items()
    for value in values
]


@pytest.mark.parametrize("arguments", CASES, ids=lambda a: " ".join(map(str, a))[:60])
def test_values_out_of_range(spear: Spear, inside: Path, arguments: tuple[object, ...]) -> None:
    (inside / "text").write_text("text")
    os.mkfifo(inside / "fifo")
    assert_one_clear_error(spear(*arguments))
    assert sorted(path.name for path in inside.iterdir()) == ["fifo", "text"]
    assert (inside / "text").read_text() == "text"


# The library, by chance.

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just([1]),
    st.sampled_from([1e308, -1e308, 10**30, 10**5000, object()]),
)  # fmt: skip


@settings(max_examples=300)
@given(reward=st.sampled_from(sorted(REWARDS)), data=st.data())
def test_any_reward_setting(reward: str, data: st.DataObject) -> None:
    """It is refused in one line, or gives finite rewards within its bounds."""
    known = list(inspect.signature(REWARDS[reward]).parameters)
    name = data.draw(st.sampled_from([*known, "nonsense"]))
    value = data.draw(VALUES)
    try:
        shape = make_reward(reward, {name: value})
    except RewardError as error:
        said = str(error)
    else:
        low, high = shape.bounds(20.0)
        rewards = [sum(shape.terms(0.5, ratio).values()) for ratio in (0.0, 0.5, 1.0, 20.0)]
        assert all(low <= each <= high for each in rewards)
        assert math.isfinite(low)
        assert math.isfinite(high)
        return
    assert name in said
    assert "\n" not in said
    assert len(said) < 300
