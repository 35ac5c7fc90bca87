"""The entries of the catalogue."""

from __future__ import annotations

from .catalogue import Entry
from .cluttered_digits import CLUTTERED
from .digits import DIGITS
from .digits_events import DIGITS_EVENTS

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (DIGITS, *CLUTTERED, DIGITS_EVENTS)}
"""By name of the workload."""
