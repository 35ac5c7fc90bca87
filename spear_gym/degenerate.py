"""Networks and searches whose figures say little, told in words.

A network that answers nothing is refused, since every plan of it would score alike. All else is
told and goes on: a layer that never fires, a network that answers one class, a search that asks for
the same plans again or sits at a bound of the prune ratio, a best plan no better than guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from spear_gym.pruning.plan import PlanSpace
from spear_gym.workload import Measurement, Workload

BOUND_SHARE = 0.5
"""A search is told of when more than this share of its decisions sits at a bound."""

REPEATED_SHARE = 0.5
"""A search is told of when more than this share of its episodes asked for a known plan."""

FEWEST = 20
"""Decisions or episodes below which a search is not judged."""

BY_CHANCE = 6
"""Groups with fewer possible widths than this are at a bound by chance, and are not counted."""


class DegenerateWarning(UserWarning):
    """A network does not do what its figures suggest."""


class DegenerateError(ValueError):
    """A network's figures mean nothing."""


def check_answers(workload: Workload, figures: Measurement) -> None:
    """Refuses a network that gives all classes the same score, or without classes all samples.

    Args:
        workload: of the network.
        figures: the unpruned network on search.

    Raises:
        DegenerateError: for such a network.
    """
    samples = len(workload.splits.search)
    if figures.undecided == samples:
        graph = workload.graph
        fired = graph.readout != "spikes" or graph.nodes[graph.output].name not in figures.silent
        what = "all outputs were equal" if fired else "no output neuron fired"
        raise DegenerateError(
            f"{what} on {samples} of {samples} search samples of workload '{workload.name}': every "
            f"answer is class 0, and the accuracy of {figures.accuracy:.3f} says nothing; train "
            "the network, lower its thresholds, or choose another readout"
        )
    if not _has_classes(workload) and figures.answers == 1 and samples > 1:
        raise DegenerateError(
            f"the network of workload '{workload.name}' gives all of its {samples} search samples "
            f"the same scores: the metric of {figures.accuracy:.3f} says nothing; train the "
            "network, lower its thresholds, or choose another readout"
        )


def _has_classes(workload: Workload) -> bool:
    return workload.splits.search.label_kind == "classes"


def network_faults(workload: Workload, figures: Measurement) -> tuple[str, ...]:
    """What is to be told of an unpruned network that answers.

    Args:
        workload: of the network.
        figures: the unpruned network on search.
    """
    graph, samples = workload.graph, len(workload.splits.search)
    faults = []
    dead = figures.undecided == samples
    # The output layer need not fire where its current or membrane is read.
    unread = () if graph.readout == "spikes" else (graph.nodes[graph.output].name,)
    silent = [name for name in figures.silent if name not in unread]
    if silent:
        names = ", ".join(f"'{name}'" for name in silent)
        faults.append(
            f"{_layers(len(silent))} {names} of workload '{workload.name}' never fire"
            f"{'s' if len(silent) == 1 else ''} on its {samples} search samples: what "
            "lies behind sees nothing, and can be pruned at no cost"
        )
    if not _has_classes(workload):
        return tuple(faults)
    if figures.answers == 1 and not dead:
        faults.append(
            f"workload '{workload.name}' answers the same class to all of its {samples} search "
            f"samples; its accuracy of {figures.accuracy:.3f} is that class's share"
        )
    elif figures.undecided > samples // 10 and not dead:
        faults.append(
            f"workload '{workload.name}' has all outputs equal on {figures.undecided} of {samples} "
            "search samples, which count as class 0"
        )
    return tuple(faults)


def _layers(number: int) -> str:
    return "layer" if number == 1 else "layers"


@dataclass(slots=True)
class Habits:
    """What a search keeps doing.

    Attributes:
        widths: that each group can have, ascending.
        episodes: plans asked for.
        repeated: of these, plans asked for before.
        decisions: widths chosen, in groups that have :data:`BY_CHANCE` or more.
        whole: of these, groups left whole.
        smallest: of these, groups made as small as they may be.
    """

    widths: tuple[tuple[int, ...], ...]
    episodes: int = 0
    repeated: int = 0
    decisions: int = 0
    whole: int = 0
    smallest: int = 0

    @classmethod
    def of(cls, space: PlanSpace) -> Habits:
        """Those of a search that begins."""
        return cls(tuple(space.widths(index) for index in range(len(space))))

    def note(self, counts: Sequence[int], *, repeated: bool) -> None:
        """Notes an episode.

        Args:
            counts: channels kept per group.
            repeated: whether the plan was asked for before.
        """
        self.episodes += 1
        self.repeated += repeated
        for kept, widths in zip(counts, self.widths, strict=True):
            if len(widths) >= BY_CHANCE:
                self.decisions += 1
                self.whole += kept == widths[-1]
                self.smallest += kept == widths[0]

    def faults(self) -> tuple[str, ...]:
        """What is to be told of the search."""
        faults = []
        bound = self.whole + self.smallest
        if self.decisions >= FEWEST and bound > BOUND_SHARE * self.decisions:
            faults.append(
                f"{bound} of {self.decisions} decisions sit at a bound of the prune ratio "
                f"({self.whole} keep every channel, {self.smallest} as few as allowed): the agent "
                "hardly looks between; if its policy is centred on 0, rescale its actions"
            )
        plans = prod(len(widths) for widths in self.widths)
        left = self.episodes - self.repeated < plans
        if left and self.episodes >= FEWEST and self.repeated > REPEATED_SHARE * self.episodes:
            faults.append(
                f"{self.repeated} of {self.episodes} episodes asked for a plan that was known: the "
                "agent hardly explores; give it more noise, or another agent"
            )
        return tuple(faults)


def no_better_than_guessing(workload: Workload, accuracy: float) -> tuple[str, ...]:
    """What is to be told of a best plan that answers as well as one class alone."""
    if workload.objective.metric != "accuracy":
        return ()
    share = workload.splits.search.labels.bincount().max().item() / len(workload.splits.search)
    if accuracy > share:
        return ()
    return (
        f"the best plan's accuracy of {accuracy:.3f} is no better than answering the most frequent "
        f"class to every sample ({share:.3f})",
    )
