"""The one interface of all agents, and the budget that is equal for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np

from spear_gym.boundary.plugins import described, is_own, raised_by_us
from spear_gym.boundary.text import unknown
from spear_gym.degenerate import Habits, network_faults, no_better_than_guessing
from spear_gym.env import Observation, SpearPruneEnv
from spear_gym.evaluation import (
    Counts,
    Evaluation,
    EvaluationFailed,
    PlanEvaluator,
    PrefixMeasure,
)
from spear_gym.judge import Candidate, Judge, best_of

EPISODES_PER_EVALUATION = 10
"""A search ends at this many episodes per evaluation of its budget, paid or not."""

OnFailure = Callable[[Counts, EvaluationFailed], None]

_Measured = TypeVar("_Measured", Evaluation, PrefixMeasure)

MOST_REPEATS = 2000
"""A search ends at this many episodes in a row without a new plan: all episodes of a budget of 200.

Where the budget could pay for every plan there is, it ends at as many as there are plans, or at
:data:`FEWEST_REPEATS`.
"""

FEWEST_REPEATS = 100

LARGEST_BUDGET = 1_000_000
"""A search keeps all of its evaluations in memory: this many take some gigabytes."""


class AgentError(ValueError):
    """An agent is unknown, or a search's settings are."""


class AgentFailed(RuntimeError):  # noqa: N818 - the name says what happened
    """An agent raised an error of its own, or its library did.

    Attributes:
        found: what the search had found by then, ``None`` when it had evaluated nothing.
    """

    def __init__(self, message: str, found: SearchResult | None = None) -> None:
        super().__init__(message)
        self.found = found


def check_settings(agent: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuses settings that an agent does not have.

    Raises:
        AgentError: naming the first of them, with near matches.
    """
    for name in given:
        if name not in known:
            raise AgentError(unknown(f"setting of agent '{agent}'", name, tuple(known)))


def check_budget(budget: int) -> None:
    """Refuses a budget that no search can have.

    Raises:
        AgentError: below 1, or above :data:`LARGEST_BUDGET`.
    """
    if not 1 <= budget <= LARGEST_BUDGET:
        raise AgentError(
            f"budget is {budget}; it must lie in 1..{LARGEST_BUDGET:,}, for all evaluations of a "
            "search are kept in memory"
        )


class BudgetSpent(Exception):  # noqa: N818 - the regular end of a search, not an error
    """The search has used up its budget; raised by the session to end a search from within."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The search right after a paid evaluation.

    Attributes:
        spent: budget spent so far: paid evaluations, and what was charged beside them.
        episode: episodes so far.
        reward: this candidate's reward.
        best_reward: the largest reward so far.
        best_feasible_accuracy: of the best feasible plan so far, ``None`` before there is one.
    """

    spent: int
    episode: int
    reward: float
    best_reward: float
    best_feasible_accuracy: float | None


class SearchSession:
    """A search's budget, its record, and the only way to an evaluation.

    *Paid* evaluations are the distinct plans of this search, wherever the answer comes from. The
    session ends at ``budget`` paid ones or at ten times as many episodes; earlier when every plan
    there is is known, or when no new one has come up for long (:attr:`ended`). Work of another
    kind, such as training gates, is charged against the same budget (:meth:`charge`).

    Args:
        evaluator: scores plans.
        judge: target, estimator and reward.
        budget: paid evaluations.
        on_candidate: called after each paid evaluation.
        hidden_features: observation features that its environments show as 0.
        failures: plans, or first decisions of plans, that could not be evaluated in an earlier
            part of this search.
        on_failure: called when another one cannot be.

    Raises:
        AgentError: when the budget is below 1 or too large to keep.
    """

    def __init__(
        self,
        evaluator: PlanEvaluator,
        judge: Judge,
        budget: int,
        on_candidate: Callable[[SearchSession, Candidate], None] | None = None,
        hidden_features: Sequence[str] = (),
        failures: Mapping[Counts, EvaluationFailed] | None = None,
        on_failure: OnFailure | None = None,
    ) -> None:
        check_budget(budget)
        self.evaluator = evaluator
        self.judge = judge.fresh()
        self.budget = budget
        self.plans = evaluator.space.size
        self.paid: dict[Counts, Candidate] = {}
        self.failed: set[Counts] = set()
        self.curve: list[CurvePoint] = []
        self.episodes = 0
        self.repeats = 0
        self.begun = 0
        self.unfinished = 0
        self.updates = 0
        self.charged = 0
        self.charged_for = ""
        self.habits = Habits.of(evaluator.space)
        self.failure: Exception | None = None
        self._on_candidate = on_candidate
        self._hidden_features = hidden_features
        self.failures = dict(failures or {})
        self._on_failure = on_failure

    @property
    def spent(self) -> int:
        """Budget spent: paid evaluations, and what was charged beside them."""
        return len(self.paid) + self.charged

    @property
    def done(self) -> bool:
        """Whether the budget is spent, or nothing is left to spend it on."""
        return self.spent >= self.budget or self.ended != ""

    @property
    def ended(self) -> str:
        """Why the search is over with budget left, in words; empty when it is not."""
        if self.spent >= self.budget:
            return ""
        if len(self.paid) + len(self.failed) >= self.plans:
            return f"all {self.plans} plans are known"
        if self.repeats >= self.max_repeats:
            return f"no new plan in {self.repeats} episodes in a row"
        if self.episodes >= self.max_episodes:
            return f"all {self.episodes} episodes are used up"
        return ""

    def charge(self, evaluations: int, what_for: str) -> None:
        """Charges other work against the budget.

        Args:
            evaluations: how many evaluations it is worth. It must not depend on a clock, or a
                resumed search would differ.
            what_for: the conversion in words; stands in the result.
        """
        self.charged += evaluations
        self.charged_for = what_for

    @property
    def max_episodes(self) -> int:
        """Episodes at which the search ends whatever was paid."""
        return EPISODES_PER_EVALUATION * self.budget

    @property
    def max_repeats(self) -> int:
        """Episodes without a new plan, in a row, at which the search ends."""
        if self.plans > self.budget:
            return MOST_REPEATS
        return min(max(self.plans, FEWEST_REPEATS), MOST_REPEATS)

    @property
    def best(self) -> Candidate | None:
        """The best plan so far."""
        return best_of(self.paid.values())

    def submit(self, ratios: Sequence[float] | np.ndarray) -> Candidate:
        """Evaluates a vector of prune ratios, one per group.

        Raises:
            BudgetSpent: when the budget was spent before this call.
        """
        return self.judge.conclude(self.evaluate(self.evaluator.space.counts(ratios)))

    def evaluate(self, counts: Counts) -> Evaluation:
        """Evaluates a plan and records it.

        Raises:
            BudgetSpent: when the budget was spent before this call.
        """
        if self.done:
            raise BudgetSpent
        self._check_plan(counts)
        try:
            return self._evaluated(counts)
        except EvaluationFailed:
            raise
        except Exception as error:
            self.failure = error
            raise

    def _check_plan(self, counts: Counts) -> None:
        """Refuses what is no plan of the network, before it counts as one."""
        groups = self.evaluator.space.groups
        if len(counts) == len(groups) and all(
            _is_count(kept, group.channels) for kept, group in zip(counts, groups, strict=True)
        ):
            return
        most = ", ".join(str(group.channels) for group in groups)
        raise AgentError(
            f"{counts} is no plan: it must keep from 1 to ({most}) channels of the groups"
        )

    def _evaluated(self, counts: Counts) -> Evaluation:
        self.episodes += 1
        self.unfinished = 0
        self.habits.note(counts, repeated=counts in self.paid)
        known = counts in self.paid or counts in self.failed
        self.repeats = self.repeats + 1 if known else 0
        try:
            evaluation = self._attempt(counts, self.evaluator.evaluate)
        except EvaluationFailed:
            self.failed.add(counts)
            raise
        if counts not in self.paid:
            candidate = self.judge(evaluation)
            self.paid[counts] = candidate
            self._record(candidate)
            if self._on_candidate is not None:
                self._on_candidate(self, candidate)
        return evaluation

    def measure(self, counts: Counts) -> PrefixMeasure:
        """What is measured once the first groups are decided."""
        return self._attempt(counts, self.evaluator.prefix)

    def _attempt(self, counts: Counts, compute: Callable[[Counts], _Measured]) -> _Measured:
        """Computes, unless that failed before in this search.

        Memory that ran out once may suffice another time, and a search that is resumed would go
        another way.

        Raises:
            EvaluationFailed: when it cannot be computed.
        """
        known = self.failures.get(counts)
        if known is not None:
            raise EvaluationFailed(str(known), known.kind)
        try:
            return compute(counts)
        except EvaluationFailed as error:
            # Without its traceback, which would keep the activations.
            self.failures[counts] = EvaluationFailed(str(error), error.kind)
            if self._on_failure is not None:
                self._on_failure(counts, error)
            raise

    def make_env(self) -> SpearPruneEnv:
        """An environment whose episodes are paid from this session's budget."""
        return _SessionEnv(self, self._hidden_features)

    def __deepcopy__(self, memo: dict[int, Any]) -> SearchSession:
        """Itself: copies of its environments, as in a tree search, are paid from one budget."""
        return self

    def __getstate__(self) -> NoReturn:
        """Refused, for another process would spend the budget a second time.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a search session cannot be pickled, nor can its environments: its budget would be "
            "spent twice; copy.deepcopy gives an environment that is paid from the same budget"
        )

    def begin_episode(self) -> None:
        """Counts an episode that begins, so that one that never ends cannot run for ever.

        Raises:
            BudgetSpent: when many more have begun than the search may have, or than have ended.
        """
        self.begun += 1
        self.unfinished += 1
        if self.begun > 2 * self.max_episodes or self.unfinished > MOST_REPEATS:
            raise BudgetSpent

    def faults(self) -> tuple[str, ...]:
        """What is to be told of the search so far; see :mod:`spear_gym.degenerate`."""
        best, workload = self.best, self.evaluator.workload
        guessing = () if best is None else no_better_than_guessing(workload, best.accuracy)
        return (
            *network_faults(workload, self.evaluator.reference),
            *self.habits.faults(),
            *guessing,
        )

    def _record(self, candidate: Candidate) -> None:
        best = self.best
        previous = self.curve[-1].best_reward if self.curve else -np.inf
        self.curve.append(
            CurvePoint(
                self.spent,
                self.episodes,
                candidate.reward,
                max(previous, candidate.reward),
                best.accuracy if best is not None and best.feasible else None,
            )
        )


def _is_count(kept: Any, channels: int) -> bool:
    """Whether a group of so many channels can keep this: an agent may ask for anything."""
    return isinstance(kept, int) and 1 <= kept <= channels


class _SessionEnv(SpearPruneEnv):
    """An environment whose episodes begin and end in a session, under the session's judge."""

    def __init__(self, session: SearchSession, hidden_features: Sequence[str]) -> None:
        # An adaptive reward is one for the session and all of its environments.
        super().__init__(session.evaluator, session.judge, hidden_features=hidden_features)
        self._session = session

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode, if the session has one left."""
        self._session.begin_episode()
        return super().reset(seed=seed, options=options)

    def _evaluate(self, counts: Counts) -> Evaluation:
        return self._session.evaluate(counts)

    def _measure(self, counts: Counts) -> PrefixMeasure:
        return self._session.measure(counts)


class Agent(Protocol):
    """The interface of agents."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    def search(self, session: SearchSession, seed: int) -> None:
        """Searches until the session is done, or the agent has nothing left to try.

        Args:
            session: gives evaluations (:meth:`SearchSession.submit`) or an environment
                (:meth:`SearchSession.make_env`).
            seed: of everything random.
        """
        ...


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        agent: who searched.
        best: the best plan; see docs/definitions.md, "Best plan".
        candidates: all paid plans, in order.
        curve: one point per paid evaluation.
        paid: paid evaluations.
        charged: evaluations that other work was charged as.
        charged_for: how that work was converted, in words; empty when nothing was charged.
        episodes: episodes, repeated plans included.
        runs: simulator runs.
        seconds: wall time.
        interrupted: stopped by the user.
        ended: why the search was over with budget left, in words; empty when it was not, and when
            the agent had nothing left to try.
        updated: whether the agent learned anything within its budget (always true for agents
            that do not train).
        faults: what makes the result doubtful, in words; see :mod:`spear_gym.degenerate`.
    """

    agent: str
    best: Candidate
    candidates: tuple[Candidate, ...] = field(repr=False)
    curve: tuple[CurvePoint, ...] = field(repr=False)
    paid: int
    charged: int
    charged_for: str
    episodes: int
    runs: int
    seconds: float
    interrupted: bool
    ended: str
    updated: bool
    faults: tuple[str, ...] = ()


def run_search(
    agent: Agent,
    evaluator: PlanEvaluator,
    judge: Judge,
    *,
    budget: int,
    seed: int = 0,
    on_candidate: Callable[[SearchSession, Candidate], None] | None = None,
    hidden_features: Sequence[str] = (),
    failures: Mapping[Counts, EvaluationFailed] | None = None,
    on_failure: OnFailure | None = None,
) -> SearchResult:
    """Runs an agent on a budget.

    Args:
        agent: who searches.
        evaluator: scores plans.
        judge: target, estimator and reward.
        budget: paid evaluations.
        seed: of the agent.
        on_candidate: called after each paid evaluation. A ``KeyboardInterrupt`` ends the search
            with what was found so far.
        hidden_features: observation features that its environments show as 0.
        failures: see :class:`SearchSession`.
        on_failure: see :class:`SearchSession`.

    Raises:
        AgentError: when nothing was evaluated.
        AgentFailed: when the agent raises an error of its own; it holds what was found so far.
        KeyboardInterrupt: when nothing was evaluated before one.
    """
    session = SearchSession(
        evaluator, judge, budget, on_candidate, hidden_features, failures, on_failure
    )
    runs, start = evaluator.runs, time.perf_counter()
    interrupted, failure = False, None
    try:
        agent.search(session, seed)
    except BudgetSpent:
        pass
    except KeyboardInterrupt:
        if session.best is None:
            raise
        interrupted = True
    # A user's agent may end the program too.
    except (Exception, SystemExit) as error:
        if not _is_the_agents(error, agent, session):
            raise
        failure = error
    found = _result(agent, session, evaluator.runs - runs, time.perf_counter() - start, interrupted)
    if failure is not None:
        paid = len(session.paid)
        raise AgentFailed(
            f"agent '{agent.name}' failed after {paid} evaluation{'' if paid == 1 else 's'}: "
            f"{described(failure)}",
            found,
        ) from failure
    if found is None:
        raise AgentError(f"agent '{agent.name}' ended without evaluating a plan{_hint(session)}")
    return found


def _result(
    agent: Agent, session: SearchSession, runs: int, seconds: float, interrupted: bool
) -> SearchResult | None:
    """What a session found, ``None`` when nothing was evaluated."""
    best = session.best
    if best is None:
        return None
    trains = bool(getattr(agent, "trains", False))
    return SearchResult(
        agent=agent.name,
        best=best,
        candidates=tuple(session.paid.values()),
        curve=tuple(session.curve),
        paid=len(session.paid),
        charged=session.charged,
        charged_for=session.charged_for,
        episodes=session.episodes,
        runs=runs,
        seconds=seconds,
        interrupted=interrupted,
        ended=session.ended,
        updated=session.updates > 0 or not trains,
        faults=session.faults(),
    )


def _is_the_agents(error: BaseException, agent: Agent, session: SearchSession) -> bool:
    """Whether an error is the agent's, or its library's, and not one of what it was given."""
    if error is session.failure or isinstance(error, AgentError):
        return False
    if type(agent).__module__.startswith("spear_gym"):
        # A bug of ours shows its traceback.
        return is_own(error) or not raised_by_us(error)
    return True


def _hint(session: SearchSession) -> str:
    if session.begun == 0:
        return ""
    return (
        f": it began {session.begun} episodes and finished {session.episodes} of them; an episode "
        f"ends after one step for each of the {len(session.evaluator.space)} groups, and a plan "
        "that cannot be evaluated does not count"
    )
