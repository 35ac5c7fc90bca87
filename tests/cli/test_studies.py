"""`spear score-study`."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Spear, read
from searches import ENDED


@pytest.mark.slow
def test_score_study(spear: Spear, tmp_path: Path) -> None:
    ran = spear(
        "score-study", "toys:toy", "--plans", "4", "--fraction", "0.4", "--workers", "1",
        "--out", tmp_path,
    )  # fmt: skip
    assert ran.code in ENDED, ran.err
    study = read(tmp_path / "toys-toy.json")
    assert (tmp_path / "toys-toy.png").read_bytes()[:4] == b"\x89PNG"
    assert {row["scoring"] for row in study["validity"]} == {"plain", "recalibrated", "refit"}
    assert all(-1 <= row["low"] <= row["spearman"] <= row["high"] <= 1 for row in study["validity"])
    near = [p for p in study["plans"] if p["group"] == "fixed" and p["scoring"] == "recalibrated"]
    assert len(near) == 4
    assert all(abs(p["synops_fraction"] / 0.4 - 1) <= 0.1 for p in near)
