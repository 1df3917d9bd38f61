"""Measures of the difference between two answers to one question. Pure.

- `overlap`: share of results that both have, in any order.
- `rank_biased_overlap`: agreement that counts more at the top (Webber, Moffat, Zobel: A Similarity Measure for
  Indefinite Rankings, ACM TOIS 28(4), 2010), extrapolated from the ranks that are there.
- `expected_reciprocal_rank`: mean of 1 / rank at which a reader is satisfied, where each passage satisfies with a
  probability (Chapelle, Metzler, Zhang, Grinspan: Expected Reciprocal Rank for Graded Relevance, CIKM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DEFAULT_PERSISTENCE = 0.9
"""The first ten ranks carry 86 % of the weight of rank-biased overlap."""


def overlap(one: Sequence[str], other: Sequence[str], depth: int) -> float:
    """Share of results that both rankings have in their first `depth`, 0 to 1.

    Where both are shorter, it is the share of the longer one. Two empty rankings are the same.
    """
    first, second = one[:depth], other[:depth]
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], persistence: float = DEFAULT_PERSISTENCE) -> float:
    """Rank-biased overlap, extrapolated, from 0 (disjoint) to 1 (the same).

    RBO_ext for rankings of any lengths without ties (equation 32).

    `persistence`, between 0 and 1, is the chance that a reader who saw one rank looks at the next. The extrapolation
    assumes that the rankings go on to agree as much as they did. Two empty rankings are the same, and an empty one has
    nothing in common with another.
    """
    shorter, longer = sorted((one, other), key=len)
    short, long = len(shorter), len(longer)
    if short == 0:
        return 1.0 if long == 0 else 0.0
    p = persistence
    common = 0
    common_at_short = 0
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    total = 0.0
    for depth in range(1, long + 1):
        of_long = longer[depth - 1]
        of_short = shorter[depth - 1] if depth <= short else None
        common += of_long in seen_short or of_long == of_short
        common += of_short is not None and of_short != of_long and of_short in seen_long
        seen_long.add(of_long)
        if of_short is not None:
            seen_short.add(of_short)
        total += common / depth * p**depth
        if depth == short:
            common_at_short = common
        elif depth > short:
            total += common_at_short * (depth - short) / (short * depth) * p**depth
    tail = ((common - common_at_short) / long + common_at_short / short) * p**long
    return min(1.0, (1 - p) / p * total + tail)


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
