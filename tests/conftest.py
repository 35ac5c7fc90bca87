"""What every test runs under: one thread, a fixed seed, and snnTorch's global list left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
import toys
from commands import Spear, runner
from hypothesis import settings
from snntorch import SpikingNeuron

from spear_gym.workload import Workload

torch.set_num_threads(1)

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def neuron_list() -> Iterator[None]:
    """snnTorch never forgets a neuron, and `utils.reset` walks through all of them."""
    known = list(SpikingNeuron.instances)
    yield
    SpikingNeuron.instances[:] = known


@pytest.fixture(autouse=True, scope="session")
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own LRE fits are neither read nor written by tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAR_GYM_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def spear(monkeypatch: pytest.MonkeyPatch) -> Spear:
    """Runs `spear` in this process, as the installed script does."""
    return runner(monkeypatch)


@pytest.fixture(scope="session")
def tiny() -> Workload:
    """Three groups, trained for a second."""
    return toys.tiny()


@pytest.fixture(scope="session")
def toy() -> Workload:
    """Two groups of few channels, trained for a second: every plan can be enumerated."""
    return toys.toy()
