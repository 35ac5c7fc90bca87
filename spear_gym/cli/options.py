"""Options that several commands have: name, type and help of each, said once."""

from __future__ import annotations

from typing import Annotated

import typer

WorkloadOption = Annotated[str, typer.Option(help="Catalogue name, or module:function.")]
NameArgument = Annotated[str, typer.Argument(help="Catalogue name, or module:function.")]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes; all cores by default.")]
ThreadsOption = Annotated[int, typer.Option(help="Torch threads of this process.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="Ledger elsewhere: a journal file, sqlite:///FILE or postgresql://HOST/NAME.",
        envvar="SPEAR_GYM_STORAGE",
    ),
]
BudgetOption = Annotated[int, typer.Option(help="Paid evaluations of each search.")]
TargetsOption = Annotated[str, typer.Option(help="SynOps fractions, separated by commas.")]
HideOption = Annotated[
    list[str] | None,
    typer.Option(help="Observation feature that agents see as 0; repeatable."),
]

# ---------------------------------------------------------------- plans (PlanSettings)

ScoringOption = Annotated[
    str | None, typer.Option(help="plain, recalibrated or refit; the workload's default if unset.")
]
PrecisionOption = Annotated[str, typer.Option(help="Of scoring: float32 or bfloat16.")]
CriterionOption = Annotated[str, typer.Option(help="l1, bn_scale, taylor or random.")]
ChannelMultipleOption = Annotated[int, typer.Option(help="Kept channels are multiples of it.")]
MinChannelsOption = Annotated[int, typer.Option(help="Fewest channels a layer keeps.")]
MaxRatioOption = Annotated[float, typer.Option(help="Largest prune ratio.")]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(help="Layer that stays whole; repeatable. `spear inspect` shows the names."),
]

# ---------------------------------------------------------------- what is judged by (Goal)

RewardOption = Annotated[
    str, typer.Option(help="tar, mnasnet-soft, mnasnet-hard, tunas, amc, lagrangian or hard.")
]
RewardSettingOption = Annotated[
    list[str] | None, typer.Option(help="Setting of the reward, e.g. lam=10; repeatable.")
]
LREOption = Annotated[str, typer.Option(help="auto, none, or the path of a fit.")]
ExtrapolateOption = Annotated[
    bool, typer.Option("--extrapolate", help="Allow targets outside the fitted SynOps.")
]
_CONFIDENCE = typer.Option(
    help="With which the target is kept after fine-tuning, e.g. 0.95: plans are judged by the "
    "upper bound of the predicted SynOps. 'off': by the prediction itself."
)
ConfidenceOption = Annotated[str, _CONFIDENCE]
ConfidenceIfAny = Annotated[str | None, _CONFIDENCE]
