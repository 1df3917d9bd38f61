"""How much of the caller's time each stage may take, from how long the stages take of late.

All moments and durations are in seconds on the monotonic clock, which the caller reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

# Left over for the reply to be built and sent, and for the way here, of which the caller's deadline knows and this
# process does not. Who gives more time is sooner late by a busy machine than by a busy stage, so more is left over.
REPLY_SHARE = 0.04
LEAST_REPLY_SECONDS = 0.01
MOST_REPLY_SECONDS = 0.05
# The most of the time left that a stage gets which others wait for, however quick those have been.
EXPANSION_SHARE = 0.3
EMBEDDING_SHARE = 0.6
# What was measured counts half as much after so long: a stage that is skipped for being slow is not measured, and has
# to be tried again soon. A try that fails costs little: nothing but the reply waits for reranking, and it ends in time.
HALF_LIFE_SECONDS = 1.0


class Pace:
    """How long something takes of late, on the safe side: the mean and twice the mean deviation, as TCP times its
    retransmissions (Jacobson, 1988; RFC 6298)."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0
        self._seen = -math.inf

    def observe(self, now: float, seconds: float) -> None:
        """Takes one measurement."""
        # What is known counts half as much after a half-life: against the new measurement, too.
        kept = 0.5 ** (max(0.0, now - self._seen) / HALF_LIFE_SECONDS)
        error = seconds - self._mean
        self._mean += error * (1 - kept * 7 / 8)
        spread = kept * abs(error) + (1 - kept) * seconds / 2
        self._deviation += (spread - self._deviation) * (1 - kept * 3 / 4)
        self._seen = now

    def expected(self, now: float) -> float:
        """Seconds that the next one will hardly exceed; 0 as long as nothing is known."""
        age = max(0.0, now - self._seen)
        return float((self._mean + 2 * self._deviation) * 0.5 ** (age / HALF_LIFE_SECONDS))


class Budgets:
    """The paces of all stages, and what each of them may take of a deadline. One for all requests.

    `last_moment` is the one of the question, by which all of them have to be done.
    """

    def __init__(self) -> None:
        self.expansion = Pace()
        self.embedding = Pace()
        self.retrieval = Pace()
        self.rerank_character = Pace()
        """One character's part of a reranking: passages differ in length, and its time goes by that."""

    def expansion_until(self, now: float, last_moment: float) -> float | None:
        """The moment by which expansion has to be done, or None if it will hardly be: others need the time."""
        later = self.embedding.expected(now) + self.retrieval.expected(now)
        return _until(now, last_moment, later, self.expansion.expected(now), EXPANSION_SHARE)

    def embedding_until(self, now: float, last_moment: float) -> float | None:
        """The moment by which embedding has to be done, or None if it will hardly be: retrieval needs the time."""
        return _until(now, last_moment, self.retrieval.expected(now), self.embedding.expected(now), EMBEDDING_SHARE)

    def rerank_count(self, now: float, last_moment: float, lengths: Sequence[int]) -> int:
        """How many candidates, of these lengths in characters, there is time to rerank: all, the first few, or none."""
        each = self.rerank_character.expected(now)
        left = max(0.0, last_moment - now)
        return sum(characters * each <= left for characters in accumulate(lengths))


def last_moment(now: float, deadline: float) -> float:
    """The moment by which the stages of a question that comes now have to be done."""
    return deadline - min(max((deadline - now) * REPLY_SHARE, LEAST_REPLY_SECONDS), MOST_REPLY_SECONDS)


def _until(now: float, last_moment: float, later: float, expected: float, share: float) -> float | None:
    left = last_moment - now
    own = min(left - later, left * share)
    return now + own if 0 < own >= expected else None
