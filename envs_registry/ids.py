"""Names of the shipped workloads and of their environments, so that neither needs PyTorch."""

from __future__ import annotations

from typing import NamedTuple


class Listed(NamedTuple):
    """What is known of a workload before it is loaded.

    Attributes:
        environment: id of its environment.
        groups: prunable groups of the network, so steps of an episode.
    """

    environment: str
    groups: int


IDS = {
    "digits": Listed("SpearPrune-Digits-v0", 4),
    "cluttered-digits": Listed("SpearPrune-ClutteredDigits-v0", 5),
    "cluttered-digits-b": Listed("SpearPrune-ClutteredDigits-B-v0", 5),
    "cluttered-digits-c": Listed("SpearPrune-ClutteredDigits-C-v0", 5),
    "digits-events": Listed("SpearPrune-DigitsEvents-v0", 4),
}
"""By name of the workload."""
