"""Names of the shipped workloads and of their environments, so that neither needs PyTorch."""

from __future__ import annotations

IDS = {
    "digits": "SpearPrune-Digits-v0",
    "cluttered-digits": "SpearPrune-ClutteredDigits-v0",
    "cluttered-digits-b": "SpearPrune-ClutteredDigits-B-v0",
    "cluttered-digits-c": "SpearPrune-ClutteredDigits-C-v0",
    "digits-events": "SpearPrune-DigitsEvents-v0",
}
"""Environment ids by name of the workload."""
