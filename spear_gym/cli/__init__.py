"""The command ``spear``."""

from __future__ import annotations

import sys

from spear_gym.cli import (  # noqa: F401 - they add commands
    compare,
    evaluate,
    inspection,
    ledger,
    lre,
    lre_study,
    search,
    sensitivity,
    studies,
    tune,
    workloads,
)
from spear_gym.cli.common import app
from spear_gym.cli.errors import status_of
from spear_gym.cli.stopping import stops_in_order

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line; ``docs/command-line.md`` lists the exit statuses."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may lack a letter
            stream.reconfigure(errors="replace")
    with stops_in_order():
        status = status_of(app)
    sys.exit(status)
