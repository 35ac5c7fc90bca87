"""How a command ends: one line for a mistake, a traceback for a bug of ours, and an exit status."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from spear_gym.boundary.plugins import is_own, raised_by_us
from spear_gym.cli.common import INTERRUPTED, complain

MISTAKE = 2
"""What was asked for cannot be done; the error says why."""

BUG = 70
"""`EX_SOFTWARE` of sysexits.h."""

# Typer brings its own copy of click since 0.2x; there is no other name for this class in both.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def status_of(command: Callable[..., Any]) -> int:
    """Runs the command line, says what went wrong, and gives the exit status.

    Errors are gone when this returns, and with them what their tracebacks kept alive: worker
    processes, for one.
    """
    try:
        status = command(standalone_mode=False, prog_name="spear")
    except _ClickException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        complain("interrupted", "")
        return INTERRUPTED
    except MemoryError as error:
        complain("error:", f"memory ran out {error}".strip())
        return MISTAKE
    except Exception as error:
        if _was_interrupted(error):
            complain("interrupted", "")
            return INTERRUPTED
        if not _is_a_mistake(error):
            traceback.print_exc()
            complain(
                "this is a bug of spear-gym:",
                f"{type(error).__name__}; please report it with the lines above",
            )
            return BUG
        complain("error:", str(error))
        return MISTAKE
    return status if isinstance(status, int) else 0


def _was_interrupted(error: BaseException) -> bool:
    """Whether an error came of Ctrl-C, TERM or HUP.

    Compiled modules that are being imported, for one, turn these into errors of their own.
    """
    causes: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in causes:
        if isinstance(found, KeyboardInterrupt):
            return True
        causes.add(id(found))
        found = found.__cause__ or found.__context__
    return False


def _usage(error: Any) -> int:
    """An option or argument that the command does not have, or of the wrong type."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show(file=sys.stdout)
        return int(error.exit_code)
    message = error.format_message()
    if context is not None:
        message = f"{message.rstrip('.')}; see {context.command_path} --help"
    complain("error:", message)
    return MISTAKE


def _is_a_mistake(error: Exception) -> bool:
    """Whether an error is about what was asked for.

    Every error about input is a ValueError of ours, every run that fails an exception class of
    ours; what the system refuses is an OSError.
    """
    if is_own(error) or isinstance(error, OSError):
        return True
    return isinstance(error, ValueError) and raised_by_us(error)
