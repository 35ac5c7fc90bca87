"""The page of the command line names every option of the commands."""

from __future__ import annotations

import re

from commands import Spear
from documents import DOCS


def test_every_option_is_there(spear: Spear) -> None:
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    for command in ("search", "compare", "lre"):
        shown = spear(command, "--help").out
        options = set(re.findall(r"--[a-z][a-z-]+", shown))
        section = text.partition(f"### `spear {command}`")[2].partition("### ")[0]
        assert {"--workers"} <= options
        missing = {option for option in options - {"--help"} if f"`{option}`" not in section}
        assert missing == set()
