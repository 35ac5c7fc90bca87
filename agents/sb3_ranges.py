"""What the arguments of Stable-Baselines3's and sb3-contrib's algorithms may be.

The libraries look at few of them before they are used, and a search has paid evaluations by then.
An argument means the same wherever it appears, so that there is one table.
"""

from __future__ import annotations

import re
from typing import Any

from stable_baselines3.common.noise import ActionNoise

from .ranges import (
    FLAG,
    FUNCTION,
    MAPPING,
    NOT_NEGATIVE,
    NOTHING,
    POSITIVE,
    RATE,
    SHARE,
    Range,
    choice,
    made_by,
    real,
    whole,
)

WIDEST_LAYER = 65_536
LARGEST_BUFFER = 100_000_000

NOISES = ("normal", "ornstein-uhlenbeck")


def _is_frequency(value: Any) -> bool:
    """SB3's ``(number, unit)``; a list where a file gives it."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and whole().holds(value[0])
        and value[1] in ("step", "episode")
    )


def _is_net(value: Any) -> bool:
    """Widths of layers, or such lists by network."""
    if isinstance(value, dict):
        return all(isinstance(each, list) and _is_net(each) for each in value.values())
    return isinstance(value, list | tuple) and all(
        whole(1, WIDEST_LAYER).holds(width) for width in value
    )


def _is_automatic(value: Any) -> bool:
    """SB3's ``auto``, perhaps with a first value, such as ``auto_0.1``."""
    found = re.fullmatch(r"auto(_([0-9]*\.?[0-9]+(e-?[0-9]+)?))?", value) if _text(value) else None
    return found is not None and (found[2] is None or POSITIVE.holds(float(found[2])))


def _text(value: Any) -> bool:
    return isinstance(value, str)


_CLASS = made_by("a class (from Python only)", type) | NOTHING
_RATE = RATE | FUNCTION
_POSITIVE = POSITIVE | FUNCTION
_MAPPING = MAPPING | NOTHING

COMMON: dict[str, Range] = {
    "policy": Range("the name of a policy", _text),
    "learning_rate": _RATE,
    "gamma": SHARE,
    "policy_kwargs": _MAPPING,
    "stats_window_size": whole(),
    "use_sde": FLAG,
    "sde_sample_freq": whole(-1),
    "batch_size": whole(),
    "n_steps": whole(),
}

OFF_POLICY: dict[str, Range] = {
    "buffer_size": whole(1, LARGEST_BUFFER),
    "learning_starts": whole(0),
    "tau": real(0, 1, above=True),
    "train_freq": whole() | Range("[whole number, step or episode]", _is_frequency),
    "gradient_steps": whole(-1),
    "action_noise": made_by("an ActionNoise (from Python only)", ActionNoise) | NOTHING,
    "replay_buffer_class": _CLASS,
    "replay_buffer_kwargs": _MAPPING,
    "optimize_memory_usage": FLAG,
    "policy_delay": whole(),
    "target_policy_noise": NOT_NEGATIVE,
    "target_noise_clip": NOT_NEGATIVE,
    "target_update_interval": whole(),
    "target_entropy": choice("auto") | real(),
    "use_sde_at_warmup": FLAG,
    "top_quantiles_to_drop_per_net": whole(0),
    "noise_type": choice(*NOISES),
    "noise_std": NOT_NEGATIVE,
}

ON_POLICY: dict[str, Range] = {
    "n_epochs": whole(1, 10_000),
    "gae_lambda": SHARE,
    "clip_range": _POSITIVE,
    "clip_range_vf": _POSITIVE | NOTHING,
    "normalize_advantage": FLAG,
    "vf_coef": NOT_NEGATIVE,
    "max_grad_norm": POSITIVE,
    "rollout_buffer_class": _CLASS,
    "rollout_buffer_kwargs": _MAPPING,
    "target_kl": POSITIVE | NOTHING,
    "rms_prop_eps": POSITIVE,
    "use_rms_prop": FLAG,
    "cg_max_steps": whole(1, 10_000),
    "cg_damping": NOT_NEGATIVE,
    "line_search_shrinking_factor": real(0, 0.999, above=True),
    "line_search_max_iter": whole(1, 10_000),
    "n_critic_updates": whole(1, 10_000),
    "sub_sampling_factor": whole(1, 10_000),
    # ARS
    "n_delta": whole(1, 10_000),
    "n_top": whole(1, 10_000) | NOTHING,
    "delta_std": _POSITIVE,
    "zero_policy": FLAG,
    "alive_bonus_offset": real(),
    "n_eval_episodes": whole(1, 10_000),
}

POLICY: dict[str, Range] = {
    "net_arch": Range(f"widths of layers, each in 1..{WIDEST_LAYER:,}", _is_net) | NOTHING,
    "activation_fn": FUNCTION,
    "features_extractor_class": _CLASS,
    "features_extractor_kwargs": _MAPPING,
    "optimizer_class": _CLASS,
    "optimizer_kwargs": _MAPPING,
    "log_std_init": real(-20, 2),
    "clip_mean": NOT_NEGATIVE,
    "n_critics": whole(1, 100),
    "n_quantiles": whole(1, 10_000),
    "lstm_hidden_size": whole(1, WIDEST_LAYER),
    "n_lstm_layers": whole(1, 100),
    "lstm_kwargs": _MAPPING,
} | dict.fromkeys(
    (
        "enable_critic_lstm",
        "full_std",
        "normalize_images",
        "ortho_init",
        "share_features_extractor",
        "shared_lstm",
        "squash_output",
        "use_expln",
        "use_sde",
        "with_bias",
    ),
    FLAG,
)
"""Of ``policy_kwargs``."""


def ranges_of(defaults: dict[str, Any]) -> dict[str, Range]:
    """The ranges of an algorithm's arguments.

    Args:
        defaults: its arguments with their default values.
    """
    # A weight, or where the algorithm can learn it, a text that says so.
    weight = real()
    if _text(defaults.get("ent_coef")):
        weight = Range("'auto' or 'auto_<first value>'", _is_automatic) | NOT_NEGATIVE
    found = COMMON | OFF_POLICY | ON_POLICY | {"ent_coef": weight}
    if defaults.get("target_kl") is not None:  # TRPO cannot do without
        found["target_kl"] = POSITIVE
    return found
