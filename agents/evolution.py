"""Regularised (aging) evolution, as a sampler of Optuna.

Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture Search, AAAI
2019, algorithm 1: the population begins with random members; then each cycle draws a sample of
it, with replacement, copies the sample's best member with one mutation, and removes the oldest
member, not the worst. So the population is always the newest members.

Two things are *reconstructed*: the paper mutates architectures, here one prune ratio takes a
normal step; and population and sample fit budgets of some hundred plans (the paper: 100 and 25
for 20,000 models).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class RegularizedEvolutionSampler(BaseSampler):
    """Aging evolution over floats, for one objective.

    Args:
        population: members alive.
        sample: members drawn, with replacement, of which the best becomes a parent.
        step: standard deviation of a mutation, as a share of the range; a mutation beyond the
            range is drawn again.
        seed: of everything random.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self, population: int = 20, sample: int = 5, step: float = 0.25, seed: int | None = None
    ) -> None:
        if population < 1 or sample < 1:
            raise ValueError(
                f"population is {population} and sample {sample}; both must be at least 1"
            )
        if not 0 < step < float("inf"):
            raise ValueError(f"step is {step}; it must be a number above 0")
        self.population = population
        self.sample = sample
        self.step = step
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._space = IntersectionSearchSpace()

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's interface
    ) -> dict[str, BaseDistribution]:
        """The parameters that all trials have."""
        return self._space.calculate(study)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's interface
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """A mutated copy of a parent; nothing, so a random member, while the population grows.

        Raises:
            ValueError: for several objectives, or parameters that are no floats.
        """
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < self.population:
            return {}
        parent = self._parent(study, done[-self.population :])
        names = sorted(search_space)
        name = names[int(self._rng.integers(len(names)))]
        child = {key: parent.params[key] for key in names}
        child[name] = self._mutated(child[name], search_space[name])
        return child

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A uniform value, for the first members."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _parent(self, study: Study, alive: Sequence[FrozenTrial]) -> FrozenTrial:
        sign = 1.0 if study.direction is StudyDirection.MAXIMIZE else -1.0
        drawn = [alive[int(i)] for i in self._rng.integers(len(alive), size=self.sample)]
        return max(drawn, key=lambda member: sign * (member.value or 0.0))

    def _mutated(self, value: float, limits: BaseDistribution) -> float:
        if not isinstance(limits, FloatDistribution):
            raise ValueError(f"regularised evolution takes floats only, not {limits}")
        spread = self.step * (limits.high - limits.low)
        while True:
            moved = value + spread * float(self._rng.standard_normal())
            if limits.low <= moved <= limits.high:
                return moved
