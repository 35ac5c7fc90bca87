"""Networks in the ways in which people write them, each with what must become of it."""

from __future__ import annotations

from strangers.base import STEPS, Stranger
from strangers.blocks import BLOCKS
from strangers.functions import FUNCTIONS
from strangers.kinds import KINDS
from strangers.timing import TIMING

SECTIONS: dict[str, list[Stranger]] = {
    "Functions between layers": FUNCTIONS,
    "Time": TIMING,
    "Architectures": BLOCKS,
    "Neurons": KINDS,
}
CATALOGUE = [stranger for section in SECTIONS.values() for stranger in section]

__all__ = ["CATALOGUE", "SECTIONS", "STEPS", "Stranger"]
