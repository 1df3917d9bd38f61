"""Agreement of two rankings.

- `overlap`: share of results that both have, in any order.
- `rank_biased_overlap`: agreement that counts more at the top (Webber, Moffat, Zobel: A Similarity Measure for
  Indefinite Rankings, ACM TOIS 28(4), 2010), extrapolated from the ranks that are there.
"""

from __future__ import annotations

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
