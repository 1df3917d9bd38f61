"""Quality of configurations by judgments, against the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice_cli.evaluation.measures import NAMES, NDCG, Difference, Run, by_query, difference_of, mean_of, unjudged
from sluice_judgments.judgments import Judgments
from sluice_statistics.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Graded:
    """Measures of one configuration."""

    configuration: str
    measures: Mapping[str, Estimate]
    """Means over queries."""
    unjudged: float | None
    """Mean share of the first ten results that nobody judged."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A question whose nDCG@10 changed."""

    query_id: str
    configuration: str
    before: float
    """Of the first configuration."""
    after: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of all configurations."""

    questions: int
    """Those that all configurations answered, and that have a relevant document."""
    relevant: int
    """The least grade that recall and the reciprocal rank take for relevant."""
    configurations: Sequence[Graded]
    differences: Sequence[Difference]
    """Of every configuration but the first, by every measure."""
    moved: Sequence[Moved]
    """The questions that moved most, by configuration: the most improved first, the most harmed last."""


def answerable(judgments: Judgments, relevant: int) -> set[str]:
    """Find the queries that have a relevant document: no ranking of the others is better than another."""
    return {query for query, grades in judgments.grades.items() if max(grades.values(), default=0) >= relevant}


def quality_of(
    judgments: Judgments, runs: Mapping[str, Run], names: Sequence[str], *, relevant: int, show: int
) -> Quality:
    """Measure rankings; `names` are the configurations in their order, `show` the moved questions of each side."""
    known = answerable(judgments, relevant)
    judged = {name: {query: run for query, run in runs[name].items() if query in known} for name in names}
    values = {name: by_query(judgments, run, relevant) for name, run in judged.items()}
    first = names[0]
    differences = [
        difference_of(name, measure, values[name][measure], values[first][measure])
        for name in names[1:]
        for measure in NAMES
    ]
    return Quality(
        questions=len(judged[first]),
        relevant=relevant,
        configurations=[
            Graded(
                name,
                {measure: mean for measure in NAMES if (mean := mean_of(values[name][measure])) is not None},
                unjudged(judgments, judged[name]),
            )
            for name in names
        ],
        differences=[one for one in differences if one is not None],
        moved=[moved for name in names[1:] for moved in _moved(name, values[name][NDCG], values[first][NDCG], show)],
    )


def _moved(name: str, after: Mapping[str, float], before: Mapping[str, float], show: int) -> list[Moved]:
    changed = [Moved(query, name, before[query], after[query]) for query in after if after[query] != before[query]]
    changed.sort(key=lambda one: (one.before - one.after, one.query_id))
    better = [one for one in changed if one.after > one.before]
    worse = [one for one in changed if one.after < one.before]
    return [*better[:show], *worse[max(0, len(worse) - show) :]]
