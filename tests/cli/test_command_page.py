"""The page of the command line is that of the commands."""

from __future__ import annotations

import re

import command_page
from commands import Spear


def test_tables_are_those_of_the_commands() -> None:
    text = command_page.PAGE.read_text(encoding="utf-8")
    assert text == command_page.page(text), "run `python tests/command_page.py`"


def test_every_option_is_there(spear: Spear) -> None:
    text = command_page.PAGE.read_text(encoding="utf-8")
    for command in ("search", "compare", "lre"):
        shown = spear(command, "--help").out
        options = set(re.findall(r"--[a-z][a-z-]+", shown))
        section = text.partition(f"### `spear {command}`")[2].partition("### ")[0]
        assert {"--workers"} <= options
        missing = {option for option in options - {"--help"} if f"`{option}`" not in section}
        assert missing == set()
