"""`cluttered-digits`: the benchmark on which agents are compared, in three trained networks."""

from __future__ import annotations

from spear_gym.data.cluttered import cluttered_digits
from spear_gym.snn.zoo import cluttered_digits_net
from spear_gym.training import Recipe

from .catalogue import Entry

_FIRST = Entry(
    name="cluttered-digits",
    environment="SpearPrune-ClutteredDigits-v0",
    groups=5,
    network=cluttered_digits_net,
    data=cluttered_digits,
    seed=0,
    num_steps=4,
    pretrain=Recipe(epochs=14, lr=4e-3, weight_decay=3e-2, warmup=0.05, shift=1),
    finetune=Recipe(epochs=2, lr=4e-3, weight_decay=3e-2, shift=1),
    scoring="refit",
    calibration_samples=384,
)

CLUTTERED = (_FIRST, _FIRST.variant("b", seed=1), _FIRST.variant("c", seed=2))
