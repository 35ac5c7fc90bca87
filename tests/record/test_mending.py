"""Damaged ledgers: what is whole is kept, what is not is named, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Spear, assert_one_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import IDENTITY, JUDGE

from spear_gym.boundary.ownership import Owner
from spear_gym.cli.ledger import DAMAGED
from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.record.ledger import Failure, Ledger, Replay
from spear_gym.record.mending import examine, repair, summaries
from spear_gym.record.storage import LedgerError
from spear_gym.workload import Workload

PLANS: tuple[Counts, ...] = ((3, 4, 5), (6, 8, 8), (1, 1, 1), (2, 2, 2), (4, 4, 4))


@pytest.fixture(scope="module")
def evaluator(tiny: Workload) -> PlanEvaluator:
    return PlanEvaluator(tiny)


class Content(bytes):
    """Bytes that Hypothesis need not print."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


@pytest.fixture(scope="module")
def whole(evaluator: PlanEvaluator, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A ledger of five plans and a failure."""
    path = tmp_path_factory.mktemp("whole") / "ledger.log"
    one = evaluator.evaluate(PLANS[0])
    with Ledger(path, "a search", evaluator.space, IDENTITY) as ledger:
        for number, counts in enumerate(PLANS):
            ledger.append(JUDGE(replace(one, counts=counts, accuracy=number / 8)))
            if number == 2:
                ledger.append_failure(Failure((5, 5), "memory", "full"))
    return Content(path.read_bytes())


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "ledger.log"
    path.write_bytes(whole)
    return path


def opened(path: Path, evaluator: PlanEvaluator) -> list[Counts]:
    with Ledger(path, "a search", evaluator.space, IDENTITY) as ledger:
        return [evaluation.counts for evaluation in ledger.evaluations()]


def plans_of(content: bytes) -> dict[bytes, Counts]:
    """The rows of plans, read without the package."""
    rows = {}
    for line in content.split(b"\n"):
        if b'"evaluation"' in line:
            rows[line] = tuple(json.loads(line)["user_attrs"]["evaluation"]["counts"])
    return rows


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


Edit = tuple[str, float, bytes]
edits = st.lists(
    st.tuples(
        st.sampled_from(["cut", "insert", "overwrite", "zero", "double", "drop", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.sampled_from([b"\n", b"\n\n\n", b"\0" * 600 + b"\n", b"{}\n", b"[" * 9000 + b"\n"]),
            st.sampled_from([b"0", b"1", b"2", b"7", b"9" * 5000, b'"', b"}", b"\xff"]),
        ),
    ),
    min_size=1,
    max_size=3,
)


def damage(content: bytes, edit: Edit) -> bytes:
    kind, place, given = edit
    at = int(place * len(content))
    rows = content.splitlines(keepends=True)
    row = int(place * len(rows))
    return {
        "cut": lambda: content[:at] + content[at + len(given) :],
        "insert": lambda: content[:at] + given + content[at:],
        "overwrite": lambda: content[:at] + given + content[at + len(given) :],
        "zero": lambda: content[:at] + bytes(len(given) * 20) + content[at + len(given) * 20 :],
        "double": lambda: b"".join([*rows[: row + 1], *rows[row : row + 1], *rows[row + 1 :]]),
        "drop": lambda: b"".join([*rows[:row], *rows[row + 1 :]]),
        "end": lambda: content[:at],
    }[kind]()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=edits)
def test_damaged_anywhere(
    evaluator: PlanEvaluator,
    whole: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[Edit],
) -> None:
    """It opens with every whole plan, or says one thing and stays; after a repair it opens."""
    content = bytes(whole)
    for change in changes:
        if content:
            content = damage(content, change)
    path = tmp_path_factory.mktemp("damaged") / "ledger.log"
    path.write_bytes(content)
    there = set(content.split(b"\n"))
    kept = {counts for line, counts in plans_of(whole).items() if line in there}
    found, said = tried(path, evaluator)
    if not said:
        assert kept <= set(found)
        assert len(set(found)) == len(found)
        return
    assert "\n" not in said
    assert path.read_bytes() in (content, content + b"\n")
    if "is no ledger" in said:
        assert not kept
        return
    examined, copy = repair(path)
    if copy:
        assert examined.faults
        assert Path(copy).read_bytes() in (content, content + b"\n")
        assert kept <= set(plans_of(path.read_bytes()).values())
        assert not examine(path).faults
    found, said = tried(path, evaluator)
    # One of the bytes may have said what the record belongs to.
    assert kept <= set(found) or "belongs to another search" in said, said


def tried(path: Path, evaluator: PlanEvaluator) -> tuple[list[Counts], str]:
    """The plans, or the error."""
    try:
        return opened(path, evaluator), ""
    except LedgerError as error:
        return [], str(error)


def at(number: int, text: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Puts a line in."""
    return lambda rows: [*rows[: number - 1], text, *rows[number - 1 :]]


def instead(number: int, change: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    return lambda rows: [*rows[: number - 1], change(rows[number - 1]), *rows[number:]]


KINDS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str, int]] = {
    "a blank line": (at(3, b"\n"), "line 3 .* is blank", 5),
    "a blank line first": (at(1, b"\n"), "line 1 .* is blank", 5),
    "blank lines at the end": (lambda rows: [*rows, b"\n" * 4], "line 12 .* is blank", 5),
    "spaces": (at(4, b"   \r\n"), "line 4 .* is blank", 5),
    "zero bytes": (at(7, bytes(512) + b"\n"), "line 7 .* holds 512 zero bytes", 5),
    "zero bytes at the end": (lambda rows: [*rows, bytes(9)], "line 12 .* 9 zero bytes", 5),
    "zeros and an end": (lambda rows: [*rows, bytes(9) + b"\n"], "line 12 .* 9 zero bytes", 5),
    "zeros before a row": (instead(7, lambda r: bytes(40) + r), "line 7 .* holds zero bytes", 5),
    "a torn row": (instead(7, lambda r: r[:300] + b"\n"), "line 7 .* is no row of JSON", 4),
    "a torn row, no end": (instead(7, lambda r: r[:300]), "line 7 .* is no row of JSON", 4),
    "a row's end": (instead(7, lambda r: r[300:]), "line 7 .* is no row of JSON", 4),
    "two rows on a line": (instead(7, lambda r: r[:-1]), "line 7 .* is no row of JSON", 5),
    "a row on two lines": (
        instead(7, lambda r: r[:300] + b"\n" + r[300:]),
        "line 7 .* is no row of JSON",
        5,
    ),
    "the first row torn": (instead(1, lambda r: r[:40] + b"\n"), "line 1 .* is no row of JSON", 5),
    "the first row lost": (instead(1, lambda r: b""), "line 1 .* belongs to study 0, which no", 5),
    "a doubled row": (instead(7, lambda r: r + r), "line 8 .* stands there twice: line 7", 5),
    "a doubled plan": (
        instead(7, lambda r: r + r.replace(b'"value":0.125', b'"value":0.126')),
        "line 8 .* records the plan of line 7 once more",
        5,
    ),
    "no UTF-8": (instead(7, lambda r: r.replace(b"conv1", b"conv\xff")), "line 7 .* no UTF-8", 4),
    "deep JSON": (at(7, b"[" * 90_000 + b"\n"), "line 7 .* nested too deeply", 5),
    "deep JSON in a row": (
        instead(
            7,
            lambda r: r.replace(b'"params":{', b'"a":' + b"[" * 500 + b"]" * 500 + b',"params":{'),
        ),
        "line 7 .* nested too deeply",
        4,
    ),
    "a huge number": (
        instead(7, lambda r: r.replace(b'"study_id":0', b'"study_id":' + b"9" * 9000)),
        "line 7 .* is no row of JSON",
        4,
    ),
    "a large number": (
        instead(7, lambda r: r.replace(b'"study_id":0', b'"study_id":99999')),
        "line 7 .* belongs to study 99999",
        4,
    ),
    "a negative number": (
        instead(7, lambda r: r.replace(b'"study_id":0', b'"study_id":-1')),
        "line 7 .* has no number as study_id",
        4,
    ),
    "another digit": (
        instead(
            7, lambda r: r.replace(b'"accuracy":0.125,"synops":', b'"accuracy":0.625,"synops":')
        ),
        "line 7 .*its checksum differs",
        4,
    ),
    "a plan of another network": (
        instead(7, lambda r: without_checksum(r).replace(b'"counts":[6,8,8]', b'"counts":[6,8]')),
        "line 7 .* (no measure for each decision|plan of another network)",
        4,
    ),
    "an accuracy above 1": (
        instead(7, lambda r: without_checksum(r).replace(b'"accuracy":0.125', b'"accuracy":1e99')),
        "line 7 .* outside of their range",
        4,
    ),
    "NaN": (
        instead(7, lambda r: without_checksum(r).replace(b'"accuracy":0.125', b'"accuracy":NaN')),
        "line 7 .* outside of their range",
        4,
    ),
    "a deletion": (
        instead(7, lambda r: r.replace(b'"op_code":4', b'"op_code":1')),
        "line 7 .* would delete a study",
        4,
    ),
    "an unknown state": (
        instead(7, lambda r: r.replace(b'"state":1', b'"state":77')),
        "line 7 .* cannot be applied",
        4,
    ),
    "notes": (at(8, b"dear diary\n"), "line 8 .* is no row of JSON", 5),
    "a list": (at(8, b"[1, 2]\n"), "line 8 .* is JSON, but no row", 5),
    "no operation": (at(8, b'{"op_code":true,"worker_id":"w"}\n'), "line 8 .* no operation", 5),
}


def without_checksum(row: bytes) -> bytes:
    return re.sub(rb',"checksum":"[0-9a-f]+"', b"", row)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_damage(path: Path, evaluator: PlanEvaluator, kind: str, spear: Spear) -> None:
    change, said, kept = KINDS[kind]
    path.write_bytes(b"".join(change(lines(path))))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"^{said}.*'spear ledger repair "):
        opened(path, evaluator)
    ran = spear("ledger", "check", path)
    assert ran.code == DAMAGED
    assert re.search(rf"^line {said.split()[1]}: it ", ran.out, re.MULTILINE), ran.out
    assert path.read_bytes() == before
    ran = spear("ledger", "repair", path)
    assert ran.code == 0
    assert f"{kept} plans, damaged: " in ran.out
    assert path.with_name("ledger.log.damaged-1").read_bytes() == before
    assert len(opened(path, evaluator)) == kept
    ran = spear("ledger", "check", path)
    assert (ran.code, ran.out) == (0, f"{path}: {kept} plans, whole\n")
    again = path.read_bytes()
    assert spear("ledger", "check", "--repair", path).code == 0
    assert path.read_bytes() == again
    assert len(list(path.parent.iterdir())) == 2


def test_show(path: Path, evaluator: PlanEvaluator, spear: Spear) -> None:
    with Ledger(path, "another [bold]\x1b[31m", evaluator.space, {"settings": {"seed": 1}}):
        pass
    before = path.read_bytes()
    ran = spear("ledger", "show", path)
    assert ran.code == 0
    assert "a search" in ran.out
    assert "another [bold]?[31m" in ran.out
    assert path.read_bytes() == before
    found = summaries(path)
    assert (found[0].plans, found[0].failures, found[0].lost) == (5, 1, 0)
    assert found[0].best is not None
    assert found[1][1:5] == (0, 0, 0, None)


def test_repair_while_a_search_writes(path: Path, spear: Spear) -> None:
    path.write_bytes(path.read_bytes() + b"\n")
    before = path.read_bytes()
    owner = path.with_name("ledger.log.0123abcd.owner")
    line = json.loads(Owner.current().dumps()) | {"pid": os.getppid(), "machine": "another"}
    owner.write_text(json.dumps(line))
    assert_one_error(spear("ledger", "repair", path), "belongs to process")
    assert path.read_bytes() == before
    owner.write_text(json.dumps(line | {"machine": Owner.current().machine, "started": "1"}))
    assert spear("ledger", "repair", path).code == 0
    assert not owner.exists()


def test_ledger_that_is_replaced_or_removed_meanwhile(path: Path, evaluator: PlanEvaluator) -> None:
    candidate = JUDGE(replace(evaluator.evaluate(PLANS[0]), counts=(5, 5, 5)))
    for change, said in (
        (lambda: path.unlink(), "was removed"),
        (lambda: path.rename(path.with_name("x")) and path.write_bytes(b""), "was replaced"),
        (lambda: path.write_bytes(b""), "was replaced"),
    ):
        whole = path.read_bytes()
        with Ledger(path, "a search", evaluator.space, IDENTITY) as ledger:
            change()
            with pytest.raises(LedgerError, match=said):
                ledger.append(candidate)
        path.write_bytes(whole)


def test_lost_plans_are_paid_for_again() -> None:
    """The order is open then; as many others as were lost."""
    replay = Replay([(1,), (3,), (4,)], lost=1)
    assert [replay.check((n,)) for n in (1, 2, 4, 3, 5)] == [True, False, True, True, False]
    replay = Replay([(1,), (3,)], lost=1)
    assert not replay.check((2,))
    with pytest.raises(LedgerError, match=r"diverged .* asks for plan \(5,\)"):
        replay.check((5,))
