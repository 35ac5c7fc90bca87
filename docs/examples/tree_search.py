"""Monte-Carlo tree search over copies of the environment.

    python docs/examples/tree_search.py --episodes 60

`copy.deepcopy` of an environment in mid-episode goes on where the original stands. So each node of
the tree holds one: a decision is a copy and a step, a rollout is a copy played to its end at
random. All copies share one evaluator, and with it what has been simulated: a prefix of a plan is
computed once, however many branches begin with it.

This is UCT (Kocsis and Szepesvari, ECML 2006) with the ratios on a grid and the best return seen
below a node, not the mean, as its value: the environment is deterministic.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

import spear_gym  # noqa: F401 - registers the environments

RATIOS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
EXPLORATION = 0.3


@dataclass
class Found:
    """The best episode so far."""

    reward: float = -math.inf
    plan: tuple[int, ...] = ()
    accuracy: float = 0.0
    predicted: float = 1.0


@dataclass
class Node:
    """The environment after some decisions.

    Attributes:
        env: in mid-episode.
        reward: of the episode if it has ended here, else `None`.
        visits: episodes that came through.
        best: the largest reward of those.
        children: by ratio of the next decision.
    """

    env: gym.Env
    reward: float | None = None
    visits: int = 0
    best: float = -math.inf
    children: dict[float, Node] = field(default_factory=dict)

    def after(self, ratio: float, found: Found) -> Node:
        """The node one decision on, made when it is first asked for."""
        if ratio not in self.children:
            env = copy.deepcopy(self.env)
            self.children[ratio] = Node(env, played(env, ratio, found))
        return self.children[ratio]

    def most_promising(self, rng: np.random.Generator) -> float:
        """An untried ratio, or the one with the highest upper bound."""
        untried = [ratio for ratio in RATIOS if ratio not in self.children]
        if untried:
            return float(rng.choice(untried))
        return max(self.children, key=lambda ratio: self._bound(self.children[ratio]))

    def _bound(self, child: Node) -> float:
        return child.best + EXPLORATION * math.sqrt(math.log(self.visits) / child.visits)


def played(env: gym.Env, ratio: float, found: Found) -> float | None:
    """Takes a step; the reward if it ended the episode, whose plan is noted if it is the best."""
    _, reward, ended, _, info = env.step(np.array([ratio], dtype=np.float32))
    if not ended:
        return None
    if reward > found.reward:
        found.reward, found.plan = float(reward), tuple(info["plan"].tolist())
        found.accuracy = float(info["accuracy"])
        found.predicted = float(info["predicted_synops_fraction"])
    return float(reward)


def rollout(node: Node, rng: np.random.Generator, found: Found) -> float:
    """The reward of an episode played to its end at random, in a copy."""
    if node.reward is not None:
        return node.reward
    reward, env = None, copy.deepcopy(node.env)
    while reward is None:
        reward = played(env, float(rng.choice(RATIOS)), found)
    return reward


def tree_search(env: gym.Env, episodes: int, seed: int = 0) -> Found:
    """Plays so many episodes.

    Args:
        env: any of ours, wrapped or not; it is reset.
        episodes: rollouts; plans met again cost nothing.
        seed: of the rollouts.
    """
    rng, found = np.random.default_rng(seed), Found()
    env.reset(seed=seed)
    root = Node(copy.deepcopy(env))
    for _ in range(episodes):
        path = [root]
        while path[-1].reward is None and (path[-1].visits or path[-1] is root):
            path.append(path[-1].after(path[-1].most_promising(rng), found))
        reward = rollout(path[-1], rng, found)
        for node in path:
            node.visits += 1
            node.best = max(node.best, reward)
    return found


def main() -> None:
    """Searches and prints what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="SpearPrune-Digits-v0")
    parser.add_argument("--target", type=float, default=0.3)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    env = gym.make(options.env, target=options.target)
    found = tree_search(env, options.episodes, options.seed)
    evaluator = env.unwrapped.evaluator  # type: ignore[attr-defined]
    print(f"channels kept {found.plan}, reward {found.reward:.3f}")
    print(f"accuracy {found.accuracy:.3f} before fine-tuning")
    print(f"predicted SynOps {found.predicted:.3f} of target {options.target:g}")
    print(f"{len(evaluator.known)} plans simulated: {dict(evaluator.statistics)}")


if __name__ == "__main__":
    main()
