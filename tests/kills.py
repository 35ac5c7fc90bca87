"""Kills commands at random moments and at every write, and counts what that costs.

    .venv/bin/python tests/kills.py                      # 200 kills, about 20 minutes
    .venv/bin/python tests/kills.py --kills 12 --seed 3  # a look
    .venv/bin/python tests/kills.py --only compare --kills 20

Every agent's search, `compare`, `sensitivity`, `lre`, `lre-study` and `tune`, on a workload of a
second. A command is killed (KILL, and at times TERM, INT, HUP), begun again, killed again, until it
ends; one search is killed at each of its writes. Each time it is asked:

- *lost*: rows that stood on disk when it was killed and are gone or changed in the end, and ends
  that differ from those of a command that nobody killed;
- *paid twice*: plans with two rows, and rows that were measured anew;
- *left over*: processes that outlive their command, and files that an undisturbed one has not.

At the end two and three processes are started on one folder at once: one may own it, the others are
told who does; then the owner is killed, and the next one follows it. The last line has the totals;
the exit status is 1 unless they are all 0. Not part of the tests, which do a few of them
(`tests/agents/test_many_kills.py`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "helpers"))

import toys
from commands import ledger_rows
from small_agents import SETTINGS

from spear_gym.agents import AGENTS
from spear_gym.cli import main as spear
from spear_gym.workers.leash import GRACE

BUDGET = 16
WORKERS = ("--workers", "2")
TINY = ("--workload", "toys:tiny", "--lre", "none", "--targets", "0.4")
FREE = {
    "seconds",
    "finetune_seconds",
    "ways",
    "search_seconds",
    "evaluation_seconds",
    "simulator_runs",
    "statistics",
    "sha256",
}
"""Figures that differ from run to run: times, and what a process remembers."""

WAYS = (signal.SIGKILL,) * 5 + (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHANGES = ("os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Rows = dict[str, list[Any]]
"""What was paid for, in order, by the file that it stands in."""


@dataclass(frozen=True)
class Command:
    """A command that can be begun again.

    Attributes:
        name: for people.
        arguments: all but its folder.
        out: what follows ``--out``, below the folder.
        resumes: whether a second one says ``--resume``.
        exact: whether one that was killed ends with the digits of one that was not.
    """

    name: str
    arguments: tuple[str, ...]
    out: str = ""
    resumes: bool = False
    exact: bool = True

    def line(self, folder: Path) -> list[str]:
        """Its arguments, for a folder that is new or has been begun."""
        more = ["--resume"] if self.resumes and folder.exists() else []
        return [*self.arguments, "--out", str(folder / self.out), *more]


def search(agent: str, *more: str) -> Command:
    """A search by an agent."""
    settings = [f"--agent-setting={k}={v}" for k, v in SETTINGS.get(agent, {}).items()]
    asked = (*TINY[:4], "--target", "0.4", "--agent", agent, "--budget", str(BUDGET))
    return Command(f"search {agent}", ("search", *asked, *settings, *more), resumes=True)


OTHERS = (
    Command(
        "compare",
        ("compare", *TINY, "--agents", "random,cma-es,ars-default", "--seeds", "2",
         "--budget", "20", *WORKERS),
    ),
    Command(
        "sensitivity",
        ("sensitivity", *TINY, "--agent", "random", "--seeds", "2", "--budget", "8",
         "--lambdas", "10", *WORKERS),
    ),
    Command(
        "lre",
        ("lre", "toys:tiny", "--samples", "12", "--held-out", "4", "--tolerance", "0",
         "--confidence", "off", *WORKERS),
        out="fit.json",
    ),
    Command(
        "lre-study",
        ("lre-study", "toys:tiny", "--samples", "5", "--length-samples", "5", "--held-out", "5",
         "--lengths", "2", *WORKERS),
    ),
    Command(
        "tune",
        ("tune", "a2c", *TINY, "--trials", "4", "--seeds", "1", "--budget", "12"),
        exact=False,  # its sampler is seeded by the trials so far
    ),
    Command(
        "search --targets",
        ("search", *TINY[:4], "--targets", "0.5,0.4", "--agent", "tpe", "--budget", "8"),
        resumes=True,
    ),
)  # fmt: skip


@dataclass
class Totals:
    """What was counted."""

    kills: int = 0
    lost: int = 0
    twice: int = 0
    left: int = 0
    wrong: int = 0
    by_signal: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        signals = ", ".join(f"{count} {name}" for name, count in self.by_signal.most_common())
        return (
            f"{self.kills} kills ({signals}): {self.lost} lost, {self.twice} paid twice, "
            f"{self.left} left over, {self.wrong} wrong ends"
        )

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.twice or self.left or self.wrong)


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# Processes.


class Running:
    """A command in a child of this process, which has its libraries already.

    Args:
        line: the command's arguments.
        folder: below which its writes are counted.
        die_at: the write just before which it kills itself.
    """

    def __init__(self, line: Sequence[str], folder: Path, die_at: int | None = None) -> None:
        self.said = Path(tempfile.mkstemp(prefix="said-", dir=folder.parent)[1])
        self.line, self._folder, self._die_at = line, folder, die_at
        self.began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be()

    def _be(self) -> None:
        status = 70
        try:
            os.setsid()  # by which its workers are found
            handle = os.open(self.said, os.O_WRONLY | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(handle, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Spawned workers import the main module again.
            sys.argv = ["spear", *self.line]
            watch(self._folder, self._die_at)
            try:
                spear()
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for child in multiprocessing.active_children():
                child.join(10)
            os._exit(status)

    def ended(self) -> bool:
        """Whether it has come to an end by now."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, seconds: float = 300) -> int:
        """Its exit status, negative for a signal; one that hangs is killed and told as such."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                say(f"  hangs: spear {shlex.join(self.line)}")
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill_after(self, seconds: float, way: signal.Signals) -> bool:
        """Kills it at a moment; whether it had not come to an end."""
        while not self.ended():
            if time.monotonic() >= self.began + seconds:
                os.kill(self.pid, way)
                return True
            time.sleep(0.001)
        return False

    def outlived_by(self) -> list[int]:
        """Its processes that still live when their grace is over.

        Workers look at their parent once they have imported their libraries, which takes as long
        as the machine is busy.
        """
        deadline = time.monotonic() + GRACE + 60
        while (found := of_session(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found


def of_session(number: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[3]) == number:
            found.append(int(folder.name))
    return found


def watch(folder: Path, die_at: int | None) -> None:
    """Counts this process's changes below a folder, just before they are made, in a file beside it.

    The process kills itself before the one of that number.
    """
    if die_at is None:
        return
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not (event in CHANGES or (event == "open" and arguments[2] & WRITING)):
            return
        paths = [os.fsdecode(p) for p in arguments[:2] if isinstance(p, (str, bytes, os.PathLike))]
        if any(path.startswith(str(folder)) for path in paths):
            count += 1
            if count > die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


# What stands in a folder.


def paid(folder: Path) -> Rows:
    """Everything that was paid for and is on disk."""
    found: Rows = {}
    for path in sorted(folder.rglob("ledger.log")):
        found[str(path.relative_to(folder))] = ledger_rows(path.parent)
    for path in sorted(folder.rglob("*.samples.json")):
        if not path.name.startswith("."):
            found[str(path.relative_to(folder))] = json.loads(path.read_text())["samples"]
    if (folder / "trials.log").exists():
        found["trials.log"] = trials(folder / "trials.log")
    return found


def trials(path: Path) -> list[Any]:
    """Values of a tuning's trials that are whole, by number: state 1 in Optuna's journal."""
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and row.get("state") == 1 and row.get("values"):
            rows.append({"trial": row["trial_id"], "values": row["values"]})
    return rows


def key(row: Any) -> str:
    """What may be paid for once."""
    return json.dumps([row.get(name) for name in ("counts", "seed", "trial")])


def untimed(found: Any) -> Any:
    """Without the figures that are free."""
    if isinstance(found, dict):
        return {name: untimed(value) for name, value in found.items() if name not in FREE}
    return [untimed(value) for value in found] if isinstance(found, list) else found


def outcome(folder: Path) -> dict[str, Any]:
    """All digits in a folder that must not depend on kills, by file."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = untimed(json.loads(path.read_text()))
        elif path.name.endswith(".json.gz"):
            found[name] = untimed(json.loads(gzip.decompress(path.read_bytes())))
        elif path.suffix == ".safetensors":
            found[name] = path.read_bytes()
    for name, rows in paid(folder).items():
        # Workers end in any order.
        found[name] = sorted(map(json.dumps, untimed(rows)))
    return found


def files(folder: Path) -> set[str]:
    """Names of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Kills.


class Killer:
    """Kills commands and counts.

    Args:
        top: an empty folder.
        seed: of all that is random.
    """

    def __init__(self, top: Path, seed: int = 0) -> None:
        self.top, self.chance, self.totals = top, random.Random(seed), Totals()
        self._whole: dict[str, tuple[dict[str, Any], set[str], float]] = {}
        self._number = 0

    def whole(self, command: Command) -> tuple[dict[str, Any], set[str], float]:
        """What a command that nobody kills leaves: digits, files, and its seconds."""
        if command.name not in self._whole:
            folder = self._new()
            running = Running(command.line(folder), folder)
            status = running.wait()
            seconds = time.monotonic() - running.began
            assert status in (0, 3), (status, running.said.read_text())
            self._whole[command.name] = (outcome(folder), files(folder), seconds)
            shutil.rmtree(folder)
        return self._whole[command.name]

    def at_moments(self, command: Command, kills: int) -> None:
        """Kills a command again and again at random moments."""
        _, _, seconds = self.whole(command)
        folder, done, before = self._new(), 0, Rows()
        while done < kills:
            running = Running(command.line(folder), folder)
            way = self.chance.choice(WAYS)
            sent = running.kill_after(self.chance.uniform(0.0, 0.7) * seconds, way)
            killed = self._ended(command, running, way if sent else None)
            done += killed
            before = self._compared(command, before, folder)
            if not killed and done < kills:
                self._finished(command, folder, before)
                folder, before = self._new(), Rows()
        self._finished(command, folder, before)

    def at_writes(self, command: Command, kills: Sequence[int] | None = None) -> int:
        """Kills a command just before its n-th write, each in a new folder; how often."""
        self.whole(command)
        count = 0
        for number in kills if kills is not None else iter(int, 1):
            die_at = count if kills is None else number
            folder = self._new()
            running = Running(command.line(folder), folder, die_at)
            if running.wait() != -signal.SIGKILL:
                shutil.rmtree(folder)  # it has fewer writes
                if kills is None:
                    break
                continue
            self._counted(signal.SIGKILL)
            count += 1
            self._finished(command, folder, self._compared(command, {}, folder))
        return count

    def owners(self, command: Command, number: int) -> None:
        """Starts so many processes on one folder at once; the owner is killed, another follows."""
        _, _, seconds = self.whole(command)
        folder = self._new()
        first = Running(command.line(folder), folder)
        while not (folder / "owner.json").exists() and not first.ended():
            time.sleep(0.005)
        others = [Running(command.line(folder), folder) for _ in range(number - 1)]
        for other in others:
            status = other.wait()
            told = f"belongs to process {first.pid} on"
            self._wrong(status != 2 or told not in other.said.read_text(), other, "was not told")
        time.sleep(self.chance.uniform(0, 0.3) * seconds)
        sent = first.kill_after(0, signal.SIGKILL)
        self._ended(command, first, signal.SIGKILL if sent else None)
        before = self._compared(command, {}, folder)
        # All at once on what is left: one takes over, the others are told or come too late.
        again = [Running(command.line(folder), folder) for _ in range(number)]
        ends = [running.wait() for running in again]
        self._wrong(not {0, 3} & set(ends), again[0], f"nobody followed ({ends})")
        for status, running in zip(ends, again, strict=True):
            text = running.said.read_text()
            told = status in (0, 3) or (status == 2 and "belongs to process" in text)
            self._wrong(not told, running, "was not told")
        self._finished(command, folder, before)

    def _new(self) -> Path:
        self._number += 1
        return self.top / f"run-{self._number}"

    def _counted(self, way: signal.Signals) -> None:
        self.totals.kills += 1
        self.totals.by_signal[way.name] += 1

    def _wrong(self, wrong: bool, running: Running, what: str) -> None:
        if wrong:
            self.totals.wrong += 1
            say(f"  {what}: spear {shlex.join(running.line)}\n{running.said.read_text()[-2000:]}")

    def _ended(self, command: Command, running: Running, way: signal.Signals | None) -> bool:
        """Waits for the end of a command that was sent a signal; whether it died of that."""
        status = running.wait()
        # 130: in order. Others: it had come to its end, or to no handler of Python's yet.
        died = way is not None and status in (-way, 130)
        if way is not None and died:
            self._counted(way)
        self._wrong(not died and status not in (0, 3), running, f"ended with {status}")
        left = running.outlived_by()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.totals.left += len(left)
        if left:
            say(f"  {len(left)} processes of {command.name} outlive it")
        return died

    def _compared(self, command: Command, before: Rows, folder: Path) -> Rows:
        """Looks for what was paid before, and returns what is paid now."""
        now = paid(folder) if folder.exists() else {}
        for name, rows in before.items():
            kept = {key(row): row for row in now.get(name, [])}
            for row in rows:
                if key(row) not in kept:
                    self.totals.lost += 1
                    say(f"  lost by {command.name}: {key(row)} of {name}")
                elif kept[key(row)] != row:
                    self.totals.twice += 1
                    say(f"  paid again by {command.name}: {key(row)} of {name}")
        for name, rows in now.items():
            doubled = len(rows) - len(set(map(key, rows)))
            self.totals.twice += doubled
            if doubled:
                say(f"  {doubled} rows of {command.name} are double in {name}")
        return now

    def _finished(self, command: Command, folder: Path, before: Rows) -> None:
        """Lets a command come to its end and compares it with one that nobody killed."""
        expected, names, _ = self.whole(command)
        running = Running(command.line(folder), folder)
        status = running.wait()
        self._wrong(status not in (0, 3), running, f"cannot go on ({status})")
        self._compared(command, before, folder)
        more = files(folder) - names
        self.totals.left += len(more)
        if more:
            say(f"  left by {command.name}: {sorted(more)}")
        found = outcome(folder)
        differing = [n for n in expected if found.get(n) != expected[n]] if command.exact else []
        missing = names - files(folder)
        self.totals.lost += len({*differing, *missing})
        if differing or missing:
            say(f"  other ends of {command.name} in {folder}: {differing}, missing {missing}")
        else:
            shutil.rmtree(folder)
        left = running.outlived_by()
        self.totals.left += len(left)


@contextmanager
def warm(top: Path) -> Iterator[None]:
    """With a workload trained and libraries imported, which the children take over."""
    import sb3_contrib  # noqa: F401

    import spear_gym.agents.compare.run
    import spear_gym.agents.sb3
    import spear_gym.studies.lre  # noqa: F401

    # A fit of one's own is neither read nor written.
    before = {name: os.environ.get(name) for name in ("SPEAR_GYM_HOME", "MPLBACKEND")}
    os.environ |= {"SPEAR_GYM_HOME": str(top / "home"), "MPLBACKEND": "Agg"}
    toys.tiny()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def plan(killer: Killer, kills: int, only: str) -> list[tuple[str, Callable[[], object]]]:
    """What is done, in order: a quarter of the kills at writes, the rest at random moments."""
    commands = [*map(search, AGENTS), *OTHERS]
    commands = [command for command in commands if only in command.name]
    shares = Counter(command.name for command in commands)
    if not only:  # workers are where most can go wrong
        shares.update({command.name: 1 for command in OTHERS if command.name != "sensitivity"})
    weight = sum(shares.values())
    given = {command.name: kills * shares[command.name] // weight for command in commands}
    for command in killer.chance.sample(commands, len(commands)):
        if sum(given.values()) < kills:
            given[command.name] += 1
    return [
        (f"{command.name}, {given[command.name]} times", partial(one, killer, command, given))
        for command in commands
        if given[command.name]
    ]


def one(killer: Killer, command: Command, given: dict[str, int]) -> None:
    """A command's share: for searches every other one at a write."""
    count = given[command.name]
    writes = count // 2 if command.name.startswith("search") else 0
    killer.at_moments(command, count - writes)
    killer.at_writes(command, [killer.chance.randrange(70) for _ in range(writes)])


def extra(killer: Killer, only: str) -> list[tuple[str, Callable[[], object]]]:
    """One search killed at every write; two and three owners."""
    jobs: list[tuple[str, Callable[[], object]]] = []
    if only in "search random":
        jobs.append(("search random, every write", lambda: killer.at_writes(search("random"))))
    for number in (2, 3):
        for command in (search("tpe"), OTHERS[0]):
            if only in command.name:
                owned = partial(killer.owners, command, number)
                jobs.append((f"{command.name}, {number} owners", owned))
    return jobs


def main() -> None:
    """Kills and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands with this in their name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name, warm(Path(name)):
        killer = Killer(Path(name), options.seed)
        for title, job in [
            *plan(killer, options.kills, options.only),
            *extra(killer, options.only),
        ]:
            say(f"{title} (so far: {killer.totals})")
            job()
        say(str(killer.totals))
    sys.exit(0 if killer.totals.clean else 1)


if __name__ == "__main__":
    main()
