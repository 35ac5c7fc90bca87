"""`spear workloads` and `spear pretrain`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from commands import Spear, assert_one_error
from searches import ENDED

from spear_gym.envs_registry import ENTRIES
from spear_gym.training import Recipe


def test_lists_the_workloads(spear: Spear) -> None:
    ran = spear("workloads")
    assert ran.code in ENDED
    assert all(name in ran.out for name in ENTRIES)


def test_pretrain_is_exact(spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = dataclasses.replace(ENTRIES["digits"], pretrain=Recipe(epochs=1, batch_size=250))
    monkeypatch.setitem(ENTRIES, "digits", short)
    paths = [tmp_path / "one.safetensors", tmp_path / "deep" / "two.safetensors"]
    for path in paths:
        ran = spear("pretrain", "digits", "--out", path)
        assert ran.code in ENDED, ran.err
        assert "search accuracy" in ran.out
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert short.load(paths[0]).reference("search").synops > 0


def test_pretrain_mistakes(spear: Spear, tmp_path: Path) -> None:
    assert_one_error(spear("pretrain", "digit"), "unknown workload 'digit'; did you mean 'digits'")
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "weights.safetensors"
    assert_one_error(spear("pretrain", "digits", "--out", out), "cannot write")
    assert_one_error(spear("pretrain", "digits", "--out", tmp_path), "is a folder")
