"""`digits-events`: handwritten digits seen by a moving event camera; the input is spikes."""

from __future__ import annotations

from spear_gym.data.events import NUM_STEPS, digits_events
from spear_gym.snn.zoo import digits_events_net
from spear_gym.training import Recipe

from .catalogue import Entry

DIGITS_EVENTS = Entry(
    name="digits-events",
    environment="SpearPrune-DigitsEvents-v0",
    groups=4,
    network=digits_events_net,
    data=digits_events,
    seed=0,
    num_steps=NUM_STEPS,
    pretrain=Recipe(epochs=14, lr=4e-3, weight_decay=3e-2, warmup=0.05, shift=1),
    finetune=Recipe(epochs=2, lr=4e-3, weight_decay=3e-2, shift=1),
    scoring="refit",
    calibration_samples=384,
    events=True,
)
