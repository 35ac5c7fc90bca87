"""The tables of `command-line.md`, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

BEGIN = "<!-- made by docs/make_pages.py -->\n"
KINDS = {int: "whole number", float: "number", str: "text", Path: "path", bool: "switch"}


def page(text: str) -> str:
    """The page with its tables made again."""
    head, marker, _ = text.partition(BEGIN)
    if not marker:
        raise ValueError(f"the page lacks the line {BEGIN!r}")
    from spear_gym.cli import app

    lines = [line for name, function in commands(app) for line in of(name, function)]
    return "\n".join([head + BEGIN, *lines])


def commands(app: typer.Typer, prefix: str = "spear") -> Iterator[tuple[str, Callable[..., Any]]]:
    """All commands by their whole name, sorted."""
    found = {
        f"{prefix} {command.name or command.callback.__name__}": command.callback
        for command in app.registered_commands
        if command.callback is not None
    }
    for group in app.registered_groups:
        if group.typer_instance is not None:
            found |= dict(commands(group.typer_instance, f"{prefix} {group.name}"))
    yield from sorted(found.items())


def of(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """The lines of a command."""
    yield f"### `{name}`\n"
    yield inspect.cleandoc(function.__doc__ or "") + "\n"
    rows = list(_rows(function))
    if rows:
        yield "| option | takes | default | |\n|---|---|---|---|"
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""


def _rows(function: Callable[..., Any]) -> Iterator[tuple[str, str, str, str]]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *notes = get_args(hints[name])
        info = next(note for note in notes if isinstance(note, ArgumentInfo | OptionInfo))
        if isinstance(info, ArgumentInfo):
            shown = f"`{name.upper()}`"
        else:
            # In an annotation Typer takes the first argument for a name.
            named = isinstance(info.default, str) and info.default.startswith("--")
            dashed = f"--{name.replace('_', '-')}"
            no = f", `--no-{dashed[2:]}`" if kind is bool and not named else ""
            shown = f"`{info.default if named else dashed}`{no}"
        default = "required" if parameter.default is inspect.Parameter.empty else parameter.default
        text = (info.help or "").replace("|", "\\|").replace("<", "&lt;")
        if info.envvar:
            text += f" Also by the variable `{info.envvar}`."
        yield shown, _kind(kind), _default(default), text


def _kind(kind: Any) -> str:
    if get_origin(kind) is list or any(get_origin(each) is list for each in get_args(kind)):
        return "text, repeatable"
    plain = [each for each in get_args(kind) or (kind,) if each is not type(None)]
    return KINDS[plain[0]]


def _default(value: Any) -> str:
    if value is None or value is False:
        return ""
    if value == "required":
        return "*required*"
    return "on" if value is True else f"`{value}`"
