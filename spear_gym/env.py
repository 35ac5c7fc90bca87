"""SpearPruneEnv: layer-wise pruning of a spiking network as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from spear_gym.envs_registry.fits import stored_lre
from spear_gym.evaluation import (
    Evaluation,
    EvaluationFailed,
    Finetuned,
    PlanEvaluator,
    PrefixMeasure,
)
from spear_gym.lre import SynopsEstimator
from spear_gym.observation import HIGH, NAMES, Observer
from spear_gym.report.plan_view import LayerView, PlanView, draw_plan, print_plan
from spear_gym.reward import RewardShape, make_reward
from spear_gym.simulation.simulate import Precision, Scoring
from spear_gym.snn.trace import register_neurons
from spear_gym.target import Candidate, Judge, best_of, make_estimator, make_judge
from spear_gym.training import Recipe
from spear_gym.workload import Workload, load_workload

Observation = NDArray[np.float32]
Action = NDArray[np.float32]


class ActionError(ValueError):
    """An action is NaN or has the wrong shape."""


class SpearPruneEnv(gym.Env[Observation, Action], EzPickle):
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

    Nothing is pruned; ``reset`` is deterministic whatever the seed.

    ## Episode End

    Exactly L steps, then ``terminated``; never truncated. The last ``info`` holds ``accuracy``,
    ``synops``, ``synops_fraction``, ``predicted_synops_fraction``, ``target``, ``reward_terms``,
    ``cost`` = max(0, r - 1), ``params_fraction``, ``plan`` (channels kept per group),
    ``evaluation_id`` and ``cached``. A plan that cannot be evaluated ends the episode with the
    smallest reward and ``info["failure"]``.

    ## Arguments

    ```python
    import gymnasium as gym

    gym.make("spear_gym:SpearPrune-v0", workload="digits", target=0.3)
    ```

    Args:
        workload: a name in the catalogue, or a :class:`~spear_gym.workload.Workload`.
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
            0.95; by the prediction itself if None, as in the paper.
        extrapolate: allow a target outside the SynOps that the prediction was fitted to.
        channel_multiple: kept channels are rounded to multiples of this, before ``min_channels``
            and the group's width bound them.
        min_channels: fewest channels a group keeps.
        max_ratio: largest prune ratio.
        hidden_features: names of observation features to show as 0, for ablations.
        evaluator: share another environment's evaluator (workload, scoring and the other
            settings of plans are then its own).
        render_mode: ``"ansi"`` or ``"rgb_array"``.

    Raises:
        ValueError: one of its subclasses, naming what does not fit, before anything is trained.

    ## Version History

    * v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it an instance variable
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        workload: str | Workload = "digits",
        target: float | None = None,
        target_synops: float | None = None,
        reward: str | RewardShape = "tar",
        reward_settings: Mapping[str, Any] | None = None,
        scoring: Scoring | None = None,
        precision: Precision = "float32",
        criterion: str = "l1",
        lre: str | SynopsEstimator = "auto",
        confidence: float | None = None,
        extrapolate: bool = False,
        channel_multiple: int = 1,
        min_channels: int = 1,
        max_ratio: float = 0.9,
        hidden_features: Sequence[str] = (),
        evaluator: PlanEvaluator | None = None,
        render_mode: str | None = None,
    ) -> None:
        shape = make_reward(reward, reward_settings)
        if evaluator is None:
            loaded = load_workload(workload) if isinstance(workload, str) else workload
            evaluator = PlanEvaluator(
                loaded,
                scoring=scoring,
                precision=precision,
                criterion=criterion,
                channel_multiple=channel_multiple,
                min_channels=min_channels,
                max_ratio=max_ratio,
            )
        space = evaluator.space
        # A copy makes an evaluator like this one, of which only the settings travel.
        EzPickle.__init__(
            self,
            evaluator.workload,
            target,
            target_synops,
            reward,
            reward_settings,
            evaluator.scoring,
            evaluator.precision,
            evaluator.criterion,
            lre,
            confidence,
            extrapolate,
            space.channel_multiple,
            space.min_channels,
            space.max_ratio,
            hidden_features,
            None,
            render_mode,
        )
        if target is None and target_synops is None:
            target = DEFAULT_TARGET
        self.evaluator = evaluator
        stored = stored_lre(evaluator) if lre == "auto" else None
        estimator = make_estimator(evaluator, lre, stored)
        self.judge: Judge = make_judge(
            evaluator,
            estimator,
            shape,
            target=target,
            target_synops=target_synops,
            confidence=confidence,
            extrapolate=extrapolate,
        )
        self.render_mode = render_mode
        self.observation_names = NAMES
        self.observation_space = gym.spaces.Box(np.zeros_like(HIGH), HIGH, dtype=np.float32)
        self.action_space = gym.spaces.Box(
            np.float32(0.0), np.float32(evaluator.space.max_ratio), (1,), np.float32
        )
        self.best: Candidate | None = None
        self.evaluate: Callable[[tuple[int, ...]], Evaluation] = evaluator.evaluate
        self.measure: Callable[[tuple[int, ...]], PrefixMeasure] = evaluator.prefix
        self.on_candidate: Callable[[Candidate], None] | None = None
        self._observer = Observer(evaluator, self.judge.target, hidden_features)
        self._counts: tuple[int, ...] = ()
        self._ratio = 0.0
        self._ended = False

    # ---------------------------------------------------------------- Gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode with nothing pruned."""
        super().reset(seed=seed, options=options)
        self._counts, self._ratio, self._ended = (), 0.0, False
        return self._observe(), {"group": self.evaluator.space.groups[0].name}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Applies a prune ratio to the group at hand; see the class docstring."""
        info = self._apply(action)
        if len(self._counts) < len(self.evaluator.space):
            try:
                return self._observe(), 0.0, False, False, info
            except EvaluationFailed as error:
                return self._failed(error, info)
        try:
            cached = self._counts in self.evaluator.known
            candidate = self.judge.conclude(self.evaluate(self._counts))
        except EvaluationFailed as error:
            return self._failed(error, info)
        self.best = best_of([candidate] if self.best is None else [self.best, candidate])
        if self.on_candidate is not None:
            self.on_candidate(candidate)
        info |= final_info(candidate, self.judge.target, cached)
        return self._observe(), candidate.reward, True, False, info

    def render(self) -> Any:
        """Text (``"ansi"``) or an RGB picture (``"rgb_array"``) of the plan so far."""
        if self.render_mode == "ansi":
            return print_plan(self._view())
        if self.render_mode == "rgb_array":
            return draw_plan(self._view())
        return None

    # ---------------------------------------------------------------- for users

    def finetune(
        self, candidate: Candidate | None = None, *, seed: int = 0, recipe: Recipe | None = None
    ) -> Any:
        """Fine-tunes a plan and returns the smaller snnTorch network.

        Args:
            candidate: which plan; the best so far by default.
            seed: of the sample order.
            recipe: how; the workload's recipe by default (LRE predicts for that one).

        Raises:
            ValueError: when no episode has ended yet.
        """
        return register_neurons(self.finetuned(candidate, seed=seed, recipe=recipe).model)

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

    def _apply(self, action: Action) -> dict[str, Any]:
        index = len(self._counts)
        count, self._ratio = self._count(action)
        self._counts = (*self._counts, count)
        return {
            "group": self.evaluator.space.groups[index].name,
            "applied_action": np.array([self._ratio], dtype=np.float32),
            "channels_kept": count,
        }

    def _count(self, action: Action) -> tuple[int, float]:
        """Channels that the group at hand keeps, and the ratio that says so."""
        space = self.evaluator.space
        index = len(self._counts)
        if self._ended or index >= len(space):
            raise ActionError("the episode has ended; call reset() before step()")
        values = np.asarray(action, dtype=np.float32)
        if values.shape != (1,):
            raise ActionError(f"action has shape {values.shape}; it must be (1,), one prune ratio")
        if not np.isfinite(values[0]):
            raise ActionError(
                f"action is {values[0]}; it must be a number in [0, {space.max_ratio}]"
            )
        ratio = float(np.clip(values[0], np.float32(0.0), np.float32(space.max_ratio)))
        return space.count(index, ratio), ratio

    def _observe(self) -> Observation:
        measured = self.measure(self._counts)
        return self._observer(len(self._counts), measured, self._ratio)

    def _failed(
        self, error: EvaluationFailed, info: dict[str, Any]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._ended = True
        # The last decision is taken back, so that what render() shows was measured.
        self._counts = self._counts[:-1]
        observation = np.zeros_like(HIGH)
        return observation, self.judge.reward_bounds[0], True, False, info | {"failure": str(error)}

    def _view(self) -> PlanView:
        space, evaluator = self.evaluator.space, self.evaluator
        measured = evaluator.prefix(self._counts)
        reference = evaluator.reference
        layers = []
        for index, group in enumerate(space.groups):
            decided = index < len(self._counts)
            at = evaluator.prefix(self._counts[:index]) if index <= len(self._counts) else None
            layers.append(
                LayerView(
                    group.name,
                    group.channels,
                    self._counts[index] if decided else None,
                    None if at is None else at.input_rate,
                )
            )
        final = evaluator.known.get(self._counts)
        candidate = None if final is None else self.judge(final)
        return PlanView(
            workload=evaluator.workload.name,
            layers=tuple(layers),
            committed=measured.synops_committed / reference.synops,
            still_open=measured.synops_open / reference.synops,
            target=self.judge.target,
            predicted=None if candidate is None else candidate.predicted_fraction,
            accuracy=None if candidate is None else candidate.accuracy,
            reward=None if candidate is None else candidate.reward,
        )


DEFAULT_TARGET = 0.3


def final_info(candidate: Candidate, target: float, cached: bool) -> dict[str, Any]:
    """The ``info`` of an episode's last step."""
    evaluation = candidate.evaluation
    return {
        "accuracy": evaluation.accuracy,
        "synops": evaluation.synops,
        "synops_fraction": evaluation.synops_fraction,
        "predicted_synops_fraction": candidate.predicted_fraction,
        "target": target,
        "reward_terms": dict(candidate.terms),
        "cost": candidate.cost,
        "params_fraction": evaluation.params_fraction,
        "plan": evaluation.counts,
        "evaluation_id": evaluation.id,
        "cached": cached,
    }
