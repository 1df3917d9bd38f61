"""People who ask, read from the top, and click; simulated in numpy, so that thousands are asked at once. Pure.

A click is a matter of two things: that a person looks at a result, and that they like what they see. Both models say
how the first depends on the place and on earlier clicks; the second grows with the grade that a judge gave.

- position-based (Richardson et al. 2007): a person looks at place r with a chance of (1 / r) ** severity, whatever they
  clicked before. Severity 1 and a tenth of clicks by mistake are those of Joachims et al. (WSDM 2017).
- cascade (Craswell et al. 2008; with stops, Guo et al. 2009): a person reads from the top, and after each click may
  have seen enough. The rates of "navigational" and "informational" people are those of Hofmann et al. (CIKM 2011).

People differ: some click on half of what they like, some on nearly all; most ask once, and a few ask very often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.int64]

NO_RESULT = -1.0
"""Grade of a place that an answer does not fill."""
MOST_QUESTIONS = 100
"""Of one person."""
_ACTIVITY = 2.0  # exponent of Zipf's law: four questions each on average; 1 % of people ask a quarter of all
_EAGERNESS = (3.0, 1.0)  # of a beta distribution: the mean is 0.75


class ClickModel(Protocol):
    """A way to click. Grades are between 0 (not relevant) and 1, best place first, one row an answer."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def rates(self, grades: Floats, eagerness: Floats) -> Floats:
        """Chance of a click at each place of each answer."""

    def clicked(self, grades: Floats, eagerness: Floats, chance: np.random.Generator) -> Flags:
        """Draw the clicks."""


@dataclass(frozen=True)
class Rates:
    """A chance that grows with the grade, from that of grade 0 to that of grade 1."""

    worst: float
    best: float

    def of(self, grades: Floats) -> Floats:
        """The chance for each grade; 0 where there is no result."""
        return np.where(grades < 0, 0.0, self.worst + (self.best - self.worst) * grades)


@dataclass(frozen=True)
class PositionBased:
    """People who look at each place by its rank alone."""

    name: str
    likes: Rates
    severity: float

    def rates(self, grades: Floats, eagerness: Floats) -> Floats:
        seen = (1.0 / np.arange(1, grades.shape[1] + 1)) ** self.severity
        found: Floats = self.likes.of(grades) * eagerness[:, None] * seen
        return found

    def clicked(self, grades: Floats, eagerness: Floats, chance: np.random.Generator) -> Flags:
        found: Flags = chance.random(grades.shape) < self.rates(grades, eagerness)
        return found


@dataclass(frozen=True)
class Cascade:
    """People who read from the top until what they clicked is enough."""

    name: str
    likes: Rates
    stops: Rates
    """Chance to stop after a click."""

    def rates(self, grades: Floats, eagerness: Floats) -> Floats:
        clicks = self.likes.of(grades) * eagerness[:, None]
        goes_on = 1.0 - clicks * self.stops.of(grades)
        reached = np.cumprod(np.hstack([np.ones((len(grades), 1)), goes_on[:, :-1]]), axis=1)
        found: Floats = clicks * reached
        return found

    def clicked(self, grades: Floats, eagerness: Floats, chance: np.random.Generator) -> Flags:
        would = chance.random(grades.shape) < self.likes.of(grades) * eagerness[:, None]
        enough = would & (chance.random(grades.shape) < self.stops.of(grades))
        # A place is read if there was no stop above it.
        stopped = np.cumsum(enough, axis=1) - enough > 0
        found: Flags = np.logical_and(would, ~stopped)
        return found


CLICK_MODELS: tuple[ClickModel, ...] = (
    PositionBased("position-based", likes=Rates(0.1, 1.0), severity=1.0),
    Cascade("cascade, navigational", likes=Rates(0.05, 0.95), stops=Rates(0.2, 0.9)),
    Cascade("cascade, informational", likes=Rates(0.4, 0.9), stops=Rates(0.1, 0.5)),
)


@dataclass(frozen=True)
class People:
    """Some people, in the order in which they come."""

    questions: Places
    """Number of questions that each asks."""
    eagerness: Floats
    """Share of what they like that each clicks."""

    @property
    def askers(self) -> Places:
        """The person of each answer: places among them, in their order."""
        return np.repeat(np.arange(len(self.questions)), self.questions)


def drawn(number: int, chance: np.random.Generator) -> People:
    """Draw people."""
    return People(
        questions=np.minimum(chance.zipf(_ACTIVITY, number), MOST_QUESTIONS),
        eagerness=chance.beta(*_EAGERNESS, number),
    )
