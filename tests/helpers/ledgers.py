"""What the tests of ledgers share."""

from __future__ import annotations

from typing import Any

from spear_gym.judge import Judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward

IDENTITY: dict[str, Any] = {"settings": {"seed": 0, "target": 0.3}, "versions": {"torch": "2"}}
JUDGE = Judge(0.3, NoEstimator(), TargetAwareReward())
