"""Quality of rankings: trec_eval's measures by way of ir-measures, one of ours, and intervals of their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

from sluice_statistics.intervals import Estimate, bootstrap

Qrels = Mapping[str, Mapping[str, int]]
"""Grades of documents, by query; 0 is not relevant."""
Run = Mapping[str, Sequence[str]]
"""Ids of documents, best first, by query."""

NDCG, ALL_GOLD = "ndcg@10", "all_gold@10"
_MEASURES = {NDCG: nDCG @ 10, "recall@100": R @ 100, "recall@5": R @ 5, "mrr@10": RR @ 10}
NAMES = (*_MEASURES, ALL_GOLD)


def by_query(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Every measure for every query of the run, by measure and query.

    nDCG takes the grade as the gain; recall and the reciprocal rank take every grade above 0 for relevant.
    `all_gold@10` is 1 for a query that has all of its relevant documents among the first ten, else 0: an
    answer from ten passages then has all that it needs.
    """
    answered = {query: qrels[query] for query in run}
    scored = {
        query: {document: float(-place) for place, document in enumerate(ranking)} for query, ranking in run.items()
    }
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(run, 0.0) for name in NAMES}
    names = {measure: name for name, measure in _MEASURES.items()}
    for metric in ir_measures.iter_calc(list(names), answered, scored):
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    for query, ranking in run.items():
        relevant = {document for document, grade in qrels[query].items() if grade > 0}
        values[ALL_GOLD][query] = float(relevant <= set(ranking[:10]))
    return values


def interval(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Estimate:
    """Increase of our mean over queries above theirs, by the paired bootstrap; both are for the same queries."""
    return bootstrap([ours[query] - theirs[query] for query in sorted(ours)], np.mean)
