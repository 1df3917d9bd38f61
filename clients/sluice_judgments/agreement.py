"""Agreement of two lists of judgments, and of the orders of systems by them.

Cohen's kappa compares grades with what chance would agree on (1960; with quadratic weights 1968). Pairs compare orders,
so the scales of both lists may differ: of two documents of a query that the first list tells apart, the second one
says the same, the opposite, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sluice_judgments.judging import Preference
from sluice_judgments.judgments import Judgments
from sluice_statistics.intervals import CONFIDENCE, Estimate, rate

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of documents that the first list tells apart."""

    pairs: int
    same: int
    """The second list puts them in the same order."""
    opposite: int
    share: Estimate | None
    """Of those that the second list tells apart too, the share in the same order; None where there are none."""

    @property
    def undecided(self) -> int:
        """Pairs that the second list does not tell apart."""
        return self.pairs - self.same - self.opposite


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two lists on the documents that both judge."""

    judged: int
    """Judgments that both lists have."""
    equal: Estimate | None
    """Share of equal grades."""
    kappa: Estimate | None
    """None where there is nothing to compare, or all grades are one and the same."""
    weighted_kappa: Estimate | None
    """The same, with quadratic weights: a grade that is off by two counts four times as much as one off by one."""
    pairs: Pairs


def agreement(one: Judgments, other: Judgments, *, relevant: tuple[int, int] | None = None, seed: int = 0) -> Agreement:
    """Compare two lists.

    `relevant` are the least grades of either list that count as relevant; with it, grades are compared as relevant or
    not, which lists of different scales need. Intervals of kappa are those of a bootstrap over queries.
    """
    by_query = []
    pairs = same = opposite = 0
    for query, grades in one.grades.items():
        others = other.grades.get(query, {})
        both = [(grades[name], others[name]) for name in grades if name in others]
        if not both:
            continue
        for (first, first_other), (second, second_other) in combinations(both, 2):
            if first != second:
                pairs += 1
                order = np.sign(first - second) * np.sign(first_other - second_other)
                same += order > 0
                opposite += order < 0
        by_query.append([_taken(pair, relevant) for pair in both])
    everything = [pair for found in by_query for pair in found]
    alike = sum(first == second for first, second in everything)
    return Agreement(
        len(everything),
        rate(alike, len(everything)),
        _kappa(by_query, weighted=False, seed=seed),
        _kappa(by_query, weighted=True, seed=seed),
        Pairs(pairs, int(same), int(opposite), rate(int(same), int(same + opposite))),
    )


def pairs_of(people: Judgments, preferences: Iterable[Preference]) -> Pairs:
    """Compare verdicts on pairs with a list; pairs that the list does not tell apart are left out."""
    pairs = same = opposite = 0
    for one in preferences:
        grades = people.grades.get(one.query, {})
        if one.one not in grades or one.other not in grades or grades[one.one] == grades[one.other]:
            continue
        pairs += 1
        if one.better:
            right = one.one if grades[one.one] > grades[one.other] else one.other
            same += one.better == right
            opposite += one.better != right
    return Pairs(pairs, same, opposite, rate(same, same + opposite))


def orders_alike(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Kendall's tau-b of two orders of systems, by their figures; None for fewer than two, or where all are equal."""
    names = [name for name in one if name in other]
    if len(names) < 2:
        return None
    found = float(stats.kendalltau([one[name] for name in names], [other[name] for name in names]).statistic)
    return None if np.isnan(found) else found


def _taken(pair: tuple[int, int], relevant: tuple[int, int] | None) -> tuple[int, int]:
    return pair if relevant is None else (int(pair[0] >= relevant[0]), int(pair[1] >= relevant[1]))


def _kappa(by_query: Sequence[Sequence[tuple[int, int]]], *, weighted: bool, seed: int) -> Estimate | None:
    grades = sorted({grade for found in by_query for pair in found for grade in pair})
    if len(grades) < 2:
        return None
    place = {grade: number for number, grade in enumerate(grades)}
    tables = np.zeros((len(by_query), len(grades), len(grades)))
    for number, found in enumerate(by_query):
        for first, second in found:
            tables[number, place[first], place[second]] += 1
    scale = np.array(grades, dtype=np.float64)
    distance = (scale[:, None] - scale[None, :]) ** 2 if weighted else (scale[:, None] != scale[None, :]) * 1.0
    [value] = _kappas(tables.sum(axis=0)[None], distance)
    if np.isnan(value):
        return None
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(len(by_query), np.full(len(by_query), 1 / len(by_query)), size=_RESAMPLES)
    values = _kappas(np.tensordot(drawn, tables, axes=1), distance)
    low, high = np.nanpercentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(float(value), float(low), float(high))


def _kappas(tables: NDArray[np.float64], distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return kappa for each table of counts; nan where chance alone would always agree."""
    total = tables.sum(axis=(1, 2))
    by_chance = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :] / total[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas: NDArray[np.float64] = 1 - (tables * distance).sum(axis=(1, 2)) / (by_chance * distance).sum(axis=(1, 2))
    return kappas
