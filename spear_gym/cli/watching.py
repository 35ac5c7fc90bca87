"""What a command shows of the searches that it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.progress import Progress, TaskID

from spear_gym.agents.base import Agent, SearchSession
from spear_gym.agents.front import SearchInterrupted, SearchJob, Watcher
from spear_gym.agents.repair import RepairStep
from spear_gym.agents.run_folder import SearchReport
from spear_gym.cli.common import INTERRUPTED, out, progress_bar
from spear_gym.cli.tables import show_report
from spear_gym.evaluation import PlanEvaluator


@contextmanager
def watching(agent: Agent, evaluator: PlanEvaluator) -> Iterator[Watcher]:
    """Shows progress and reports; an interrupt ends the command with what is kept.

    Args:
        agent: who searches.
        evaluator: of the plans.
    """
    watcher = _Shown(agent, evaluator)
    try:
        yield watcher
    except SearchInterrupted as stop:
        watcher.end()
        out.print(
            f"interrupted after {stop.found.paid} evaluations; the best plan so far is in "
            f"{stop.folder / 'plan.json'}; continue with --resume",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        watcher.end()


class _Shown(Watcher):
    """One progress bar at a time."""

    def __init__(self, agent: Agent, evaluator: PlanEvaluator) -> None:
        self._agent, self._evaluator = agent, evaluator
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._plans = 1

    def _begin(self, name: str, total: int | None, extra: str = "", **values: Any) -> None:
        self.end()
        self._bar = progress_bar(extra)
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, **values)

    def _update(self, **values: Any) -> None:
        assert self._bar is not None
        self._bar.update(self._task, **values)

    def end(self) -> None:
        """Takes the bar away, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def search(self, job: SearchJob) -> None:
        """A bar of evaluations."""
        name = f"search ({self._agent.name}, target {job.judge.target:.3g})"
        extra = "best reward so far {task.fields[best]}"
        self._begin(name, job.settings.budget, extra, best="-")

    def candidate(self, session: SearchSession) -> None:
        """One evaluation more."""
        best = f"{session.curve[-1].best_reward:.3f}"
        self._update(completed=session.spent, best=best)

    def searched(self, job: SearchJob) -> None:
        """All of them."""
        self._update(completed=job.settings.budget)
        self.end()

    def tune(self, job: SearchJob) -> None:
        """A bar of batches."""
        self._plans = job.settings.top
        self._begin("fine-tune", None)

    def batch(self, number: int, done: int, total: int) -> None:
        """One batch more."""
        self._update(completed=number * total + done, total=self._plans * total)

    def step(self, step: RepairStep) -> None:
        """What a repair does."""
        self._update(description=f"repair ({step.action})")

    def report(self, job: SearchJob, report: SearchReport) -> None:
        """The table."""
        self.end()
        show_report(report, self._evaluator, job.judge, job.settings.goal.target_synops)
