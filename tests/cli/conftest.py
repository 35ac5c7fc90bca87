"""A finished run for the tests of all commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from searches import ENDED, RANDOM

from spear_gym.cli import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search; tests copy it before they touch it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spear", "search", *RANDOM, "--out", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in ENDED
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
