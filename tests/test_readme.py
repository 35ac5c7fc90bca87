"""The README says what the code does: its example runs, its page is the docstring."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from spear_gym.env import SpearPruneEnv

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_environment_page_is_the_docstring() -> None:
    assert demoted(inspect.cleandoc(SpearPruneEnv.__doc__ or "")) in README


def demoted(docstring: str) -> str:
    """The docstring with its headings two levels down, as they stand in the README."""
    return re.sub(r"^## ", "#### ", docstring, flags=re.MULTILINE)


@pytest.mark.slow
def test_python_example_runs_as_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    example = next(block for block in blocks if "DDPG(" in block)
    scope: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert sum(p.numel() for p in scope["net"].parameters()) > 0  # type: ignore[attr-defined]


def test_every_linked_file_exists() -> None:
    root = Path(__file__).parent.parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []
