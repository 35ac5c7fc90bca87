"""The command ``spear``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from spear_gym.cli import (  # noqa: F401 - they add commands
    compare,
    evaluate,
    ledger,
    lre,
    lre_study,
    search,
    sensitivity,
    studies,
    tune,
    workloads,
)
from spear_gym.cli.common import INTERRUPTED, app, complain, err
from spear_gym.cli.stopping import stops_in_order

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line; a user's mistake ends with one line and exit status 2."""
    with user_errors(), stops_in_order():
        app()


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns the library's errors about bad input into one clear line, without a traceback."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        # Every error about input is a ValueError of ours, every run that fails an exception class
        # of ours; anything else is a defect and may show its traceback.
        ours = type(error).__module__.startswith("spear_gym")
        if not ours and not (isinstance(error, ValueError) and "spear_gym" in _origin(error)):
            raise
        complain("error:", str(error))
        sys.exit(2)
    except OSError as error:
        complain("error:", str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted", highlight=False)
        sys.exit(INTERRUPTED)


def _origin(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))
