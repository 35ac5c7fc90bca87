"""Sphinx: Markdown pages, and an API reference from the docstrings. Built by `make docs`.

Warnings are errors there, and a reference that leads nowhere is a warning. Addresses on the web are
not visited.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import spear_gym

# Public names are imported on first use; autodoc only sees those that are there.
for _name in spear_gym.__all__:
    setattr(spear_gym, _name, getattr(spear_gym, _name))

project = "spear-gym"
author = "The spear-gym authors"
try:
    version = release = installed("spear-gym")
except PackageNotFoundError:  # run from a checkout that is not installed
    version = release = ""

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"spear-gym {version}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

nitpicky = True
# Libraries whose pages are not asked, and names of the code that are no part of the API.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|numpy|pathlib|torch|gymnasium|typing|abc)\..*"),
    ("py:.*", r"spear_gym\.(simulation|snn\.graph|lre\.families)(\..*)?"),
    ("py:data", r"FAMILIES|LOW_R2"),
    ("py:.*", r"spear_gym\.pruning\.keeping\._.*"),
    ("py:exc", r"KeepingError|CheckpointError"),
    ("py:func", r"(spear_gym\.checkpoint\.remove_checkpoints|check_reachable)"),
    ("py:(class|func)", r"spear_gym\.(pruning\.surgery\.OwnForward|snn\.handover\.hand_over)"),
]


_properties: dict[str, list[str]] = {}


def as_typed(
    _app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Shows an indented paragraph as it was typed, for those of the docstrings are formulas."""
    shown: list[str] = []
    last = ""
    for line in lines:
        starts = line.startswith("    ") and shown and not shown[-1].strip()
        if starts and last and not last.startswith(" ") and not last.endswith(":"):
            shown += ["::", ""]
        shown.append(line)
        last = line if line.strip() else last
    lines[:] = shown
    if what == "property":
        _properties[name] = shown


def properties_as_typed(
    _app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Napoleon takes what stands before a colon in a property's first line for a type."""
    if what == "property":
        lines[:] = _properties[name]


def environment_elsewhere(
    _app: Sphinx, _what: str, name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """The environment's docstring is a page of its own, in Markdown."""
    if name == "spear_gym.SpearPruneEnv":
        lines[:] = [lines[0], "", "Its spaces, rewards and arguments: :doc:`environment`."]


def by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement
) -> Element | None:
    """Finds what a docstring names without its module, where only one thing has that name."""
    domain = env.domains.python_domain
    found = [
        (name, entry)
        for name, entry in domain.objects.items()
        if name.rpartition(".")[2] == node.get("reftarget") and not entry.aliased
    ]
    if node.get("refdomain") != "py" or len(found) != 1:
        return None
    ((name, entry),) = found
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, content, title=name
    )


def repository_files(app: Sphinx, name: str, source: list[str]) -> None:
    """Markdown outside this folder is a file of the repository, which the built page hands out."""

    def handed_out(link: re.Match[str]) -> str:
        inside = (Path(app.srcdir) / name).parent.joinpath(link[1]).resolve()
        return link[0] if inside.is_relative_to(app.srcdir) else f"](path:{link[1]})"

    source[0] = re.sub(r"\]\(([^):#]+\.md)\)", handed_out, source[0])


def setup(app: Sphinx) -> None:
    """Connects all of these; Napoleon, which reads the Google form, has the priority 500."""
    app.connect("autodoc-process-docstring", environment_elsewhere, priority=300)
    app.connect("autodoc-process-docstring", as_typed, priority=400)
    app.connect("autodoc-process-docstring", properties_as_typed, priority=600)
    app.connect("missing-reference", by_last_name)
    app.connect("source-read", repository_files)
