"""What importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import spear_gym

HEAVY = ("sklearn", "optuna", "matplotlib.pyplot", "stable_baselines3", "typer")


@pytest.mark.slow
def test_import_leaves_the_heavy_packages_alone(tmp_path: Path) -> None:
    code = (
        "import sys, gymnasium, spear_gym\n"
        "assert 'SpearPrune-v0' in gymnasium.registry\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "env = gymnasium.make('SpearPrune-v0', lre='none')\n"
        f"print([name for name in {HEAVY[:3]!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize("name", spear_gym.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(spear_gym, name).__name__ == name


def test_unknown_names_do_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        spear_gym.nonsense  # noqa: B018
