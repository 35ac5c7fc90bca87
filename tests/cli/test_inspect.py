"""`spear inspect`: what is seen of a network before it is pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Spear, assert_one_error
from networks import GroupNet, enlivened

from spear_gym.pruning.plan import PlanSpace
from spear_gym.report.network_picture import network_png
from spear_gym.report.network_view import network_view
from spear_gym.workload import Workload, register_workload


@pytest.fixture(scope="module")
def grouped() -> Workload:
    torch.manual_seed(0)
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    made = Workload(
        model=enlivened(GroupNet(), 3), train=(x, y), search=(x, y), test=(x, y), num_steps=2,
        name="grouped-net",
    )  # fmt: skip
    register_workload("grouped-net", lambda: made)
    return made


def row(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(f"│ {name} "))


def test_tables(spear: Spear, grouped: Workload) -> None:
    ran = spear("inspect", "grouped-net")
    assert ran.code == 0, ran
    figures = grouped.reference("search")
    layer = figures.layer_synops["before"]
    assert f"{layer:,.0f}" in row(ran.out, "before")
    assert f"{layer / figures.synops:.1%}" in row(ran.out, "before")
    assert "8 x 8 x 8" in row(ran.out, "stem")
    assert f"{figures.layers[0].macs:,.0f}" in row(ran.out, "stem")
    for said in (
        "'depthwise' is depthwise on these channels",
        "what 'side' makes is added to them",
        "'grouped' reads them in 2 groups",
        "6, as many of each of 2 blocks",
        "the network's input",
        "the class outputs",
        f"accuracy {figures.accuracy:.4f}, {figures.synops:,.0f} SynOps",
    ):
        assert said in ran.out, said


def test_json(spear: Spear, grouped: Workload) -> None:
    ran = spear("inspect", "grouped-net", "--json")
    assert ran.code == 0, ran
    found = json.loads(ran.out)
    assert found == json.loads(json.dumps(network_view(grouped).to_json()))
    assert found["synops"] == grouped.reference("search").synops
    assert sum(each["synops"] or 0 for each in found["operations"]) == pytest.approx(
        found["synops"]
    )
    groups = {each["name"]: each for each in found["groups"]}
    assert list(groups) == [group.name for group in grouped.graph.groups]
    assert groups["stem"]["members"] == ["stem", "depthwise"]
    # The names are those that limits take.
    rankings = tuple(tuple(range(group.channels)) for group in grouped.graph.groups)
    PlanSpace(grouped.graph.groups, rankings, max_ratio=dict.fromkeys(groups, 0.5))


def test_a_picture_is_drawn_and_drawn_again(spear: Spear, tmp_path: Path) -> None:
    picture = tmp_path / "net.png"
    for _ in range(2):
        ran = spear("inspect", "grouped-net", "--png", picture)
        assert ran.code == 0, ran
        assert picture.read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "mine.png"
    other.write_bytes(b"\x89PNG mine")
    ran = spear("inspect", "grouped-net", "--png", other)
    assert_one_error(ran, "is not what this command writes")
    assert other.read_bytes() == b"\x89PNG mine"


def test_pictures_show_names_as_they_are(grouped: Workload, monkeypatch: Any) -> None:
    monkeypatch.setattr(grouped, "name", r"$\frac$ [/x]")
    assert network_png(network_view(grouped)).startswith(b"\x89PNG")


def test_an_unknown_network(spear: Spear) -> None:
    assert_one_error(spear("inspect", "digit"), "digits")
    assert_one_error(spear("inspect", "nowhere:make"), "cannot import the workload")
