"""Who makes which workload of the catalogue; nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spear_gym.workload import Workload

FACTORIES: dict[str, Callable[[], Workload]] = {}
"""By name; :func:`spear_gym.workload.register_workload` adds to them."""
