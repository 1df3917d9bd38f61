"""Shares of the caller's time for each stage, from their recent durations.

All moments and durations are in seconds on the monotonic clock, which the caller reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from services.chassis.timing import answer_by
from services.gateway.search.stages import Reranked

# Largest share of the time left for a stage that others wait for, however quick those have been.
EXPANSION_SHARE = 0.3
EMBEDDING_SHARE = 0.6
HOP_SHARE = 0.5
# Time after which a measurement counts half: a stage that is skipped for being slow is not measured, and has to be
# tried again soon. A failed try costs little: only the reply waits for reranking, and it ends in time.
HALF_LIFE_SECONDS = 1.0
# Characters of a token where a script is nothing special, and tokens of a passage that count before a reply said how
# many its model reads. What is wrong with both, and the query's own tokens, are learned as a factor.
_CHARACTERS_A_TOKEN = 4
_UNKNOWN_PASSAGE_TOKENS = 512
_LEARNING_SHARE = 0.1


class Pace:
    """A cautious estimate of a duration: the recent mean plus twice the mean deviation.

    TCP times its retransmissions so (Jacobson, 1988; RFC 6298).
    """

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0
        self._seen = -math.inf

    def observe(self, now: float, seconds: float) -> None:
        """Add one measurement."""
        # The weight of the past halves with each half-life, against the new measurement as well.
        kept = 0.5 ** (max(0.0, now - self._seen) / HALF_LIFE_SECONDS)
        error = seconds - self._mean
        self._mean += error * (1 - kept * 7 / 8)
        spread = kept * abs(error) + (1 - kept) * seconds / 2
        self._deviation += (spread - self._deviation) * (1 - kept * 3 / 4)
        self._seen = now

    def expected(self, now: float) -> float:
        """Estimate the next duration in seconds; 0 before the first measurement."""
        age = max(0.0, now - self._seen)
        return float((self._mean + 2 * self._deviation) * 0.5 ** (age / HALF_LIFE_SECONDS))


class Budgets:
    """Paces of all stages, shared by all requests.

    `last_moment` is the moment by which all stages of a question have to be done.
    """

    def __init__(self) -> None:
        self.expansion = Pace()
        self.embedding = Pace()
        self.tokens = Pace()
        """Making the vectors of a query's tokens."""
        self.retrieval = Pace()
        self.hop = Pace()
        self.rerank_token = Pace()
        """Time of a reranking for each token that its model reads."""
        self._passage_tokens = _UNKNOWN_PASSAGE_TOKENS
        self._token_ratio = 1.0

    def expansion_until(self, now: float, last_moment: float) -> float | None:
        """Moment by which expansion has to be done; None if others need the time."""
        later = self.embedding.expected(now) + self.retrieval.expected(now)
        return _until(now, last_moment, later, self.expansion.expected(now), EXPANSION_SHARE)

    def embedding_until(self, now: float, last_moment: float) -> float | None:
        """Moment by which embedding has to be done; None if retrieval needs the time."""
        return _until(now, last_moment, self.retrieval.expected(now), self.embedding.expected(now), EMBEDDING_SHARE)

    def tokens_until(self, now: float, last_moment: float) -> float | None:
        """Moment by which the query's tokens have to be embedded; None if retrieval needs the time."""
        return _until(now, last_moment, self.retrieval.expected(now), self.tokens.expected(now), EMBEDDING_SHARE)

    def hop_until(self, now: float, last_moment: float) -> float | None:
        """Moment by which relations have to be followed; None if there is no time for it."""
        return _until(now, last_moment, 0.0, self.hop.expected(now), HOP_SHARE)

    def rerank_tokens(self, lengths: Sequence[int]) -> list[float]:
        """Estimate the tokens that the reranker's model reads for candidates of so many characters, the query's too."""
        return [tokens * self._token_ratio for tokens in self._first_guess(lengths)]

    def rerank_count(self, now: float, last_moment: float, lengths: Sequence[int]) -> int:
        """Number of candidates, by their characters, that there is time to rerank."""
        each = self.rerank_token.expected(now)
        left = max(0.0, last_moment - now)
        return sum(tokens * each <= left for tokens in accumulate(self.rerank_tokens(lengths)))

    def rerank_work(self, lengths: Sequence[int], read: Reranked | None) -> float:
        """Tokens that were read for candidates of so many characters, and learn from it what others will take.

        None means that the deadline ended the call before the first was scored.
        """
        if read is None:
            return max(1.0, *self.rerank_tokens(lengths[:1]))
        self._passage_tokens = read.passage_tokens or self._passage_tokens
        guess = sum(self._first_guess(lengths[: len(read.scores)]))
        if not (guess and read.token_count):
            return max(1.0, guess)
        self._token_ratio += (read.token_count / guess - self._token_ratio) * _LEARNING_SHARE
        return read.token_count

    def _first_guess(self, lengths: Sequence[int]) -> list[float]:
        return [min(characters / _CHARACTERS_A_TOKEN, self._passage_tokens) for characters in lengths]


def last_moment(now: float, deadline: float) -> float:
    """Moment by which all stages of a new question have to be done."""
    return answer_by(now, deadline)


def _until(now: float, last_moment: float, later: float, expected: float, share: float) -> float | None:
    left = last_moment - now
    own = min(left - later, left * share)
    return now + own if 0 < own >= expected else None
