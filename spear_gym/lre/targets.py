"""SynOps targets, as far as a fit must know them."""

from __future__ import annotations

import math


class TargetError(ValueError):
    """The target cannot be used."""


def check_fraction(target: float) -> None:
    """Refuses what is no share of the unpruned SynOps.

    Raises:
        TargetError: for a target outside (0, 1].
    """
    if not (math.isfinite(target) and 0.0 < target <= 1.0):
        raise TargetError(
            f"target is {target:g}; it must lie in (0, 1], a fraction of the unpruned SynOps"
        )
