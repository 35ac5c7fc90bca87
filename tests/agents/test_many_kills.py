"""A few of the kills of `tests/kills.py`, which does two hundred."""

from __future__ import annotations

from pathlib import Path

import kills
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
]


def test_a_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kills.warm(tmp_path):
        killer = kills.Killer(tmp_path)
        killer.at_moments(kills.search("a2c"), 1)
        killer.at_writes(kills.search("random"), [2, 30])
        killer.owners(kills.search("random"), 3)
    assert killer.totals.kills >= 3
    assert killer.totals.clean, (str(killer.totals), capsys.readouterr().out)
