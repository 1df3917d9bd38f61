"""Value of an answer to its reader, by the chances of its passages. Pure.

`expected_reciprocal_rank` is the mean of 1 / rank at which a reader is satisfied, where each passage satisfies with a
probability (Chapelle, Metzler, Zhang, Grinspan: Expected Reciprocal Rank for Graded Relevance, CIKM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def satisfaction(logit: float) -> float:
    """Probability that a passage is relevant, by the cross-encoder's logit.

    It is the logistic function, as the ms-marco models were trained.
    """
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def expected_reciprocal_rank(chances: Sequence[float]) -> float:
    """Mean of 1 / rank at which a reader stops, 0 to 1.

    `chances` are the probabilities that each passage satisfies, in the order of the ranking.
    """
    still_reading, found = 1.0, 0.0
    for rank, chance in enumerate(chances, start=1):
        found += still_reading * chance / rank
        still_reading *= 1 - chance
    return found
