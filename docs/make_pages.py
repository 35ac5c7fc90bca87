"""Writes what the pages take from elsewhere: the environment's page, and the tables of results.

    .venv/bin/python docs/make_pages.py

`environment.md` is the docstring of `SpearPruneEnv`; the tables of `command-line.md` are those of
the commands, those of `networks.md` the catalogue of networks of the tests. Any other table stands
between two marks, such as `<!-- arms -->` and `<!-- end arms -->`, and comes from `tables.py` of a
study in `notebooks/results/`. The tests hold that the pages are what this program would write.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from spear_gym.boundary.files import write_text
from spear_gym.env import SpearPruneEnv, make_env
from spear_gym.report.page import table_markdown

HERE = Path(__file__).parent
STUDIES = HERE.parent / "notebooks" / "results"
TABLES = {
    "definitions.md": "analog-layer",
    "speed.md": "speed",
    "results/score.md": "score-study",
    "results/spread.md": "spread-study",
    "results/lre.md": "lre-study",
    "results/promise.md": "promise",
    "results/searches.md": "searches",
    "results/ablation.md": "ablation",
    "results/sensitivity.md": "sensitivity",
}
"""The study that a page takes its tables from."""


ARGUMENTS = re.compile(r"^Args:\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
"""The section of a docstring that lists arguments and errors."""


def environment_page() -> str:
    """The environment's docstring as a page."""
    text = inspect.cleandoc(SpearPruneEnv.__doc__ or "")
    # Who reads the page calls gym.make, so the arguments are those of its entry point.
    flat = ARGUMENTS.search(inspect.cleandoc(make_env.__doc__ or ""))
    assert flat is not None
    text = ARGUMENTS.sub(lambda _: flat[0], text)
    text = re.sub(r":(class|mod|func|meth):`", r"{py:\1}`", text)
    text = re.sub(r"^(Args|Raises):\n((?:    .*\n|\n)+)", _listed, text, flags=re.MULTILINE)
    note = "<!-- Made from the docstring of SpearPruneEnv by docs/make_pages.py. -->"
    return f"{note}\n\n# The environment\n\n{text}\n"


def _listed(section: re.Match[str]) -> str:
    """A section of Google's form as a list: `name: what it is` and its further lines."""
    entries = re.sub(r"^    (\S[^:]*):", r"- `\1`:", section[2], flags=re.MULTILINE)
    title = {"Args": "", "Raises": "Raises:\n\n"}[section[1]]
    return title + re.sub(r"^        ", "  ", entries, flags=re.MULTILINE)


def script(path: Path) -> ModuleType:
    """A program beside the pages or the results, imported."""
    spec = spec_from_file_location(f"{path.parent.name}.{path.stem}".replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


def filled(text: str, study: str) -> str:
    """A page with the tables of a study between their marks.

    Raises:
        ValueError: when a table has no place on the page.
    """
    for name, table in script(STUDIES / study / "tables.py").tables().items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page has no place for table '{name}' of {study}: {start} {end}")
        text = f"{before}{start}\n\n{table_markdown(table)}\n\n{end}{after}"
    return text


def pages() -> dict[Path, str]:
    """Every page that is made, or made in part, as it should be."""
    commands = HERE / "command-line.md"
    made = {HERE / "environment.md": environment_page()}
    made[commands] = script(HERE / "command_page.py").page(commands.read_text(encoding="utf-8"))
    networks = HERE / "networks.md"
    made[networks] = script(HERE / "network_page.py").page(networks.read_text(encoding="utf-8"))
    for name, study in TABLES.items():
        path = HERE / name
        made[path] = filled(path.read_text(encoding="utf-8"), study)
    return made


if __name__ == "__main__":
    for path, text in pages().items():
        write_text(path, text)
