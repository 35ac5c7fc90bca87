"""Output files that exist: ours are written again, anybody else's are left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from commands import Spear, assert_one_error, runner
from safetensors.torch import save_file

from spear_gym.boundary.files import write_tensors
from spear_gym.cli.outputs import is_report, is_weights, with_format
from spear_gym.lre import fit_line
from spear_gym.lre.estimators import LRE_FORMAT
from spear_gym.report import page
from spear_gym.report.page import Page, Section, write_page

COMPARE = ("compare", "--agents", "random", "--workload", "toys:toy", "--out", "{}")
SENSITIVITY = ("sensitivity", "--workload", "toys:toy", "--out", "{}")
TUNE = ("tune", "a2c", "--workload", "toys:toy", "--out", "{}")
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "lre": (("lre", "toys:toy", "--out", "{}/mine"), "mine"),
    "pretrain": (("pretrain", "digits", "--out", "{}/mine"), "mine"),
    "score-study": (("score-study", "toys:toy", "--out", "{}"), "toys-toy.json"),
    "score-study picture": (("score-study", "toys:toy", "--out", "{}"), "toys-toy.png"),
    "spread-study": (("spread-study", "toys:toy", "--out", "{}"), "toys-toy.json"),
    "lre-study": (("lre-study", "toys:toy", "--out", "{}"), "report.md"),
    "lre-study samples": (("lre-study", "toys:toy", "--out", "{}"), "toy.json.gz"),
    "lre-study page": (("lre-study", "toys:toy", "--out", "{}"), "report.html"),
    "compare": (COMPARE, "cells.csv"),
    "compare page": (COMPARE, "report.html"),
    "sensitivity": (SENSITIVITY, "study.csv"),
    "sensitivity page": (SENSITIVITY, "report.md"),
    "tune": (TUNE, "a2c.yml"),
    "tune record": (TUNE, "a2c.tuning.json"),
}
CONTENTS = (b"", b"years of work", b'{"format": "another", "workload": "mine"}', b"\x00\xff" * 99)


@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_others_are_left_alone(spear: Spear, tmp_path: Path, name: str) -> None:
    command, target = COMMANDS[name]
    for content in CONTENTS:
        (tmp_path / target).write_bytes(content)
        ran = spear(*(part.format(tmp_path) for part in command))
        assert_one_error(ran, f"'{tmp_path / target}' exists and is not what this command writes")
        assert [path.name for path in tmp_path.iterdir()] == [target]
        assert (tmp_path / target).read_bytes() == content


@pytest.mark.parametrize("name", ["lre", "pretrain", "compare"])
def test_links_are_no_way_around(spear: Spear, tmp_path: Path, name: str) -> None:
    command, target = COMMANDS[name]
    (tmp_path / target).symlink_to(tmp_path / "elsewhere")
    ran = spear(*(part.format(tmp_path) for part in command))
    assert_one_error(ran, "exists and is not what this command writes")
    assert (tmp_path / target).is_symlink()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of one cell."""
    folder = tmp_path_factory.mktemp("comparison")
    run = (*COMPARE[:-1], folder, "--lre", "none", "--targets", "0.4", "--budget", 2)
    with pytest.MonkeyPatch.context() as patch:
        ran = runner(patch)(*run, "--seeds", 1, "--workers", 1)
    assert ran.code == 0, ran
    return folder


def test_reports_of_ours_are_written_again(spear: Spear, archive: Path) -> None:
    before = (archive / "report.md").read_bytes()
    assert is_report(archive / "report.html")
    (archive / "report.md").write_bytes(b"of an earlier version")
    assert spear("report", archive).code == 0
    assert (archive / "report.md").read_bytes() == before


@pytest.mark.parametrize("name", ["report.md", "report.html", "cells.csv", "figures"])
def test_a_report_replaces_nothing_beside_an_archive(
    spear: Spear, archive: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "mine.gz").write_bytes((archive / "comparison.json.gz").read_bytes())
    if name == "figures":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"mine")
    ran = spear("report", tmp_path / "mine.gz")
    assert_one_error(ran, f"'{tmp_path / name}' exists and is not what this command writes")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.gz", name}


def test_the_page_of_a_report_is_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(page, "write_text", lambda path, _: names.append(path.name))
    write_page(Page("A title", [Section("Of nothing")]), tmp_path)
    assert names == ["report.html", "report.md"]


def test_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fit: Any = fit_line(toys.on_line(1.0, 0.0, (0.2, 0.4, 0.9)), {}).to_json()
    for content, ours in ((fit, True), (fit | {"format": "other"}, False), ([fit], False)):
        path.write_text(json.dumps(content), encoding="utf-8")
        assert with_format(LRE_FORMAT)(path) is ours
    weights = {"a": torch.ones(2)}
    save_file(weights, path)
    assert not is_weights(path)
    write_tensors(path, weights, {"made by": "spear pretrain"})
    assert is_weights(path)
    path.write_bytes(b"\xff" * 8 + b"{}")
    assert not is_weights(path)
