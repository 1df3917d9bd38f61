"""Reports of stages, from what came of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from services.chassis.errors import FailedPrecondition, SluiceError
from services.gateway.search.stages import Embedded, Outcome, Stage, StageReport

ResultT = TypeVar("ResultT")

# Reason and detail of stages that are left out.
AS_BEFORE = ("NOT_ON_FIRST_PAGE", "it did not run for the first page, and all pages have one order")
CALLER_VECTOR = ("CALLER_VECTOR", "the caller sent the vector")
NO_CANDIDATES = ("NO_CANDIDATES", "nothing was found to rerank")
NO_QUERY = ("NO_QUERY", "the question has no text")


NOT_REACHED = {
    stage: StageReport(stage, Outcome.SKIPPED, "NOT_REACHED", "the search ended before it") for stage in Stage
}
"""Reports of a search that has just begun."""


@dataclass(frozen=True, slots=True)
class Done(Generic[ResultT]):
    """The result of a stage that answered."""

    result: ResultT
    seconds: float


def ran(
    stage: Stage,
    seconds: float,
    item_count: int,
    *,
    model: str = "",
    reason: str = "",
    detail: str = "",
    truncated: int = 0,
) -> StageReport:
    """Report a stage that answered; a reason means that it was degraded."""
    outcome = Outcome.DEGRADED if reason else Outcome.RAN
    return StageReport(stage, outcome, reason, detail, seconds, model, item_count, truncated)


def no_time(stage: Stage) -> StageReport:
    """Report a stage that was left out for want of time."""
    return StageReport(stage, Outcome.SKIPPED, "NO_TIME", "the deadline leaves no time for it")


def failed(stage: Stage, failure: SluiceError, seconds: float) -> StageReport:
    """Report a stage that failed."""
    return StageReport(stage, Outcome.FAILED, failure.reason, failure.message, seconds)


def embedding_report(own: Done[Embedded] | StageReport, rest: Done[Embedded] | StageReport | None) -> StageReport:
    """Combine the embedding of the query and that of its variants."""
    if isinstance(own, StageReport):
        return own
    model = own.result.model
    reason = detail = ""
    seconds, vectors, truncated = own.seconds, len(own.result.vectors), sum(own.result.truncated)
    if model.pseudo:
        reason, detail = "PSEUDO_EMBEDDINGS", "no embedding model is configured; vectors carry no meaning"
    if rest is not None:
        seconds += rest.seconds
    if isinstance(rest, Done):
        vectors += len(rest.result.vectors)
        truncated += sum(rest.result.truncated)
    elif rest is not None:
        reason, detail = "VARIANTS_NOT_EMBEDDED", f"variants are searched by words alone: {rest.detail}"
    return ran(Stage.EMBED, seconds, vectors, model=model.name, reason=reason, detail=detail, truncated=truncated)


def without_highlights(report: StageReport, failure: SluiceError) -> StageReport:
    """Say in a report of the retrieval that the sentences are not named, if nothing worse is said there."""
    if report.reason:
        return report
    detail = f"the sentences that answer are not named: {failure.message}"
    return replace(report, outcome=Outcome.DEGRADED, reason="NO_HIGHLIGHTS", detail=detail)


def changed(problem: str) -> FailedPrecondition:
    """Make the error of a page that cannot be made like the first."""
    return FailedPrecondition(
        f"{problem}, and was not for the first page; begin again without page_token", reason="ANSWER_CHANGED"
    )
