"""Searches that tests of the command line run, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import read

FILES = {
    "curve.png",
    "delivery.json",
    "ledger.log",
    "network.json",
    "network.safetensors",
    "plan.json",
    "plan.png",
    "result.json",
    "settings.json",
}
UNSIGNED = {"delivery.json", "ledger.log", "network.json", "curve.png", "plan.png"}
"""Files whose checksum is not in the result."""
ENDED = (0, 3)
"""Exit status of a search that ended; 3 when the target is broken on a toy's few test images."""

TINY = ("--workload", "toys:tiny", "--lre", "none", "--no-repair", "--target", "0.4")
RANDOM = (*TINY, "--agent", "random", "--budget", "12", "--seed", "3")


def result_of(folder: Path) -> dict[str, Any]:
    """The result without what a clock says and what depends on when it was interrupted."""
    result = read(folder / "result.json")
    statistics = result.pop("statistics")
    assert set(result.pop("sha256")) == FILES - UNSIGNED
    assert not any("PyTorch" in way for way in statistics)
    assert set(result.pop("seconds")) == {"search", "finetune", "test"}
    return result


def truncate(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    damage.__name__ = f"{name}-{share}"
    return damage


def replace(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    damage.__name__ = f"{name}-{content[:20]}"
    return damage
