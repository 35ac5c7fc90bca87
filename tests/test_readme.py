"""The README says what the code does: its examples run as written."""

from __future__ import annotations

import re

import pytest
from documents import page


@pytest.mark.slow
def test_python_examples_run_as_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", page("README.md"), flags=re.DOTALL)
    search, learning, _ = blocks
    scope: dict[str, object] = {}
    exec(compile(search, "README.md", "exec"), scope)
    assert sum(p.numel() for p in scope["net"].parameters()) > 0  # type: ignore[attr-defined]
    exec(compile(learning, "README.md", "exec"), scope)
    assert scope["env"].unwrapped.best is not None  # type: ignore[attr-defined]


def test_the_first_screen_of_findings_says_what_they_rest_on() -> None:
    findings = page("README.md").split("## What was found")[1].split("\n## ")[0]
    assert findings.strip().startswith("**No result of the paper is reproduced or refuted:**")
