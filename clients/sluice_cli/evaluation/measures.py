"""Measures of rankings by judgments, and how sure differences of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from sluice_cli.calls import Problem
from sluice_judgments.judgments import Judgments
from sluice_statistics.intervals import Estimate, bootstrap

Run = Mapping[str, Sequence[str]]
"""Ids, best first, by query."""
Values = Mapping[str, float]
"""A measure, by query."""

NDCG, MRR, R5, R10 = "ndcg@10", "mrr@10", "recall@5", "recall@10"
NAMES = (NDCG, MRR, R5, R10)
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """A configuration against the first one, by one measure."""

    configuration: str
    measure: str
    difference: Estimate
    """Mean over queries, with the interval of the paired bootstrap."""
    wins: int
    losses: int
    ties: int


def by_query(judgments: Judgments, run: Run, relevant: int) -> dict[str, dict[str, float]]:
    """Measure every query of a run, as trec_eval does: by measure and query.

    nDCG takes the grade as the gain; recall and the reciprocal rank take grades from `relevant` on. Raises Problem
    without ir-measures.
    """
    try:
        import ir_measures  # noqa: PLC0415  # an extra
        from ir_measures import RR, R, nDCG  # noqa: PLC0415
    except ImportError:
        raise Problem("measuring needs ir-measures", "pip install 'sluice-retrieval[evaluate]'") from None
    wanted = {
        nDCG @ 10: NDCG,
        RR(rel=relevant) @ 10: MRR,
        R(rel=relevant) @ 5: R5,
        R(rel=relevant) @ 10: R10,
    }
    qrels = {query: dict(judgments.grades[query]) for query in run}
    scored = {query: {name: float(-place) for place, name in enumerate(ranking)} for query, ranking in run.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(run, 0.0) for name in NAMES}
    for metric in ir_measures.iter_calc(list(wanted), qrels, scored):
        values[wanted[metric.measure]][metric.query_id] = float(metric.value)
    return values


def mean_of(values: Values) -> Estimate | None:
    """Mean over queries with its interval; None without queries."""
    return bootstrap(list(values.values()), np.mean) if values else None


def difference_of(configuration: str, measure: str, ours: Values, theirs: Values) -> Difference | None:
    """Compare one configuration with another, query by query; None without queries."""
    changes = [ours[query] - theirs[query] for query in ours]
    if not changes:
        return None
    return Difference(
        configuration,
        measure,
        bootstrap(changes, np.mean),
        wins=sum(change > _SAME for change in changes),
        losses=sum(change < -_SAME for change in changes),
        ties=sum(abs(change) <= _SAME for change in changes),
    )


def unjudged(judgments: Judgments, run: Run) -> float | None:
    """Mean share of the first ten results that nobody judged; None where nothing was found."""
    shares = [
        sum(name not in judgments.grades[query] for name in ranking[:10]) / len(ranking[:10])
        for query, ranking in run.items()
        if ranking
    ]
    return fmean(shares) if shares else None
