"""Channels taken off a plan, or given back, until its SynOps are where they shall be.

Each step changes the one group that is best by a price. Where steps of one channel (or block of
them) take few evaluations, every group is tried before each. Where they would take more than
:data:`FEW`, steps are larger: each is expected to cover half of the way that is left, by what the
group's last one changed, and is halved when it leads too far, so the last ones are of one channel.
Only the :data:`TRIED` groups that were best by the last price are tried then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from statistics import median

from spear_gym.evaluation import Counts, Evaluation

FEW = 64
"""Evaluations up to which steps of one are taken."""

TRIED = 3
"""Groups that are tried for a larger step."""

Price = tuple[float, ...]


@dataclass
class Stepping:
    """A walk over plans.

    Attributes:
        groups: how many there are.
        step: the plan so many steps further in a group, as far as it can go; ``None`` where it
            cannot go at all.
        evaluate: scores a plan; ``None`` where that fails, or may not be paid for.
        left: SynOps that a plan is away from where it shall be; negative behind it.
        price: of a move from a plan to another, less is better.
        past: whether the last step may lead behind it.
    """

    groups: int
    step: Callable[[Counts, int, int], Counts | None]
    evaluate: Callable[[Counts], Evaluation | None]
    left: Callable[[Evaluation], float]
    price: Callable[[Evaluation, Evaluation], Price]
    past: bool
    _large: bool = False
    _tried: int = 0
    _rates: dict[int, float] = field(default_factory=dict)
    _prices: dict[int, Price] = field(default_factory=dict)

    def walk(self, start: Evaluation) -> Evaluation:
        """The plan at the end; ``start`` itself where no step can be taken."""
        now = start
        while self.left(now) > 0:
            begun = bool(self._rates)
            moves = self._moves(now)
            if not moves:
                break
            best = min(moves, key=partial(self.price, now))
            if not self._large and self._would_take(now, moves) > FEW:
                self._large = True
                if not begun:
                    continue  # what was learned from steps of one is enough to begin with
            now = best
        return now

    def _would_take(self, now: Evaluation, moves: list[Evaluation]) -> float:
        """Evaluations that steps of one take in all, if they go on like these."""
        rate = median(abs(now.synops - move.synops) for move in moves)
        return self._tried + (self.groups * (self.left(now) / rate - 1) if rate > 0 else inf)

    def _moves(self, now: Evaluation) -> list[Evaluation]:
        """The moves to choose from."""
        order = sorted(self._prices, key=self._prices.__getitem__) if self._large else None
        moves: list[Evaluation] = []
        for index in range(self.groups) if order is None else order:
            if self._large and len(moves) == TRIED:
                break
            move = self._fitting(now, index)
            if move is not None:
                moves.append(move)
            elif self._large:
                del self._prices[index]  # not one fits, nor will it later
        return moves

    def _fitting(self, now: Evaluation, index: int) -> Evaluation | None:
        """The longest step in a group that does not lead too far."""
        size = 1
        if self._large and self._rates[index] > 0:
            size = max(1, int(self.left(now) / 2 / self._rates[index]))
        while True:
            counts = self.step(now.counts, index, size)
            move = None if counts is None else self.evaluate(counts)
            if counts is None or move is None:
                return None
            self._tried += 1
            taken = abs(counts[index] - now.counts[index])
            self._rates[index] = abs(now.synops - move.synops) / min(size, taken)
            self._prices[index] = self.price(now, move)
            if self.left(move) >= 0 or (self.past and size == 1):
                return move
            if size == 1:
                return None
            size //= 2
