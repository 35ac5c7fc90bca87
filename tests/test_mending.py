"""Damaged ledgers: what is whole is kept, what is not is named, and nothing is lost on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ledger import IDENTITY, JUDGE

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.ledger import Failure, Ledger
from spear_gym.mending import examine, repair
from spear_gym.storage import LedgerError
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
