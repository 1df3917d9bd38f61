"""Attractiveness of documents, from what was served and what was clicked.

A click says two things: the result was looked at, and it was attractive. Both estimates here take the first away, and
say the same of what is left: the probability of a click if the document stood in the first place.

- Clicks over expected clicks (Zhang, Jones: Comparing Click Logs and Editorial Labels for Training Query Rewriting,
  2007): a document's clicks over those that an average document would have had at its positions.
- Position-based model (Chuklin, Markov, de Rijke: Click Models for Web Search, 2015, section 3.3): P(click) =
  attractiveness of the document for the query * examination of the position, by expectation-maximization.

The model tells the two apart only where documents were shown at several positions, as in interleaved answers and in the
arms of an experiment. Where each document keeps its position, an attractive one cannot be told from a looked-at one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PRIOR_IMPRESSIONS = 2.0  # of a document as attractive as the mean, so that one lucky click is not certainty
_MOST_ROUNDS, _SETTLED = 500, 1e-6

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Served:
    """One page of an answer."""

    query: str
    documents: Sequence[str]
    clicked: Collection[str]
    first_position: int = 1


@dataclass(frozen=True, slots=True)
class Attraction:
    """Estimate for a document and a query."""

    query: str
    document: str
    value: float
    """Probability of a click in the first place, 0 to 1."""
    impressions: int
    clicks: int


@dataclass(frozen=True, slots=True)
class Estimated:
    """All estimates, and the positions'."""

    attractions: Sequence[Attraction]
    positions: Mapping[int, float]
    """Examination, or the click rate, of a position over that of the first one."""


class Counts:
    """Impressions and clicks of each document of each query, at each position."""

    def __init__(self, served: Iterable[Served]) -> None:
        cells: dict[tuple[str, str, int], list[int]] = {}
        for one in served:
            for position, document in enumerate(one.documents, start=one.first_position):
                cell = cells.setdefault((one.query, document, position), [0, 0])
                cell[0] += 1
                cell[1] += document in one.clicked
        pairs = {pair: place for place, pair in enumerate(dict.fromkeys((query, name) for query, name, _ in cells))}
        positions = {rank: place for place, rank in enumerate(sorted({rank for _, _, rank in cells}))}
        self.pairs = list(pairs)
        self.positions = list(positions)
        self.pair = np.array([pairs[query, name] for query, name, _ in cells], dtype=np.int64)
        self.position = np.array([positions[rank] for _, _, rank in cells], dtype=np.int64)
        counted = np.array(list(cells.values()), dtype=np.float64).reshape(-1, 2)
        self.impressions, self.clicks = counted[:, 0], counted[:, 1]

    def by_pair(self, values: Numbers) -> Numbers:
        """Sum values of cells over positions."""
        return np.bincount(self.pair, values, len(self.pairs)).astype(np.float64, copy=False)

    def by_position(self, values: Numbers) -> Numbers:
        """Sum values of cells over documents."""
        return np.bincount(self.position, values, len(self.positions)).astype(np.float64, copy=False)

    def estimated(self, values: Numbers, positions: Numbers, least_impressions: int) -> Estimated:
        """Name the estimates of the documents that were shown often enough."""
        impressions, clicks = self.by_pair(self.impressions), self.by_pair(self.clicks)
        return Estimated(
            [
                Attraction(*pair, float(values[place]), int(impressions[place]), int(clicks[place]))
                for place, pair in enumerate(self.pairs)
                if impressions[place] >= least_impressions
            ],
            dict(zip(self.positions, positions.tolist(), strict=True)),
        )


def clicks_over_expected(counts: Counts, least_impressions: int = 1) -> Estimated:
    """Estimate by clicks over expected clicks, times the click rate of the first position; at most 1."""
    if not counts.pairs:
        return Estimated([], {})
    rates = counts.by_position(counts.clicks) / counts.by_position(counts.impressions)
    expected = counts.by_pair(counts.impressions * rates[counts.position])
    # Nothing was clicked where nothing is expected.
    ratios = np.divide(counts.by_pair(counts.clicks), expected, out=np.zeros_like(expected), where=expected > 0)
    first = rates[0] or rates.max()
    relative = rates / first if first else rates
    return counts.estimated(np.minimum(1.0, ratios * first), relative, least_impressions)


def position_based(counts: Counts, least_impressions: int = 1) -> Estimated:
    """Estimate by the position-based model."""
    if not counts.pairs:
        return Estimated([], {})
    shown, passed = counts.by_pair(counts.impressions), counts.impressions - counts.clicks
    shown_at = counts.by_position(counts.impressions)
    attractive = np.full(len(counts.pairs), 0.5)
    looked_at = 1 / np.sqrt(np.asarray(counts.positions, dtype=np.float64))
    for _ in range(_MOST_ROUNDS):
        a, e = attractive[counts.pair], looked_at[counts.position]
        # Of what was not clicked: the probability that it was attractive, or looked at, all the same.
        rest = np.maximum(1e-12, 1 - a * e)
        was_attractive = counts.by_pair(counts.clicks + passed * (1 - e) * a / rest)
        was_looked_at = counts.by_position(counts.clicks + passed * (1 - a) * e / rest)
        mean = was_attractive.sum() / shown.sum()
        before = attractive
        attractive = (was_attractive + _PRIOR_IMPRESSIONS * mean) / (shown + _PRIOR_IMPRESSIONS)
        looked_at = was_looked_at / shown_at
        if np.abs(attractive - before).max() < _SETTLED:
            break
    # Only the product is seen: the first position is the measure of all.
    first = looked_at[0] or 1.0
    return counts.estimated(np.minimum(1.0, attractive * first), looked_at / first, least_impressions)
