"""`digits`: 8x8 handwritten digits; settings are chosen on it."""

from __future__ import annotations

from spear_gym.data.digits import digits
from spear_gym.snn.zoo import digits_net
from spear_gym.training import Recipe

from .catalogue import Entry

DIGITS = Entry(
    name="digits",
    environment="SpearPrune-Digits-v0",
    groups=4,
    network=digits_net,
    data=digits,
    seed=0,
    num_steps=4,
    pretrain=Recipe(epochs=15, lr=3e-3, weight_decay=1e-2),
    finetune=Recipe(epochs=4, lr=1e-3),
    scoring="refit",
    calibration_samples=256,
)
