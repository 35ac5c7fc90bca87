"""Settings of spear-ddpg on enumerated toys: the fourth round of `tuning-spear-ddpg.md`.

    .venv/bin/python notebooks/results/toys/toy_settings.py

Networks of two groups with 10 channels, trained on all images of `digits` (20 epochs); targets 0.4
and 0.25; five seeds of each agent; 50 evaluations, half of all plans. Settings were looked at on
training seeds 20 to 23 and confirmed on 28 to 33. Writes `data/toy-settings.md`
row by row; all of it takes over an hour.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from spear_gym.agents import Agent, make_agent, run_search
from spear_gym.agents.spear_ddpg import SpearDDPG, SpearDDPGSettings
from spear_gym.boundary.files import write_text
from spear_gym.data import digits
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import ConvSNN
from spear_gym.training import Recipe, train
from spear_gym.workers.processes import prepare_process
from spear_gym.workload import Workload

HERE = Path(__file__).parent
CHANNELS, STEPS, SEEDS = 10, 3, 5
TARGETS = (0.4, 0.25)
LOOKED_AT, CONFIRMED = range(20, 24), range(28, 34)
PLANS = list(itertools.product(range(1, CHANNELS + 1), repeat=2))

BEFORE = SpearDDPGSettings(
    critic_learning_rate=3e-4,
    actor_learning_rate=3e-4,
    gradient_steps=4,
    batch_size=64,
    tau=0.01,
    every_transition=True,
)
FAST = SpearDDPGSettings(gradient_steps=16, batch_size=64)
ROWS: dict[str, tuple[Agent, tuple[range, ...]]] = {
    "random": (make_agent("random"), (LOOKED_AT, CONFIRMED)),
    "tpe": (make_agent("tpe"), (LOOKED_AT, CONFIRMED)),
    "before": (SpearDDPG(BEFORE), (LOOKED_AT, CONFIRMED)),
    "before, reward on the last transition only": (
        SpearDDPG(BEFORE, every_transition=False),
        (LOOKED_AT,),
    ),
    "16 gradient steps, rates 1e-3 and 1e-4, tau 0.01, reward on every transition": (
        SpearDDPG(
            FAST,
            critic_learning_rate=1e-3,
            actor_learning_rate=1e-4,
            tau=0.01,
            every_transition=True,
        ),
        (LOOKED_AT,),
    ),
    "16 gradient steps, rates 3e-3 and 3e-4, tau 0.05, reward on every transition": (
        SpearDDPG(FAST, every_transition=True),
        (LOOKED_AT,),
    ),
    "the same, reward on the last transition only": (SpearDDPG(FAST), (LOOKED_AT, CONFIRMED)),
    "the same, 8 gradient steps of 256 transitions: as set now": (
        SpearDDPG(),
        (LOOKED_AT, CONFIRMED),
    ),
}


def toy(network: int) -> PlanEvaluator:
    """A trained network whose every plan has been scored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(network)
        model = ConvSNN((CHANNELS, CHANNELS), pool_after=(1, 2), image_size=8)
    data = digits()
    graph = trace(model, data.train.inputs[:4])
    train(graph, data.train, STEPS, Recipe(epochs=20, batch_size=32, lr=1e-2), seed=network)
    workload = Workload(
        model=graph.model,
        train=data.train,
        search=data.search,
        test=data.test,
        num_steps=STEPS,
        name=f"toy {network}",
        scoring="refit",
        calibration_samples=256,
    )
    evaluator = PlanEvaluator(workload, scoring="refit")
    for plan in PLANS:
        evaluator.evaluate(plan)
    return evaluator


def found(agent: Agent, evaluator: PlanEvaluator, judge: Judge) -> int:
    """In how many seeds an agent finds the best plan."""
    feasible = [c for c in (judge(evaluator.evaluate(plan)) for plan in PLANS) if c.feasible]
    best = max(feasible, key=lambda c: (c.accuracy, -c.evaluation.synops))
    results = [
        run_search(agent, evaluator, judge, budget=len(PLANS) // 2, seed=seed)
        for seed in range(SEEDS)
    ]
    return sum(result.best.evaluation.counts == best.evaluation.counts for result in results)


def main() -> None:
    """Writes the table, row by row."""
    prepare_process(1)
    toys = {network: toy(network) for network in (*LOOKED_AT, *CONFIRMED)}
    lines = ["| setting | looked at (of 40) | confirmed (of 60) |", "|---|---|---|"]
    for name, (agent, sets) in ROWS.items():
        cells = []
        for networks in (LOOKED_AT, CONFIRMED):
            hits = 0
            for network, target in itertools.product(networks, TARGETS):
                evaluator = toys[network]
                judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=target)
                hits += found(agent, evaluator, judge) if networks in sets else 0
            cells.append(str(hits) if networks in sets else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        write_text(HERE / "data" / "toy-settings.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
