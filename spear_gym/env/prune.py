"""SpearPruneEnv: layer-wise pruning of a spiking network as a Gymnasium environment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from spear_gym.boundary.text import shown, unknown
from spear_gym.env.arguments import OptionError, check_options, check_types
from spear_gym.env.info import FAILURES, Infos, failure_code
from spear_gym.env.observation import HIGH, NAMES, Observer
from spear_gym.env.spec import HasSpec
from spear_gym.env.view import view_of
from spear_gym.evaluation import (
    Counts,
    Evaluation,
    EvaluationFailed,
    Finetuned,
    PlanEvaluator,
    PrefixMeasure,
)
from spear_gym.judge import Candidate, Judge, best_of
from spear_gym.lre import SynopsEstimator
from spear_gym.pruning.limits import RatioLimit, WholeLimit
from spear_gym.report.plan_frame import draw_plan
from spear_gym.report.plan_view import print_plan
from spear_gym.reward import RewardShape
from spear_gym.settings import Goal, PlanSettings
from spear_gym.simulation.simulate import Precision, Scoring
from spear_gym.snn.handover import hand_over
from spear_gym.training import Recipe
from spear_gym.workload import Workload, resolve_workload

Observation = NDArray[np.float32]
Action = NDArray[np.float32]


class ActionError(ValueError):
    """An action is NaN or has the wrong shape."""


class SpearPruneEnv(HasSpec, gym.Env[Observation, Action]):
    """Prune a trained spiking neural network, layer by layer, to a target of SynOps.

    ## Description

    The environment follows SPEAR (Xie et al., arXiv 2507.02945). One episode walks through the L
    prunable groups of a trained spiking network in execution order. For each group the agent
    chooses the share of channels to remove; the least important ones under ``criterion`` go. At
    the end the pruned network is scored on the search split, its synaptic operations (SynOps)
    after fine-tuning are predicted by linear regression (LRE), and the reward tells how accurate
    it is and whether the target will be kept.

    ## Action Space

    ``Box(0, max_ratio, (1,), float32)``: the prune ratio of the group. Group l keeps
    ``round_half_up((1 - a) * C_l / m) * m`` of its C_l channels, at least ``min_channels``, with
    m = ``channel_multiple``. A NaN or a wrong shape raises :class:`ActionError`; a ratio out of
    range is clipped, and ``info["applied_action"]`` tells what was applied.

    ## Observation Space

    ``Box(0, high, (15,), float32)``. It is a summary, not a Markov state. Names are in
    ``env.unwrapped.observation_names``.

    | Index | Name | Meaning | Unit | Min | Max |
    |---|---|---|---|---|---|
    | 0 | position | groups decided / L | share | 0 | 1 |
    | 1 | is_linear | 1 for a linear layer, 0 for a convolution | - | 0 | 1 |
    | 2 | in_channels | input channels of the group's first layer | of the largest | 0 | 1 |
    | 3 | out_channels | output channels, unpruned | of the largest | 0 | 1 |
    | 4 | spatial_size | output positions (height x width) | of the largest | 0 | 1 |
    | 5 | kernel_size | kernel positions | of the largest | 0 | 1 |
    | 6 | stride | product of the strides | of the largest | 0 | 1 |
    | 7 | kept_inputs | input features that earlier decisions kept | share | 0 | 1 |
    | 8 | parameter_share | the group's weights in the unpruned network | share | 0 | 1 |
    | 9 | synops_share | the group's SynOps in the unpruned network | share | 0 | 1 |
    | 10 | input_rate | **measured** non-zero share of the layer's input | per step | 0 | 1 |
    | 11 | synops_committed | **measured** SynOps of the settled layers | of unpruned | 0 | 2 |
    | 12 | synops_open | unpruned SynOps of the layers not yet settled | of unpruned | 0 | 2 |
    | 13 | target | the SynOps target | of unpruned | 0 | 1 |
    | 14 | previous_action | prune ratio applied to the group before | share | 0 | 1 |

    For a group of several tied layers the geometry is that of its first layer.

    ## Rewards

    0 until the last step. Then, by default, the target-aware reward (TAR; *reconstructed*, the
    paper's equations were not available): with r = predicted SynOps fraction / target,

        R = accuracy - lam * max(0, r - 1),    lam = 5

    in [-lam * max(0, p_max / target - 1), 1], p_max being the largest prediction. Other shapes by
    name: ``"mnasnet-soft"``, ``"mnasnet-hard"``, ``"tunas"``, ``"amc"``, ``"lagrangian"`` and
    ``"hard"``; see :mod:`spear_gym.reward`.

    ## Starting State

    Nothing is pruned; ``reset`` is deterministic whatever the seed. There are no options.

    ## Episode End

    Exactly L steps, then ``terminated``; never truncated. A plan that cannot be evaluated ends the
    episode with the smallest reward. ``max_episode_steps`` of ``env.spec`` is L + 1. There is no
    ``reward_threshold``: what can be reached depends on target, scoring and reward.

    ## Info

    The same keys at ``reset`` and at every step, NumPy's numbers and arrays of numbers only; -1
    stands for what is not known yet. Names are on ``env.unwrapped``.

    | Key | Type | Meaning | Known |
    |---|---|---|---|
    | group | int64 | the group just decided, in ``group_names`` | from the first step |
    | applied_action | float32 (1,) | the prune ratio after clipping | from the first step |
    | channels_kept | int64 | channels that the group keeps | from the first step |
    | plan | int64 (L,) | channels kept per group | a group more at every step |
    | target | float64 | the SynOps target, of unpruned | always |
    | accuracy | float64 | on the search split, before fine-tuning | at the end |
    | synops | float64 | SynOps per sample, before fine-tuning | at the end |
    | synops_fraction | float64 | the same, of unpruned | at the end |
    | predicted_synops_fraction | float64 | after fine-tuning, of unpruned | at the end |
    | params_fraction | float64 | parameters, of unpruned | at the end |
    | reward_terms | float64 (terms,) | in ``reward_term_names``; their sum is the reward | always |
    | cost | float64 | max(0, r - 1) at the end, before it 0 | always |
    | evaluation_id | int64 | number of the plan among those evaluated | at the end |
    | cached | int64 | 1 if it had been evaluated before, else 0 | always |
    | failure | int64 | why there is no score, in ``failure_names``; 0 for none | always |

    After a failure the figures stay -1, the terms and the cost 0; ``last_failure`` is its text.

    ## Copies

    ``copy.deepcopy``, pickle and cloudpickle give an environment that goes on in mid-episode as
    this one would. Deep copies share its evaluator, and so its memory; a pickled one brings the
    plans evaluated so far, but activations are computed again.

    ## Arguments

    ```python
    import gymnasium as gym

    gym.make("spear_gym:SpearPrune-v0", workload="digits", target=0.3)
    ```

    ``gym.make`` takes flat arguments (:func:`spear_gym.env.make_env`); the class takes what they
    are made into.

    Args:
        evaluator: scores plans; environments that share it share its memory.
        judge: target, prediction and reward.
        hidden_features: names of observation features to show as 0, for ablations.
        render_mode: ``"ansi"`` or ``"rgb_array"``.

    Raises:
        ObservationError: for a feature that there is none of.

    ## Version History

    * v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it an instance variable
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        evaluator: PlanEvaluator,
        judge: Judge,
        *,
        hidden_features: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.judge = judge
        self.render_mode = render_mode
        self.observation_names = NAMES
        self.group_names = tuple(group.name for group in evaluator.space.groups)
        self.failure_names = FAILURES
        self.last_failure: str | None = None
        self.observation_space = gym.spaces.Box(np.zeros_like(HIGH), HIGH, dtype=np.float32)
        self.action_space = gym.spaces.Box(
            np.float32(0.0), np.float32(evaluator.space.largest_ratio), (1,), np.float32
        )
        self.best: Candidate | None = None
        self._observer = Observer(evaluator, judge.target, hidden_features)
        self._infos = Infos(len(evaluator.space), judge.target, judge.reward)
        self._counts: Counts = ()
        self._ratio = 0.0
        self._ended = False

    # ---------------------------------------------------------------- Gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode with nothing pruned.

        Raises:
            OptionError: for any option, since there are none.
        """
        check_options(options, ARGUMENTS)
        super().reset(seed=seed, options=options)
        self._counts, self._ratio, self._ended = (), 0.0, False
        return self._observe(), self._infos()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Applies a prune ratio to the group at hand; see the class docstring."""
        count, self._ratio = self._count(action)
        self._counts = (*self._counts, count)
        info = self._infos(self._counts, self._ratio)
        if len(self._counts) < len(self.evaluator.space):
            try:
                return self._observe(), 0.0, False, False, info
            except EvaluationFailed as error:
                return self._failed(error)
        try:
            cached = self._counts in self.evaluator.known
            candidate = self.judge.conclude(self._evaluate(self._counts))
        except EvaluationFailed as error:
            return self._failed(error)
        self.best = best_of([candidate] if self.best is None else [self.best, candidate])
        info |= self._infos.scored(candidate, self.evaluator.number(self._counts), cached)
        return self._observe(), candidate.reward, True, False, info

    def render(self) -> Any:
        """Text (``"ansi"``) or an RGB picture (``"rgb_array"``) of the plan so far."""
        if self.render_mode == "ansi":
            return print_plan(view_of(self.evaluator, self.judge, self._counts))
        if self.render_mode == "rgb_array":
            return draw_plan(view_of(self.evaluator, self.judge, self._counts))
        return None

    # ---------------------------------------------------------------- for users

    @property
    def reward_term_names(self) -> tuple[str, ...]:
        """Names of the entries of ``info["reward_terms"]``."""
        return self._infos.reward_term_names

    def finetune(
        self, candidate: Candidate | None = None, *, seed: int = 0, recipe: Recipe | None = None
    ) -> Any:
        """Fine-tunes a plan and returns the smaller snnTorch network.

        :func:`spear_gym.save_network` keeps it. It can be pickled and copied, and so sent from a
        worker process, where snnTorch's list of neurons to reset stays behind: hand it to
        :func:`spear_gym.snn.handover.hand_over` where it arrives.

        Args:
            candidate: which plan; the best so far by default.
            seed: of the sample order.
            recipe: how; the workload's recipe by default (LRE predicts for that one).

        Raises:
            ValueError: when no episode has ended yet.
        """
        return hand_over(self.finetuned(candidate, seed=seed, recipe=recipe).model)

    def finetuned(
        self, candidate: Candidate | None = None, *, seed: int = 0, recipe: Recipe | None = None
    ) -> Finetuned:
        """Like :meth:`finetune`, with the plan and the network's figures on search."""
        chosen = self.best if candidate is None else candidate
        if chosen is None:
            raise ValueError("there is no plan yet: run at least one episode before fine-tuning")
        return self.evaluator.finetune(chosen.evaluation.counts, seed=seed, recipe=recipe)

    # ---------------------------------------------------------------- steps

    def decided(self, action: Action) -> tuple[int, ...]:
        """Channels kept by the groups decided so far once an action is applied, which it is not.

        Raises:
            ActionError: as :meth:`step` does.
        """
        return (*self._counts, self._count(action)[0])

    def _evaluate(self, counts: Counts) -> Evaluation:
        return self.evaluator.evaluate(counts)

    def _measure(self, counts: Counts) -> PrefixMeasure:
        return self.evaluator.prefix(counts)

    def _count(self, action: Action) -> tuple[int, float]:
        """Channels that the group at hand keeps, and the ratio that says so."""
        space = self.evaluator.space
        index = len(self._counts)
        if self._ended or index >= len(space):
            raise ActionError("the episode has ended; call reset() before step()")
        try:
            values = np.asarray(action, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ActionError(f"action is {shown(action)}; it must be one prune ratio") from error
        if values.shape != (1,):
            raise ActionError(f"action has shape {values.shape}; it must be (1,), one prune ratio")
        if not np.isfinite(values[0]):
            raise ActionError(
                f"action is {values[0]}; it must be a number in [0, {space.largest_ratio}]"
            )
        ratio = float(np.clip(values[0], np.float32(0.0), np.float32(space.ratios[index])))
        return space.count(index, ratio), ratio

    def _groups_and_workload(self) -> tuple[int, str]:
        return len(self.evaluator.space), self.evaluator.workload.name

    def _observe(self) -> Observation:
        measured = self._measure(self._counts)
        return self._observer(len(self._counts), measured, self._ratio)

    def _failed(
        self, error: EvaluationFailed
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._ended = True
        self.last_failure = str(error)
        info = self._infos(self._counts, self._ratio, failure_code(error))
        # The last decision is taken back, so that what render() shows was measured.
        self._counts = self._counts[:-1]
        return np.zeros_like(HIGH), self.judge.reward_bounds[0], True, False, info


def make_env(
    workload: str | Workload | None = None,
    target: float | None = None,
    target_synops: float | None = None,
    reward: str | RewardShape = "tar",
    reward_settings: Mapping[str, Any] | None = None,
    scoring: Scoring | None = None,
    precision: Precision | None = None,
    criterion: str | None = None,
    lre: str | SynopsEstimator = "auto",
    confidence: float | None = None,
    extrapolate: bool = False,
    channel_multiple: WholeLimit | None = None,
    min_channels: WholeLimit | None = None,
    max_ratio: RatioLimit | None = None,
    exclude: Sequence[str] | None = None,
    hidden_features: Sequence[str] = (),
    evaluator: PlanEvaluator | None = None,
    render_mode: str | None = None,
    **others: Any,
) -> SpearPruneEnv:
    """An environment from flat arguments: the entry point of ``gym.make``.

    Args:
        workload: a name in the catalogue, ``module:function`` (a function of yours that makes one),
            or a :class:`~spear_gym.workload.Workload`.
        target: largest SynOps after fine-tuning, as a fraction of the unpruned network's.
        target_synops: the same as SynOps per sample; give one of the two.
        reward: a name, see Rewards, or a reward shape.
        reward_settings: keyword arguments of a named reward, for example ``{"lam": 10}``.
        scoring: ``"plain"``, ``"recalibrated"`` or ``"refit"``; the workload's default if None.
        precision: ``"bfloat16"`` scores faster where the processor has it, and flips a few spikes.
        criterion: ``"l1"``, ``"bn_scale"``, ``"taylor"`` or ``"random"``.
        lre: ``"auto"`` (your own fit if `spear lre` made one, else the shipped one), ``"none"``, a
            path, or an estimator.
        confidence: judge plans by the upper bound of the prediction at this confidence, for example
            0.95; by the prediction itself if None.
        extrapolate: allow a target outside the SynOps that the prediction was fitted to.
        channel_multiple: kept channels are rounded to multiples of this, before ``min_channels``
            and the group's width bound them. This and the next two may be mappings by a group's
            name, for example ``{"conv1": 8}``; groups that it does not name have the default.
        min_channels: fewest channels a group keeps.
        max_ratio: largest prune ratio.
        exclude: names of groups that are kept whole and not decided, for example ``["conv1"]``.
        hidden_features: names of observation features to show as 0, for ablations.
        evaluator: share another environment's evaluator. Workload, scoring and the other settings
            of plans are then its own; one that is given and differs is refused.
        render_mode: ``"ansi"`` or ``"rgb_array"``.
        others: refused, with near matches.

    Raises:
        ValueError: one of its subclasses, naming what does not fit, before anything is trained.
        TypeError: for an argument that there is none of.
    """
    given = dict(locals())
    for name in others:
        raise TypeError(unexpected("SpearPruneEnv", name, ARGUMENTS))
    check_types(given, tuple(SpearPruneEnv.metadata["render_modes"]))
    settings = {
        "scoring": scoring,
        "precision": precision,
        "criterion": criterion,
        "channel_multiple": channel_multiple,
        "min_channels": min_channels,
        "max_ratio": max_ratio,
        "exclude": None if exclude is None else tuple(exclude),
    }
    asked = {name: _plain(value) for name, value in settings.items() if value is not None}
    goal = Goal(target, target_synops, reward, reward_settings or {}, lre, confidence, extrapolate)
    goal.shape()
    if evaluator is None:
        evaluator = PlanSettings(**asked).evaluator(_loaded(workload))
    else:
        _check_agreement(evaluator, workload, asked)
    return SpearPruneEnv(
        evaluator,
        goal.judge(evaluator),
        hidden_features=hidden_features,
        render_mode=render_mode,
    )


# Gymnasium asks the entry point what can be rendered.
make_env.metadata = SpearPruneEnv.metadata  # type: ignore[attr-defined]

DEFAULT_WORKLOAD = "digits"

ARGUMENTS = tuple(name for name in inspect.signature(make_env).parameters if name != "others")


def _loaded(workload: str | Workload | None) -> Workload:
    if isinstance(workload, Workload):
        return workload
    return resolve_workload(DEFAULT_WORKLOAD if workload is None else workload)


def unexpected(made: str, name: str, known: tuple[str, ...]) -> str:
    """The message for an argument that there is none of.

    It begins as Python's own, since Gymnasium and TorchRL look for those words.
    """
    return f"{made}.__init__() got an unexpected keyword argument '{name}': " + unknown(
        "argument", name, known
    )


def _plain(value: Any) -> Any:
    """Python's own number in place of NumPy's, in a mapping, too."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _check_agreement(
    evaluator: PlanEvaluator, workload: str | Workload | None, given: Mapping[str, Any]
) -> None:
    """Refuses settings that a shared evaluator does not have."""
    name = workload.name if isinstance(workload, Workload) else workload
    own = {"workload": evaluator.workload.name, **asdict(PlanSettings.of(evaluator))}
    asked = dict(given) if name is None else {"workload": name, **given}
    for setting, value in asked.items():
        if value != own[setting]:
            raise OptionError(
                f"{setting} is {value!r}, but the evaluator that is given has {own[setting]!r}; "
                "leave one of the two out"
            )
