"""The texts that tests read: README.md and the pages of docs/."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = ROOT / "notebooks" / "results"


def page(name: str) -> str:
    """A text: `README.md`, or a page by its path within docs/."""
    folder = ROOT if name == "README.md" else DOCS
    return (folder / name).read_text(encoding="utf-8")


def said(name: str) -> str:
    """The words of a text in one line, without emphasis."""
    return " ".join(page(name).replace("*", "").split())


def script(path: Path) -> ModuleType:
    """A program of the repository that is no part of the package, imported."""
    name = "_".join(path.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up by its name
        spec.loader.exec_module(module)
    return sys.modules[name]


def tables_of(study: str) -> ModuleType:
    """The program that makes a study's tables."""
    return script(RESULTS / study / "tables.py")
