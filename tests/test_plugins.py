"""What a user gives by its path: whose error it is, where, and what is kept."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from commands import Spear, assert_one_clear_error, ledger_rows, read

from spear_gym.agents import AgentError, AgentFailed, make_agent, run_search
from spear_gym.agents.base import SearchSession
from spear_gym.boundary.plugins import PluginError, import_path
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Candidate, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.workload import Workload

PLUGINS = """
import sys

class NoName:
    def search(self, session, seed): pass

class NoSearch:
    name = "quiet"

class Needs:
    name = "needs"
    def __init__(self, width): self.width = width / 2
    def search(self, session, seed): session.submit([self.width])

class NameRaises(NoName):
    @property
    def name(self): raise LookupError("no name today")

class Fails:
    name = "fails"
    def search(self, session, seed):
        session.submit([0.3] * len(session.evaluator.space))
        raise LookupError("nothing found")

class FailsAtOnce(Fails):
    def search(self, session, seed): raise LookupError()

class Exits(Fails):
    def search(self, session, seed): sys.exit(4)

class Recurses(Fails):
    def search(self, session, seed): self.search(session, seed)

class WrongNumber(Fails):
    def search(self, session, seed): session.submit([0.3])

class Text(Fails):
    def search(self, session, seed): session.submit("abc")

class Nan(Fails):
    def search(self, session, seed): session.submit([float("nan")] * 3)

class NoPlan(Fails):
    def search(self, session, seed): session.evaluate((99, 1, 1))

class Idle(Fails):
    def search(self, session, seed): pass

class StepsTooFar(Fails):
    def search(self, session, seed):
        env = session.make_env()
        env.reset()
        env.step("much")

def raises(): raise LookupError("no data here\\n  and no more")
def exits(): sys.exit("ended")
def recurses(): return recurses()
def gives_nothing(): pass
def wants(width): return width
def divides(): return 1 / 0
def opens(): return open("nowhere.txt")
def sized(): raise MemoryError()
class Class: pass
VALUE = 3
"""
MODULES = {
    "bad_plugins": PLUGINS,
    "bad_syntax": "def f(:\n",
    "bad_raises": "x = {}['missing']\n",
    "bad_exits": "raise SystemExit(3)\n",
    "bad_needs": "import no_such_library\n",
    "bad_relative": "from . import nothing\n",
    "bad_name": "from json import nothing_there\n",
    "bad_bytes": "\x00",
    "bad_loop": "import bad_loop\nbad_loop.f\n",
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the modules in it; what is imported there is forgotten."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line_of(text: str) -> int:
    """Number of the line of the plugins that holds a text."""
    lines = PLUGINS.splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


PATHS = [
    ("bad_plugins", "must have the form module:attribute"),
    (":f", "must have the form module:attribute"),
    ("bad_plugins:", "must have the form module:attribute"),
    (":", "must have the form module:attribute"),
    ("./bad_plugins:raises", "is no name of a module"),
    ("bad_plugins.py:raises", "no module 'bad_plugins.py'"),
    ("/tmp/bad_plugins.py:raises", "is no name of a module"),
    (".bad_plugins:raises", "is no name of a module"),
    ("..:raises", "is no name of a module"),
    ("bad-plugins:raises", "is no name of a module"),
    ("bad plugins:raises", "is no name of a module"),
    ("\x00:raises", "is no name of a module"),
    ("no_such_module:f", "there is no module 'no_such_module' in the working folder"),
    ("no_such.module:f", "there is no module 'no_such' in the working folder"),
    ("package.module:f", "there is no module 'package.module'"),
    ("package:f", "module 'package' has no attribute 'f'"),
    ("bad_plugins:rises", "has no attribute 'rises'; did you mean 'raises'"),
    ("bad_plugins:Class.method", "has no attribute 'Class.method'"),
    ("bad_syntax:f", "SyntaxError: .* (bad_syntax.py, line 1)"),
    ("bad_raises:f", "KeyError: 'missing' (bad_raises.py, line 1, in <module>)"),
    ("bad_exits:f", "SystemExit: 3 (bad_exits.py, line 1, in <module>)"),
    ("bad_needs:f", "No module named 'no_such_library' (bad_needs.py, line 1, in <module>)"),
    ("bad_relative:f", "ImportError: .* (bad_relative.py, line 1, in <module>)"),
    ("bad_name:f", "ImportError: .* (bad_name.py, line 1, in <module>)"),
    ("bad_bytes:f", "null bytes"),
    ("bad_loop:f", "AttributeError: .* (bad_loop.py, line 2, in <module>)"),
]


def matches(said: str, text: str) -> bool:
    """Whether a message holds a text, in which ``.*`` stands for anything."""
    return re.search(".*".join(map(re.escape, said.split(".*"))), text) is not None


@pytest.mark.parametrize(("path", "said"), PATHS, ids=lambda value: value)
@pytest.mark.parametrize("what", ["workload", "agent"])
def test_paths(spear: Spear, inside: Path, what: str, path: str, said: str) -> None:
    with pytest.raises(PluginError) as refused:
        import_path(path)
    assert matches(said, str(refused.value)), refused.value
    if ":" in path:
        ran = spear("search", f"--{what}", path, "--lre", "none", "--target", "0.5")
        assert_one_clear_error(ran, f"cannot import the {what} '")
        assert matches(said, ran.err)
    assert not (inside / "runs").exists()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "LookupError: no data here and no more (bad_plugins.py, line {}, in raises)"),
        ("exits", "SystemExit: ended (bad_plugins.py, line {}, in exits)"),
        ("recurses", "RecursionError: maximum recursion depth"),
        ("divides", "ZeroDivisionError: division by zero (bad_plugins.py, line {}, in divides)"),
        ("opens", "FileNotFoundError: "),
        ("sized", "MemoryError (bad_plugins.py, line {}, in sized)"),
        ("wants", "TypeError: wants() missing 1 required positional argument: 'width'"),
        ("gives_nothing", "gives a NoneType, not a Workload"),
        ("Class", "gives a Class, not a Workload"),
        ("VALUE", "is no function that returns a Workload"),
    ],
)
def test_functions_that_give_no_workload(
    spear: Spear, inside: Path, function: str, said: str
) -> None:
    ran = spear("search", "--workload", f"bad_plugins:{function}", "--lre", "none")
    assert_one_clear_error(ran, f"bad_plugins:{function}")
    line = line_of(f"def {function}(") if "{}" in said else 0
    assert said.format(line) in ran.err


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("NoName", "gives a NoName, which is no agent: it needs a `name`"),
        ("NoSearch", "and a method `search(session, seed)`"),
        ("Needs", "cannot be made with no settings: it raised TypeError: Needs.__init__()"),
        ("NameRaises", "LookupError: no name today (bad_plugins.py, line {}, in name)"),
        ("raises", "LookupError: no data here"),
        ("exits", "SystemExit: ended"),
        ("gives_nothing", "gives a NoneType, which is no agent"),
        ("VALUE", "is no class or function that gives an agent"),
    ],
)
def test_factories_that_give_no_agent(inside: Path, agent: str, said: str) -> None:
    with pytest.raises(AgentError) as refused:
        make_agent(f"bad_plugins:{agent}")
    assert said.format(line_of("no name today")) in str(refused.value)


def test_settings_of_a_users_agent(inside: Path) -> None:
    with pytest.raises(AgentError, match=r"the settings {'width': 'x'}: .* in __init__"):
        make_agent("bad_plugins:Needs", {"width": "x"})
    with pytest.raises(AgentError, match=r"the settings {'depth': 3}: .*argument 'depth'"):
        make_agent("bad_plugins:Needs", {"depth": 3})


@pytest.mark.parametrize(
    ("agent", "paid", "said"),
    [
        ("Fails", 1, "LookupError: nothing found (bad_plugins.py, line {}, in search)"),
        ("FailsAtOnce", 0, "LookupError (bad_plugins.py, line "),
        ("Exits", 0, "SystemExit: 4 (bad_plugins.py, line "),
        ("Recurses", 0, "RecursionError: "),
        ("WrongNumber", 0, "PlanError: 1 ratios given; the network has 3 groups (bad_plugins.py"),
        ("Text", 0, "ValueError: could not convert string to float: 'abc' (bad_plugins.py"),
        ("Nan", 0, "PlanError: ratios must be finite numbers"),
        ("StepsTooFar", 0, "(bad_plugins.py, line "),
    ],
)
def test_agents_that_fail(
    spear: Spear, inside: Path, tiny: Workload, agent: str, paid: int, said: str
) -> None:
    evaluator = PlanEvaluator(tiny)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    with pytest.raises(AgentFailed) as failed:
        run_search(make_agent(f"bad_plugins:{agent}"), evaluator, judge, budget=5)
    assert f"failed after {paid} evaluation" in str(failed.value)
    assert said.format(line_of('LookupError("nothing')) in str(failed.value)
    assert (failed.value.found.paid if failed.value.found else 0) == paid


def test_what_a_failed_search_found_is_kept(spear: Spear, inside: Path) -> None:
    arguments = ("--workload", "toys:tiny", "--lre", "none", "--target", "0.5", "--out", "run")
    ran = spear("search", "--agent", "bad_plugins:Fails", *arguments)
    assert_one_clear_error(ran, "LookupError: nothing found", "run/plan.json", "--resume")
    (row,) = ledger_rows(inside / "run")
    plan = read(inside / "run" / "plan.json")
    assert [len(group["kept"]) for group in plan["groups"]] == row["counts"]
    again = spear("search", "--agent", "bad_plugins:Fails", *arguments, "--resume")
    assert_one_clear_error(again, "LookupError: nothing found")
    assert ledger_rows(inside / "run") == [row]


def test_agents_that_ask_for_no_plan(spear: Spear, inside: Path) -> None:
    for agent, said in [
        ("NoPlan", "(99, 1, 1) is no plan: it must keep from 1 to (6, 8, 8) channels"),
        ("Idle", "ended without evaluating a plan"),
    ]:
        ran = spear("search", "--workload", "toys:tiny", "--lre", "none", "--target", "0.5",
                    "--agent", f"bad_plugins:{agent}", "--out", agent)  # fmt: skip
        assert_one_clear_error(ran, said)


def test_errors_that_are_not_the_agents(tiny: Workload) -> None:
    """A full disk, say, is no fault of who searches."""

    def full(_: SearchSession, __: Candidate) -> None:
        raise OSError(28, "No space left on device")

    evaluator = PlanEvaluator(tiny)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    with pytest.raises(OSError, match="No space left"):
        run_search(make_agent("random"), evaluator, judge, budget=5, on_candidate=full)


def test_libraries_that_fail(toy: Workload) -> None:
    """A policy that became NaN is told with the agent's name, and what was found is kept."""
    evaluator = PlanEvaluator(toy)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    settings = {"learning_starts": 4, "batch_size": 8, "buffer_size": 100, "learning_rate": 1}
    agent = make_agent("sac-default", settings)
    with pytest.raises(
        AgentFailed, match=r"'sac-default' failed after .*(Value|Action)Error"
    ) as failed:
        run_search(agent, evaluator, judge, budget=20)
    assert failed.value.found is not None
    assert 0 < failed.value.found.paid < 20


def test_bugs_of_ours_show_their_traceback(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("spear_gym.agents.make_agent", broken)
    ran = spear("search", "--out", tmp_path / "run")
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert "this is a bug of spear-gym: KeyError; please report it" in ran.err
