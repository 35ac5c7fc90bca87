"""The tables of `networks.md`, from the catalogue of the tests in `tests/helpers/strangers`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spear_gym.report.page import Table, table_markdown

BEGIN = "<!-- made by docs/make_pages.py -->\n"
HELPERS = Path(__file__).parent.parent / "tests" / "helpers"


def page(text: str) -> str:
    """The page with its tables made again."""
    head, marker, _ = text.partition(BEGIN)
    if not marker:
        raise ValueError(f"the page lacks the line {BEGIN!r}")
    if str(HELPERS) not in sys.path:
        sys.path.insert(0, str(HELPERS))
    from strangers import SECTIONS

    return "\n".join([head + BEGIN, *_lines(SECTIONS)])


def _lines(sections: Mapping[str, list[Any]]) -> Iterator[str]:
    networks = [network for section in sections.values() for network in section]
    refused = sum(bool(network.refused) for network in networks)
    partly = sum(bool(network.fixed) for network in networks)
    yield (
        f"{len(networks)} networks: {len(networks) - refused} are taken, {partly} of them with "
        f"layers that keep all their channels, and {refused} are refused.\n"
    )
    for title, section in sections.items():
        rows = [_row(network) for network in section]
        yield f"### {title}\n"
        columns = ("network", "written as", "pruned", "keeps all channels", "refused")
        yield table_markdown(Table(columns, rows, prose=True), markup=False) + "\n"


def _row(network: Any) -> tuple[str, ...]:
    pruned = ", ".join(f"{name} {channels}" for name, channels in network.groups.items())
    fixed = "; ".join(f"{name} {why}" for name, why in network.fixed.items())
    refused = f"…{network.refused}…" if network.refused else ""
    return network.name, network.idiom, pruned, fixed, refused
