"""The speed table is made once in its shortest form, so that the script stays runnable."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import speed


def test_short_tables() -> None:
    case = replace(speed.CASES[0], batches=(8,), repeats=1)
    rows = speed.evaluation_rows(case)
    assert [row[2] for row in rows] == [f"{ratio:g}" for ratio in speed.RATIOS]
    assert all(float(cell) > 0 for row in rows for cell in row[3:])
    assert float(speed.training_rows(case)[0][1]) > 0
