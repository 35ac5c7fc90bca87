"""Does an agent find the best plan of a toy whose every plan is known? Table of README, Limits.

    .venv/bin/python notebooks/results/enumerated_toys.py

Networks of two groups with 10 channels each (training seeds 0 to 5), target 0.4, five seeds of each
agent, 50 evaluations: half of all plans. Every agent of the package takes part on the first network
(learning agents take minutes a row there), `spear-ddpg` and `random` on all six. Writes
`enumerated-toys.md` beside this file, and keeps finished rows in `enumerated-toys.jsonl`.
"""

from __future__ import annotations

import itertools
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from spear_gym.agents import AGENTS, make_agent, run_search
from spear_gym.evaluation import PlanEvaluator
from spear_gym.files import write_text
from spear_gym.lre import NoEstimator
from spear_gym.processes import prepare_process
from spear_gym.reward import TargetAwareReward
from spear_gym.target import Candidate, Judge, make_judge

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
NETWORKS, CHANNELS, TARGET, SEEDS = range(6), 10, 0.4, 5
ON_ALL = ("spear-ddpg", "random")
ROWS = HERE / "enumerated-toys.jsonl"


@cache
def toy(network: int) -> tuple[PlanEvaluator, Judge, Candidate]:
    """A network's evaluator and judge, and the best of all its plans."""
    import toys  # the tests' small networks

    workload = toys.trained((CHANNELS, CHANNELS), name="ten", seed=network)
    evaluator = PlanEvaluator(workload, scoring="refit")
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=TARGET)
    plans = itertools.product(range(1, CHANNELS + 1), repeat=2)
    judged = [judge(evaluator.evaluate(plan)) for plan in plans]
    feasible = [candidate for candidate in judged if candidate.feasible]
    return evaluator, judge, max(feasible, key=lambda c: (c.accuracy, -c.evaluation.synops))


def row(agent: str, network: int) -> dict[str, Any]:
    """How an agent does on one network, over its seeds."""
    evaluator, judge, best = toy(network)
    budget = CHANNELS**2 // 2
    found = [
        run_search(make_agent(agent), evaluator, judge, budget=budget, seed=seed)
        for seed in range(SEEDS)
    ]
    return {
        "agent": agent,
        "network": network,
        "best": list(best.evaluation.counts),
        "hits": sum(one.best.evaluation.counts == best.evaluation.counts for one in found),
        "missed": sum(best.accuracy - one.best.accuracy for one in found) / SEEDS,
        "paid": [one.paid for one in found],
        "charged": [one.charged for one in found],
        "learned": sum(one.updated for one in found),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """What is there, as Markdown: all agents on the first network, some on all."""
    first = [r for r in rows if r["network"] == NETWORKS[0]]
    lines = [
        f"How often the best plan was found in {SEEDS} seeds, and the mean accuracy missed. "
        "Learned: searches in which the agent was updated at least once (black boxes and rules "
        "always are).",
        "",
        f"On network {NETWORKS[0]}, best plan {tuple(first[0]['best'])}:",
        "",
        "| agent | found | accuracy missed | solved (4 of 5) | paid | learned |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(first, key=lambda r: list(AGENTS).index(r["agent"])):
        solved = "yes" if r["hits"] >= 4 else "no"
        lines.append(
            f"| `{r['agent']}` | {r['hits']} of {SEEDS} | {r['missed']:.3f} | {solved} "
            f"| {min(r['paid'])}–{max(r['paid'])} | {r['learned']} |"
        )
    lines += ["", f"On networks {NETWORKS[0]} to {NETWORKS[-1]}:", ""]
    lines += [f"| network | best plan | {' | '.join(ON_ALL)} |", f"|---|---|{'---|' * len(ON_ALL)}"]
    for network in NETWORKS:
        own = {r["agent"]: r for r in rows if r["network"] == network}
        if all(agent in own for agent in ON_ALL):
            cells = [f"{own[a]['hits']} of {SEEDS} ({own[a]['missed']:.3f})" for a in ON_ALL]
            best = tuple(own[ON_ALL[0]]["best"])
            lines.append(f"| {network} | {best} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing, row by row, and writes the table."""
    prepare_process(1)
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    done = {(r["agent"], r["network"]) for r in rows}
    wanted = [(agent, NETWORKS[0]) for agent in AGENTS]
    wanted += itertools.product(ON_ALL, NETWORKS[1:])
    for agent, network in wanted:
        if (agent, network) not in done:
            rows.append(row(agent, network))
            write_text(ROWS, "".join(json.dumps(r) + "\n" for r in rows))
            write_text(HERE / "enumerated-toys.md", table(rows))


if __name__ == "__main__":
    main()
