"""Does an agent find the best plan of a toy whose every plan is known? Table of README, Limits.

    .venv/bin/python notebooks/results/enumerated_toys.py

Six networks of two groups with 10 channels each (training seeds 0 to 5), target 0.4, five seeds of
each agent, 50 evaluations: half of all plans. Writes `enumerated-toys.md` beside this file.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from spear_gym.agents import make_agent, run_search
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import NoEstimator
from spear_gym.processes import prepare_process
from spear_gym.reward import TargetAwareReward
from spear_gym.target import make_judge

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
AGENTS = ("spear-ddpg", "random")
CHANNELS, TARGET, SEEDS = 10, 0.4, 5


def row(network: int) -> str:
    """One network: its best plan, and how often each agent found it."""
    import toys  # the tests' small networks

    workload = toys.trained((CHANNELS, CHANNELS), name="ten", seed=network)
    evaluator = PlanEvaluator(workload, scoring="refit")
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=TARGET)
    plans = list(itertools.product(range(1, CHANNELS + 1), repeat=2))
    judged = [judge(evaluator.evaluate(plan)) for plan in plans]
    feasible = [candidate for candidate in judged if candidate.feasible]
    best = max(feasible, key=lambda c: (c.accuracy, -c.evaluation.synops))
    cells = [str(network), str(best.evaluation.counts)]
    for agent in AGENTS:
        found = [
            run_search(make_agent(agent), evaluator, judge, budget=len(plans) // 2, seed=seed).best
            for seed in range(SEEDS)
        ]
        hits = sum(one.evaluation.counts == best.evaluation.counts for one in found)
        short = sum(best.accuracy - one.accuracy for one in found) / SEEDS
        cells.append(f"{hits} of {SEEDS} ({short:.3f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Writes the table."""
    prepare_process(1)
    lines = [
        "How often the best plan was found; in brackets the mean accuracy missed.",
        "",
        f"| network | best plan | {' | '.join(AGENTS)} |",
        "|---|---|---|---|",
        *map(row, range(6)),
    ]
    (HERE / "enumerated-toys.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
