"""A report as data, written as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from spear_gym.boundary.files import write_bytes, write_text
from spear_gym.boundary.text import csv_cell, plain_markdown
from spear_gym.report.drawing import saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        columns: their heads.
        rows: texts, as many as columns.
        caption: what it shows.
        prose: its cells are words, which stand on the left and may wrap.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its files, without ending.
        figure: drawn.
        caption: what it shows; also read aloud in its place.
    """

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a report: paragraphs, then tables, then pictures.

    Attributes:
        title: its heading.
        paragraphs: plain text.
        tables: below the text.
        pictures: below the tables.
        warning: shown first, so that nobody misses it.
    """

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    warning: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: its title.
        sections: in order.
    """

    title: str
    sections: Sequence[Section] = field(default_factory=tuple)


def write_page(page: Page, folder: Path, *, svg: bool = False) -> list[Path]:
    """Writes ``report.md``, ``report.html`` and, in ``figures/``, each picture as PNG.

    Args:
        page: the report.
        folder: where to.
        svg: each picture as SVG, too.

    Returns:
        The files.
    """
    pictures = [picture for section in page.sections for picture in section.pictures]
    kinds = ("png", "svg") if svg else ("png",)
    images = {f"{p.name}.{kind}": figure_bytes(p.figure, kind) for p in pictures for kind in kinds}
    # The page first: by it the rest is recognised when a report is written again.
    write_text(
        folder / "report.html", html(page, {p.name: images[f"{p.name}.png"] for p in pictures})
    )
    write_text(folder / "report.md", markdown(page))
    for name, content in images.items():
        write_bytes(folder / "figures" / name, content)
    texts = [folder / "report.md", folder / "report.html"]
    return [*(folder / "figures" / name for name in images), *texts]


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file of a kind; the same figure gives the same bytes."""
    import matplotlib as mpl

    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "spear-gym"}):
        return saved(figure, kind, dpi=130, metadata=metadata, facecolor="white")


def markdown(page: Page) -> str:
    """The report as Markdown; pictures are links into ``figures/``."""
    parts = [f"# {plain_markdown(page.title)}"]
    for section in page.sections:
        parts.append(f"## {plain_markdown(section.title)}")
        if section.warning:
            parts.append(f"> **Warning.** {plain_markdown(section.warning)}")
        parts += map(plain_markdown, section.paragraphs)
        for table in section.tables:
            parts.append(table_markdown(table, markup=False))
            if table.caption:
                parts.append(f"*{plain_markdown(table.caption)}*")
        for picture in section.pictures:
            caption = plain_markdown(picture.caption)
            parts.append(f"![{caption}](figures/{picture.name}.png)")
            parts.append(f"*{caption}*")
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table, *, markup: bool = True) -> str:
    """A table as Markdown, without its caption.

    Args:
        table: the table.
        markup: texts in it may be Markdown themselves: they are ours and name nothing of a user's.
    """
    lines = [_line(table.columns, markup), "|---" * len(table.columns) + "|"]
    return "\n".join(lines + [_line(row, markup) for row in table.rows])


def html(page: Page, images: dict[str, bytes]) -> str:
    """The report as one page of HTML that needs nothing else.

    Args:
        page: the report.
        images: PNG files by the name of their picture.
    """
    from jinja2 import Environment

    template = (files(__package__) / "templates" / "page.html").read_text(encoding="utf-8")
    encoded = {name: base64.b64encode(png).decode() for name, png in images.items()}
    environment = Environment(autoescape=True)
    environment.filters["whole"] = _whole
    return environment.from_string(template).render(page=page, images=encoded)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as CSV, in which no text is a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([*map(csv_cell, row)] for row in (columns, *rows))
    return buffer.getvalue()


def _whole(cell: str) -> str:
    """A cell in which an interval is not broken over lines."""
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)


def _line(cells: Sequence[str], markup: bool) -> str:
    return f"| {' | '.join(cells if markup else map(plain_markdown, cells))} |"
