"""What is found by a name or a path such as ``my_module:my_agent``; nothing heavy is imported."""

from __future__ import annotations

import difflib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spear_gym.boundary.text import cut

if TYPE_CHECKING:
    from spear_gym.workload import Workload

FACTORIES: dict[str, Callable[[], Workload]] = {}
"""Who makes which workload, by name; :func:`spear_gym.workload.register_workload` adds to them."""

LONGEST = 300
"""Characters of a foreign message that are shown."""

_OWN = str(Path(__file__).parents[1])
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


class PluginError(ValueError):
    """What a user gave by its path cannot be imported, or raised an error of its own."""


def import_path(path: str) -> Any:
    """What ``module:attribute`` stands for; the working folder is searched too.

    Raises:
        PluginError: when the path has another form, the module cannot be imported, for whatever
            reason, or has no such attribute. Names what it is, and where in the user's files.
    """
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise PluginError("it must have the form module:attribute")
    if not all(part.isidentifier() for part in module.split(".")):
        raise PluginError(
            f"'{module}' is no name of a module: give it as `import` takes it, without a folder, "
            "a leading dot and .py, and run the command in the folder where it lies"
        )
    try:
        with blaming("it raised"), _working_folder_first():
            found = importlib.import_module(module)
    except PluginError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and _is_part(missing.name, module):
            raise PluginError(
                f"there is no module '{missing.name}' in the working folder, nor where Python "
                "looks for others"
            ) from missing
        raise
    if not hasattr(found, attribute):
        close = difflib.get_close_matches(attribute, dir(found), n=2)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise PluginError(f"module '{module}' has no attribute '{attribute}'{hint}")
    return getattr(found, attribute)


@contextmanager
def _working_folder_first() -> Iterator[None]:
    """Looks for modules in the working folder first, and afterwards last.

    What the user asked for lies there; what we, or our libraries, import later must not.
    """
    here, path = str(Path.cwd()), list(sys.path)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in path:
            sys.path.append(here)


def call(function: Callable[..., Any], /, **arguments: Any) -> Any:
    """Calls a user's function.

    Raises:
        PluginError: when it raises an error that is not the library's own.
    """
    with blaming("it raised"):
        return function(**arguments)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Runs a user's code: whatever it raises, and is not the library's own, is named as theirs.

    Raises:
        PluginError: ``what``, then the error and its place.
    """
    try:
        yield
    # An import, or a function, may end the program too.
    except (Exception, SystemExit) as error:
        if is_own(error):
            raise
        raise PluginError(f"{what} {described(error)}") from error


def is_own(error: BaseException) -> bool:
    """Whether an error is one of the library's, which says by itself what is wrong."""
    return type(error).__module__.partition(".")[0] == "spear_gym"


def raised_by_us(error: BaseException) -> bool:
    """Whether the line that raised an error is the library's."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_OWN)


def described(error: BaseException) -> str:
    """An error in one line: its kind, what it says, and where in the user's files it happened."""
    said = cut(str(error), LONGEST)
    return f"{type(error).__name__}{': ' if said else ''}{said}{_place(error)}"


def _place(error: BaseException) -> str:
    """The deepest line that is the user's, else the deepest of a library; none of ours."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({_relative(error.filename)}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if not frame.filename.startswith(_OWN)]
    theirs = [f for f in foreign if not f.filename.startswith(("<frozen", *_INSTALLED))]
    for frame in (theirs or foreign)[-1:]:
        return f" ({_relative(frame.filename)}, line {frame.lineno}, in {frame.name})"
    return ""


def _relative(filename: str) -> str:
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename


def _is_part(name: str | None, module: str) -> bool:
    """Whether a module that is missing is the one asked for, or a package that it lies in."""
    return name is not None and f"{module}.".startswith(f"{name}.")
