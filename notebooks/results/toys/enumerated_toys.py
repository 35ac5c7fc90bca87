"""Does an agent find the best plan of a toy whose every plan is known? Table: `enumerated.md`.

    .venv/bin/python notebooks/results/toys/enumerated_toys.py

Six networks of two groups with 10 channels each (training seeds 0 to 5), target 0.4, five seeds of
each agent, 50 evaluations: half of all plans. Every agent of the package takes part. Writes
`enumerated.md` beside this file, and keeps finished rows in `data/enumerated.jsonl`.
"""

from __future__ import annotations

import itertools
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from spear_gym.agents import AGENTS, make_agent, run_search
from spear_gym.boundary.files import write_text
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Candidate, Judge, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.workers.processes import prepare_process

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "tests"))
NETWORKS, CHANNELS, TARGET, SEEDS = range(6), 10, 0.4, 5
ROWS = HERE / "data" / "enumerated.jsonl"

READING = """\
Half of the plans are paid for, so chance alone often finds the best one: `random` does in about
half of the searches, and so do two agents that never learned (`ppo-default`, `trpo-default`). Four
hits of five on one network are therefore little evidence for an agent; the sums are more.

Which cannot, and why:

- `uniform`, `global-l1`, `network-slimming`, `sca` and `gates` turn one knob, and end by themselves
  after five to eight plans. They find the best plan where it lies on their way, then in every seed.
- `ppo-default` and `trpo-default` learn for the first time after 2,048 steps, later than this
  budget. They draw all plans from their first policy.
- `ddpg-default`, `td3-default`, `sac-default`, `tqc-default` and `crossq-default` act at random for
  their first 100 steps, which are 50 episodes here: nearly the whole budget.
- `cma-es`, `ars` and `ars-default` return to plans that are paid for already: the search ends after
  500 episodes with 7 to 34 of them.
- The best plan of network 1 keeps all channels of one layer, at the border of the space, where few
  agents look.
"""


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
    """One line per agent that has all networks, as Markdown."""
    best = {r["network"]: tuple(r["best"]) for r in rows}
    heads = " | ".join(f"{network}: {best[network]}" for network in sorted(best))
    lines = [
        f"How often the best plan was found in {SEEDS} seeds, by network and its best plan; in "
        "brackets the mean accuracy missed. Learned: searches in which the agent was updated at "
        "least once (black boxes and rules always count as such).",
        "",
        f"| agent | {heads} | all | solved (4 of 5) | paid | learned |",
        f"|---|{'---|' * (len(best) + 4)}",
    ]
    for agent in AGENTS:
        own = sorted((r for r in rows if r["agent"] == agent), key=lambda r: r["network"])
        if len(own) == len(NETWORKS):
            cells = [f"{r['hits']} ({r['missed']:.3f})" for r in own]
            paid = [n for r in own for n in r["paid"]]
            hits, solved = sum(r["hits"] for r in own), sum(r["hits"] >= 4 for r in own)
            learned = sum(r["learned"] for r in own)
            lines.append(
                f"| `{agent}` | {' | '.join(cells)} | {hits} of {SEEDS * len(own)} "
                f"| {solved} of {len(own)} | {min(paid)}–{max(paid)} | {learned} |"
            )
    return "\n".join([*lines, "", _ranking(rows), "", READING])


def _ranking(rows: list[dict[str, Any]]) -> str:
    """All agents by the sum of their hits."""
    hits = {agent: sum(r["hits"] for r in rows if r["agent"] == agent) for agent in AGENTS}
    ranked = sorted(hits, key=lambda agent: -hits[agent])
    return f"In sum: {', '.join(f'`{agent}` {hits[agent]}' for agent in ranked)}."


def main() -> None:
    """Runs what is missing, row by row, and writes the table."""
    prepare_process(1)
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    done = {(r["agent"], r["network"]) for r in rows}
    for agent, network in itertools.product(AGENTS, NETWORKS):
        if (agent, network) not in done:
            rows.append(row(agent, network))
            write_text(ROWS, "".join(json.dumps(r) + "\n" for r in rows))
            write_text(HERE / "enumerated.md", table(rows))


if __name__ == "__main__":
    main()
