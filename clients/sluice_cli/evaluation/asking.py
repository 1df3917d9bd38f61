"""One question, asked with one configuration, and the figures of many."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sluice_cli.evaluation.configurations import Configuration
from sluice_client import AsyncClient, Blame, Outcome, SluiceError
from sluice_statistics.percentiles import percentile

DEPTH = 10
"""Results that are asked for, and compared."""
ANSWERED = "OK"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question that ended."""

    query: str
    configuration: str
    seconds: float
    code: str
    """OK, or the error's code and reason."""
    results: tuple[str, ...] = ()
    """Ids, best first."""
    degraded: tuple[str, ...] = ()
    """Stages that failed or did a part, each with its reason."""
    items: Mapping[str, int] = field(default_factory=dict)
    """By stage, the items that came out of it."""
    tokens: int = 0
    """Tokens that models read for it."""
    retry_after: float | None = None
    """Pause that the gateway asked for."""
    busy: bool = False
    """The gateway or a stage had no room for it."""


@dataclass(frozen=True, slots=True)
class Side:
    """Figures of one configuration."""

    name: str
    flags: Mapping[str, Any]
    questions: int
    failed: int
    codes: Mapping[str, int]
    degraded: int
    """Answered, with a stage that failed or did a part."""
    degraded_by: Mapping[str, int]
    """By stage and reason."""
    empty: int
    p50_ms: float | None
    """Of answered questions, as p95_ms; None if there are none."""
    p95_ms: float | None
    items: Mapping[str, float]
    """By stage, the mean of the items that came out of it: variants, vectors, candidates, passages that were scored."""
    tokens: float
    """Mean of the tokens that models read for an answer; what a cache had costs none."""


@dataclass(frozen=True, slots=True)
class Asking:
    """The collection, and how results are named."""

    collection: str
    by_document: bool
    """Results are documents, each with its best chunk, and not passages."""


async def ask(client: AsyncClient, asking: Asking, configuration: Configuration, query: str, text: str) -> Asked:
    """Ask. Raises SluiceError for what every question would meet: a wrong flag, no such collection, no access."""
    started = time.perf_counter()
    try:
        answer = await client.search(
            text,
            limit=DEPTH,
            collection=asking.collection,
            features=configuration.features,
            group_by_document=asking.by_document,
        )
    except SluiceError as error:
        if error.blame is Blame.CALLER or error.reason == "UNREACHABLE":
            raise
        code = error.code.name if error.reason == error.code.name else f"{error.code.name} {error.reason}"
        return Asked(
            query,
            configuration.name,
            time.perf_counter() - started,
            code,
            retry_after=error.retry_after,
            busy=error.retryable,
        )
    return Asked(
        query,
        configuration.name,
        time.perf_counter() - started,
        ANSWERED,
        tuple(one.passage.document_id if asking.by_document else one.passage.id for one in answer.results),
        tuple(
            f"{report.stage} {report.reason}"
            for report in answer.stages
            if report.outcome in {Outcome.DEGRADED, Outcome.FAILED}
        ),
        {report.stage.value: report.item_count for report in answer.stages if report.outcome is not Outcome.SKIPPED},
        answer.model_token_count,
    )


def side_of(configuration: Configuration, asked: Sequence[Asked]) -> Side:
    """Sum up what was asked with a configuration."""
    own = [one for one in asked if one.configuration == configuration.name]
    answered = [one for one in own if one.code == ANSWERED]
    milliseconds = [one.seconds * 1000 for one in answered]
    stages = dict.fromkeys(stage for one in answered for stage in one.items)
    return Side(
        name=configuration.name,
        flags=configuration.flags,
        questions=len(own),
        failed=len(own) - len(answered),
        codes=dict(Counter(one.code for one in own).most_common()),
        degraded=sum(bool(one.degraded) for one in answered),
        degraded_by=dict(Counter(reason for one in answered for reason in one.degraded).most_common()),
        empty=sum(not one.results for one in answered),
        p50_ms=percentile(milliseconds, 50) if answered else None,
        p95_ms=percentile(milliseconds, 95) if answered else None,
        items={stage: fmean(one.items.get(stage, 0) for one in answered) for stage in stages},
        tokens=fmean(one.tokens for one in answered) if answered else 0.0,
    )


def runs_of(asked: Sequence[Asked]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Sort rankings by configuration and query, those of questions that every configuration answered."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for one in asked:
        if one.code == ANSWERED:
            found.setdefault(one.configuration, {})[one.query] = one.results
    names = {one.configuration for one in asked}
    everywhere = set.intersection(*(set(found.get(name, {})) for name in names)) if names else set()
    return {name: {query: run for query, run in found.get(name, {}).items() if query in everywhere} for name in names}
