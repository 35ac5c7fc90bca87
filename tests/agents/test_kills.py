"""A search killed just before any of its changes to the disk is resumed to the same end."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from commands import ledger_rows

from spear_gym.agents import make_agent, run_folder
from spear_gym.agents.folders import RunError, claimed, state_of
from spear_gym.agents.pipeline import finish, search_in_folder
from spear_gym.agents.reading import load_network, read_result
from spear_gym.agents.run_folder import SearchSettings, write_network
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.settings import Goal
from spear_gym.workload import Workload, measure

FILES = {
    "curve.png", "delivery.json", "ledger.log", "network.json", "network.safetensors", "plan.json",
    "plan.png", "result.json", "settings.json",
}  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

pytestmark = pytest.mark.filterwarnings("ignore:The value of `grace_period` might be too small")


@pytest.fixture(autouse=True)
def short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal's lock that a killed process left behind is taken over sooner."""
    monkeypatch.setattr("spear_gym.record.journal.LOCK_SECONDS", 0.1)


class Search:
    """One short search, as the command line makes it; its answers are remembered."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.evaluator = PlanEvaluator(workload)
        self.judge = make_judge(self.evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
        self.settings = SearchSettings(
            workload.name, "random", goal=Goal(target=0.4), budget=3, seed=1
        )

    def run(self, folder: Path, **settings: Any) -> None:
        asked = replace(self.settings, **settings)
        with claimed(folder, resume=folder.exists()):
            agent = make_agent("random")
            found = search_in_folder(agent, self.evaluator, self.judge, asked, folder)
            finish(self.evaluator, self.judge, asked, found, folder)

    def outcome(self, folder: Path) -> dict[str, Any]:
        """All that must not depend on interruptions."""
        result = read_result(folder)
        for key in ("seconds", "statistics", "simulator_runs", "sha256"):
            result.pop(key, None)
        rows = [row | {"seconds": 0} for row in ledger_rows(folder)]
        names = ("plan.json", "settings.json", "network.safetensors")
        return {"result": result, "rows": rows} | {n: (folder / n).read_bytes() for n in names}


@pytest.fixture(scope="module")
def search() -> Iterator[Search]:
    """With pictures that are drawn once: they take most of the time, and are never read."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("curve_png", "plan_png"):
            real = getattr(run_folder, name)
            drawn: list[bytes] = []

            def draw(*asked: Any, real: Any = real, drawn: list[bytes] = drawn) -> bytes:
                if not drawn:
                    drawn.append(real(*asked))
                return drawn[0]

            patch.setattr(run_folder, name, draw)
        yield Search(toys.tiny())


def watch(folder: Path, at: list[tuple[str, str]], kill: int | None) -> None:
    """Notes each change below a folder just before it is made; kills this process at the n-th."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and arguments[2] & WRITING)
        if not changes:
            return
        paths = [os.fsdecode(p) for p in arguments[:2] if isinstance(p, (str, bytes, os.PathLike))]
        if not any(path.startswith(str(folder)) for path in paths):
            return
        at.append((event, os.path.basename(paths[0])))  # noqa: PTH119 - no path objects in here
        if len(at) - 1 == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed(search: Search, folder: Path, kill: int, **settings: Any) -> bool:
    """Runs a search in a child that is killed at its n-th change; whether it came so far."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            watch(folder, [], kill)
            search.run(folder, **settings)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def look(search: Search, folder: Path) -> None:
    """Whatever moment it was killed at, a result speaks of the plan and the network beside it."""
    if not (folder / "result.json").exists():
        return
    result = read_result(folder)
    model = load_network(folder, search.workload)
    assert measure(search.workload, model, "test").synops == result["test"]["synops"]


def kills(search: Search, folder: Path, expected: dict[str, Any], first: int) -> int:
    """Kills at every other change from the first on, and resumes after each; how often."""
    count = 0
    while killed(search, folder, first + 2 * count):
        count += 1
        if folder.exists():
            assert state_of(folder) in ("empty", "begun", "run"), list(folder.iterdir())
            look(search, folder)
        search.run(folder)
        assert search.outcome(folder) == expected
        assert {path.name for path in folder.iterdir()} == FILES
        shutil.rmtree(folder)
    shutil.rmtree(folder)
    return count


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_change(search: Search, tmp_path: Path, first: int) -> None:
    search.run(tmp_path / "whole")
    expected = search.outcome(tmp_path / "whole")
    assert len(expected["rows"]) == 3
    assert kills(search, tmp_path / "run", expected, first) > 30


def test_killed_again_and_again(search: Search, tmp_path: Path) -> None:
    """Never resumed in peace: each time it comes somewhat further, from the first change on."""
    search.run(tmp_path / "whole")
    kill, folder = 0, tmp_path / "run"
    while killed(search, folder, kill):
        kill += 3
        if folder.exists():
            look(search, folder)
    assert kill > 30
    assert search.outcome(folder) == search.outcome(tmp_path / "whole")
    assert {path.name for path in folder.iterdir()} == FILES


def test_killed_while_another_session_writes_another_network(
    search: Search, tmp_path: Path
) -> None:
    """Resumed with more plans to fine-tune: never a result beside another's network."""
    folder, other = tmp_path / "run", {"top": 3}
    search.run(folder)
    shutil.copytree(folder, tmp_path / "before")
    search.run(tmp_path / "whole", **other)
    assert read_result(tmp_path / "whole")["plan"] != read_result(folder)["plan"]
    kill, seen = 0, set()
    while killed(search, folder, kill, **other):
        kill += 2
        seen.add((folder / "result.json").exists())
        look(search, folder)
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
    assert (kill > 10, seen) == (True, {True, False})
    assert search.outcome(folder) == search.outcome(tmp_path / "whole")


def test_a_finished_run_is_whole_while_it_is_resumed(search: Search, tmp_path: Path) -> None:
    """Though its network was repaired, and is not of the search's best plan."""
    folder = tmp_path / "run"
    search.run(folder)
    smallest = search.evaluator.space.smallest_counts()
    tuned = search.evaluator.finetune(smallest, seed=1)
    write_network(tuned, folder)  # as a repair would have left it
    before = (folder / "plan.json").read_bytes()
    seen = []

    def evaluate(*_: Any) -> None:
        seen.append((folder / "plan.json").read_bytes())
        load_network(folder, search.workload)

    found = search_in_folder(
        make_agent("random"), search.evaluator, search.judge, search.settings, folder,
        on_candidate=evaluate,
    )  # fmt: skip
    assert found.best.evaluation.counts != smallest
    assert seen == [before] * 3
    assert (folder / "plan.json").read_bytes() == before


@pytest.mark.parametrize("repair", [False, True])
def test_the_network_is_kept_when_it_cannot_be_measured(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repair: bool
) -> None:
    """And is not made again: resumed, it is measured, whatever was scored and repaired before."""
    folder = tmp_path / "run"

    def without_memory(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    search = copy.copy(search)
    tight = 0.05 if repair else 0.4  # that no network of the three plans keeps
    search.judge = replace(search.judge, target=tight)
    asked = {"repair": repair, "goal": Goal(target=tight), "top": 2}
    with monkeypatch.context() as patch:
        patch.setattr("spear_gym.agents.pipeline.measure", without_memory)
        message = f"the fine-tuned network is kept in '{folder}', but .* can't allocate memory"
        with pytest.raises(RunError, match=message):
            search.run(folder, **asked)
    assert not (folder / "result.json").exists()
    kept = load_network(folder, search.workload)
    with monkeypatch.context() as patch:
        patch.setattr(PlanEvaluator, "finetune", lambda *_, **__: pytest.fail("made again"))
        search.run(folder, **asked)
    again = load_network(folder, search.workload)
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    search.run(tmp_path / "whole", **asked)
    assert search.outcome(folder) == search.outcome(tmp_path / "whole")
    assert bool(read_result(folder)["repairs"]) == repair
    assert {path.name for path in folder.iterdir()} == FILES


@pytest.mark.parametrize("name", ["delivery.json", "plan.json", "network.json"])
def test_a_network_that_was_changed_is_made_again(
    search: Search, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    search.run(folder)
    expected = search.outcome(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    search.run(folder)
    assert search.outcome(folder) == expected


def test_a_fine_tune_that_ended_is_not_repeated(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second plan's fine-tune, the first plan's is there still."""
    asked = replace(search.settings, top=2)
    seen: list[tuple[int, int]] = []

    def stop(number: int, done: int, *_: Any) -> None:
        seen.append((number, done))
        if number == 1:
            raise KeyboardInterrupt

    with claimed(tmp_path / "run"):
        rest = (search.evaluator, search.judge, asked)
        found = search_in_folder(make_agent("random"), *rest, tmp_path / "run")
        with pytest.raises(KeyboardInterrupt):
            finish(*rest, found, tmp_path / "run", on_batch=stop)
        assert len(list((tmp_path / "run").glob("finetune-*.safetensors"))) == 1
        before, seen[:] = [*seen], []
        finish(*rest, found, tmp_path / "run", on_batch=lambda *now: seen.append(now[:2]))
    assert {number for number, _ in before} == {0, 1}
    assert {number for number, _ in seen} == {1}
    search.run(tmp_path / "whole", top=2)
    assert search.outcome(tmp_path / "run") == search.outcome(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
