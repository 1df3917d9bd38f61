"""Values of an answer in every metric of experiments, from what was done with it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self


class Metric(enum.Enum):
    """A metric; the names are those of `sluice.rollout.v1.ExperimentMetric`, the values are for people."""

    CLICK_RATE = "click rate"
    CITATION_RATE = "citation rate"
    SATISFACTION = "satisfaction"
    ABANDONMENT = "abandonment"
    RECIPROCAL_RANK = "reciprocal rank"
    LATENCY = "latency"
    COST = "cost"
    PREFERENCE = "preference"

    @property
    def less_is_better(self) -> bool:
        """True where a smaller value is the better one."""
        return self in (Metric.ABANDONMENT, Metric.LATENCY, Metric.COST)


class AnswerEvent(NamedTuple):
    """Something that was done with an answer."""

    action: str
    """"click", "cite", "rate" or "label"."""
    object_id: str = ""
    """The result; empty for the whole answer."""
    position: int = 0
    """Its rank, from the impression that was signed; 0 for the whole answer."""
    rating: float | None = None
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class AnswerOutcome:
    """Outcome of an answer: its end, and what was done with it."""

    seconds: float | None = None
    tokens: int = 0
    clicked: bool = False
    cited: bool = False
    best_position: int = 0
    """Best rank, from 1, of what was opened or cited; 0 where nothing was."""
    rating: float | None = None
    """Mean of its ratings, 0 to 1."""
    credit: float | None = None
    """Of an interleaved answer: see `credit`."""

    @classmethod
    def of(
        cls,
        events: Iterable[AnswerEvent],
        *,
        seconds: float | None = None,
        tokens: int = 0,
        teams: Sequence[int] = (),
        first_position: int = 1,
    ) -> Self:
        """Sum up the events of an answer, in any order.

        `teams` are those of an interleaved answer's results, and `first_position` is the rank of the first of them.
        """
        events = list(events)
        used = {event.position for event in events if event.action in _USES and event.position > 0}
        ratings = [event.rating for event in events if event.action == "rate" and event.rating is not None]
        return cls(
            seconds=seconds,
            tokens=tokens,
            clicked=any(event.action == "click" for event in events),
            cited=any(event.action == "cite" for event in events),
            best_position=min(used, default=0),
            rating=sum(ratings) / len(ratings) if ratings else None,
            credit=credit(teams, {position - first_position for position in used}),
        )

    def value(self, metric: Metric) -> float | None:
        """Value in a metric; None where the answer says nothing of it."""
        return _VALUES[metric](self)


def credit(teams: Sequence[int], used: Collection[int]) -> float | None:
    """Credit of an interleaved answer, -1 (all to the first arm) to 1; None where no result of a team was used.

    `teams` are those of the results in their order (1, 2, or 0 for none), `used` the distinct places, from 0, of those
    that were opened or cited.
    """
    found = [teams[place] for place in used if 0 <= place < len(teams)]
    first, second = found.count(1), found.count(2)
    return (second - first) / (second + first) if first or second else None


_USES = ("click", "cite")
_VALUES: dict[Metric, Callable[[AnswerOutcome], float | None]] = {
    Metric.CLICK_RATE: lambda answer: float(answer.clicked),
    Metric.CITATION_RATE: lambda answer: float(answer.cited),
    Metric.SATISFACTION: lambda answer: answer.rating,
    Metric.ABANDONMENT: lambda answer: float(not answer.clicked and not answer.cited),
    Metric.RECIPROCAL_RANK: lambda answer: 1.0 / answer.best_position if answer.best_position else 0.0,
    Metric.LATENCY: lambda answer: answer.seconds,
    Metric.COST: lambda answer: float(answer.tokens),
    Metric.PREFERENCE: lambda answer: answer.credit,
}
