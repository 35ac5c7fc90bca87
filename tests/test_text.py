"""Names of strangers in terminals, Markdown, CSV, HTML and pictures."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import toys
from commands import Spear
from hypothesis import example, given
from hypothesis import strategies as st

from spear_gym.agents import AGENTS
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.boundary.text import csv_cell, plain_markdown, printable
from spear_gym.cli.common import Terminal
from spear_gym.report.page import (
    Page,
    Picture,
    Section,
    Table,
    csv_text,
    html,
    markdown,
    write_page,
)
from spear_gym.report.plan_frame import draw_plan
from spear_gym.report.plan_view import LayerView, PlanView, plan_figure, print_plan

HOSTILE = (
    r"$\frac$", "[/x]", "[bold", "]]", ":smile:", "a|b", "<script>alert(1)</script>", "&amp;",
    "](javascript:alert(1))", "![x](http://x)", "`code`", "*a* _b_ ~~c~~", "# head", "=1+1",
    "@SUM(A1)", "$x$ $y", r"\$", "{{ 1 }}", "{0}", "%s", "1. list", "- item", "<!-- -->", "--> <b>",
    "]]>", "'; drop", '" onload="x', "\u0300", "中文", "ü" * 20,
)  # fmt: skip
ACTING = "\x1b[31m\x1b]0;title\x07\r\n\t\x00\u202e\u2028\x9b"


@given(st.text())
@example(ACTING)
def test_nothing_printable_acts(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(c) for c in shown if c != "\n"} & {
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
    }
    shown.encode()
    if text.isprintable():
        assert shown == text


@given(st.lists(st.text(), min_size=1, max_size=4))
@example(["[/x]", "[bold red]a[/]", ":smile:", ACTING])
def test_a_terminal_shows_names_as_they_are(names: list[str]) -> None:
    buffer = io.StringIO()
    console = Terminal(file=buffer, force_terminal=True, width=10_000, color_system=None)
    for name in names:
        console.print(f"a{name}b", soft_wrap=True, highlight=False)
    expected = "".join(f"a{printable(name)}b\n" for name in names)
    assert buffer.getvalue().replace(" ", "") == expected.replace(" ", "")


# What CommonMark and GFM begin with a character that no backslash stands before.
MARKUP = re.compile(r"(?<!\\)(?:\\\\)*(?:[`*<|~]|\](?=[(\[:]))")


@given(st.text())
@example("a\n# b")
@example("```\n[x]: http://x\n[x]")
def test_no_markdown_is_left(text: str) -> None:
    plain = plain_markdown(text)
    assert "\n" not in plain
    assert not MARKUP.search(plain)
    assert not re.match(r"#|>|[-+] |\d+[.)] |==", plain)


@pytest.mark.parametrize(
    "text", ["0.5 [0.1, 0.2]", "+0.1 [-0.2, +0.3]", "-0.5", "cma-es", "snake_case", "1.5", "100 %"]
)
def test_usual_texts_stay(text: str) -> None:
    assert plain_markdown(text) == csv_cell_of(text) == text


def csv_cell_of(text: str) -> str:
    """As a spreadsheet shows it."""
    return str(csv_cell(text)).removeprefix("'")


@given(st.lists(st.text() | st.floats() | st.integers() | st.booleans(), min_size=1, max_size=5))
@example(["=1+1", "+1", "-0.5", "@x", "\t=1", " -a"])
def test_no_cell_is_a_formula(cells: list[object]) -> None:
    ((*found,),) = csv.reader(io.StringIO(csv_text(cells, []), newline=""))
    assert len(found) == len(cells)
    for text, cell in zip(found, cells, strict=True):
        if isinstance(cell, str) and re.match(r"\s*[=+@-]", text):
            float(text)


def hostile_page(name: str, pictures: list[Picture] | None = None) -> Page:
    """Every place of a report that a name can come to."""
    table = Table((name, name), [(name, name)], name)
    return Page(name, [Section(name, [name], [table], pictures or [], name)])


@pytest.mark.parametrize("name", [*HOSTILE, f"a{ACTING}b"])
def test_a_report_of_any_name(name: str) -> None:
    page, usual = hostile_page(name), hostile_page("name")
    tags = [re.findall(r"<(/?[a-z!][a-z0-9!-]*)", html(p, {}).lower()) for p in (page, usual)]
    assert tags[0] == tags[1]
    assert len(markdown(page).splitlines()) == len(markdown(usual).splitlines())


def test_a_picture_of_any_name(tmp_path: Path) -> None:
    names = [*HOSTILE, f"a{ACTING}b"]
    layers = tuple(LayerView(name, 8, 4, 0.5) for name in names)
    figure = plan_figure(PlanView(r"$\frac$" + "".join(names), layers, 0.5, 0.0, 0.4))
    assert draw_plan(PlanView("$x$ $", layers[:2], 0.5, 0.0, 0.4)).size
    write_page(hostile_page("name", [Picture("plan", figure, "$x$")]), tmp_path, svg=True)
    assert (tmp_path / "figures" / "plan.png").read_bytes()[:4] == b"\x89PNG"
    found = ET.parse(tmp_path / "figures" / "plan.svg").getroot()
    assert {node.tag.split("}")[-1] for node in found.iter()}.isdisjoint({"script", "b", "a"})


def test_a_search_of_any_name(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first line to the pictures; names of layers cannot be chosen so freely."""
    for number, name in enumerate((r"$\frac$[/x]", "=[bold]:smile:<b>|`")):
        workload = toys.rebuilt(toys.tiny(), name=name)
        monkeypatch.setattr(toys, "named", lambda workload=workload: workload, raising=False)
        run = ("search", "--workload", "toys:named", "--agent", "random", "--budget", 2)
        out = tmp_path / f"[/{number}]"
        ran = spear(*run, "--lre", "none", "--target", "0.5", "--out", out)
        assert ran.code in (0, 3), ran
        assert f"{name}: target 0.500" in ran.out
        assert f"results: {out} (try:" in ran.out
        again = spear("evaluate", out, "--workload", "toys:named")
        assert (again.code, name in again.out) == (0, True), again


def test_a_comparison_of_any_name(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = r"$\frac$[x]<b>=|`"
    monkeypatch.setitem(AGENTS, name, AGENTS["random"])
    monkeypatch.setitem(AGENTS, "=cmd", AGENTS["random"])
    run = ("compare", "--agents", f"{name},=cmd", "--workload", "toys:tiny", "--targets", "0.5")
    ran = spear(
        *run, "--lre", "none", "--budget", 2, "--seeds", 1, "--workers", 1, "--out", tmp_path
    )
    assert ran.code == 0, ran
    rows = list(csv.DictReader((tmp_path / "cells.csv").open(encoding="utf-8")))
    assert [row["agent"] for row in rows] == [name, "'=cmd"]
    assert "<b>" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<b>", (tmp_path / "report.md").read_text(encoding="utf-8"))
    assert Comparison.load(tmp_path / ARCHIVE).settings.agents == (name, "=cmd")


@given(st.text(max_size=20))
@example("\x1b[31mred\u202e")
@example("two\nlines")
def test_plans_of_any_name_in_a_terminal(name: str) -> None:
    layers = (LayerView(name, 6, 3, 0.1), LayerView("fc", 4, None, None))
    view = PlanView(name, layers, 0.3, 0.1, 0.3, 0.3, 0.5, 0.1)
    lines = print_plan(view).split("\n")
    assert len(lines) == 4
    assert not {"Cc", "Cf", "Zl", "Zp"} & {unicodedata.category(c) for c in "".join(lines)}
