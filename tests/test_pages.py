"""The pages of docs/ are what they are made from, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import DOCS, RESULTS, ROOT, script, tables_of

from spear_gym.envs_registry import ENTRIES

STUDIES = (
    "score-study",
    "spread-study",
    "lre-study",
    "promise",
    "searches",
    "analog-layer",
    "speed",
)
TEXTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("results/*.md")),
    *sorted(RESULTS.glob("*/README.md")),
)


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    made: dict[Path, str] = script(DOCS / "make_pages.py").pages()
    return made


# ------------------------------------------------------------------ pages, links, folders


def test_made_pages_are_what_the_program_writes(pages: dict[Path, str]) -> None:
    """The environment's page is the docstring; every table is the one that the data give."""
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, f"run docs/make_pages.py: {path.name}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_linked_file_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    linked = {(path.parent / link).resolve() for link in links}
    assert [str(link) for link in linked if not link.exists()] == []


def test_contributors_are_sent_to_places_that_are_there() -> None:
    text = (DOCS / "contributing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+/[\w./-]*)`", text))
    concepts = text.split("## Where things are")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| [a-z]", concepts, re.MULTILINE)) >= 10
    # Some are said from the package: `simulation/layers.py`.
    missing = [p for p in named if not ((ROOT / p).exists() or (ROOT / "spear_gym" / p).exists())]
    # Of a study to come.
    assert sorted(missing) == ["figures/", "notebooks/results/STUDY/"]


def test_studies_have_one_shape() -> None:
    for name in STUDIES:
        folder = RESULTS / name
        known = {"README.md", "protocol.md", "tables.py", "data", "figures", "__pycache__"}
        programs = {path.name for path in folder.glob("*.py")}
        assert {path.name for path in folder.iterdir()} <= known | programs
        assert (folder / "README.md").is_file()
        assert (folder / "data").is_dir()
        assert not list(folder.glob("**/*.svg"))


def test_every_workload_is_in_the_score_and_prediction_tables() -> None:
    for name in ("score-study", "lre-study"):
        first = next(iter(tables_of(name).tables().values()))
        assert {row[0].strip("`") for row in first.rows} == set(ENTRIES)
