"""Calls of the stages for one question, and reports of what came of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, SluiceError
from services.gateway.search.budgets import Pace
from services.gateway.search.question import Course, Policy
from services.gateway.search.stages import Embedded, Outcome, Stage, StageReport

ResultT = TypeVar("ResultT")

# Reason and detail of stages that are left out.
AS_BEFORE = ("NOT_ON_FIRST_PAGE", "it did not run for the first page, and all pages have one order")
CALLER_VECTOR = ("CALLER_VECTOR", "the caller sent the vector")
NO_CANDIDATES = ("NO_CANDIDATES", "nothing was found to rerank")
NO_QUERY = ("NO_QUERY", "the question has no text")


NOT_REACHED: dict[Stage, StageReport] = {
    stage: StageReport(stage, Outcome.SKIPPED, "NOT_REACHED", "the search ended before it")
    for stage in Stage
    if stage is not Stage.REASON  # it comes after a search
}
"""Reports of a search that has just begun."""


@dataclass(frozen=True, slots=True)
class Done(Generic[ResultT]):
    """The result of a stage that answered."""

    result: ResultT
    seconds: float


class Attempts:
    """Calls stages, and keeps their reports."""

    def __init__(self, course: Course | None, last_moment: float) -> None:
        """Take the course of the first page, and the moment by which all stages have to be done."""
        self.last_moment = last_moment
        # Complete from the start: a stage that the search does not come to has a report as well.
        self.reports = dict(NOT_REACHED)
        self._course = course

    def policy(self, asked: Policy | None, default: Policy) -> Policy:
        """Return the policy of a stage; one that ran for the first page is required for the later ones."""
        return Policy.REQUIRED if self._course is not None else asked or default

    async def call(
        self,
        stage: Stage,
        call: Callable[[float], Awaitable[ResultT]],
        policy: Policy,
        pace: Pace,
        until: float | None,
        work: Callable[[ResultT | None], float] = lambda _: 1.0,
    ) -> Done[ResultT] | StageReport:
        """Call a stage if there is time, and a required one always.

        `work` is the amount of work behind a result, or that of none by the deadline, in the units of the pace.
        Returns the report instead where a best-effort stage was not called or failed.
        """
        if policy is Policy.REQUIRED:
            until = self.last_moment
        if until is None:
            return no_time(stage)
        started = time.perf_counter()
        try:
            result = await call(until)
        except SluiceError as failure:
            seconds = time.perf_counter() - started
            if isinstance(failure, DeadlineExceeded):
                pace.observe(time.monotonic(), seconds / work(None))
            report = failed(stage, failure, seconds)
            if policy is Policy.REQUIRED:
                self.report(report)
                raise
            return report
        seconds = time.perf_counter() - started
        pace.observe(time.monotonic(), seconds / work(result))
        return Done(result, seconds)

    def report(self, report: StageReport) -> None:
        """Keep a report."""
        self.reports[report.stage] = report

    def skip(self, stage: Stage, reason: str, detail: str) -> None:
        """Report a stage that was left out."""
        self.report(StageReport(stage, Outcome.SKIPPED, reason, detail))


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
    return report._replace(outcome=Outcome.DEGRADED, reason="NO_HIGHLIGHTS", detail=detail)


def changed(problem: str) -> FailedPrecondition:
    """Make the error of a page that cannot be made like the first."""
    return FailedPrecondition(
        f"{problem}, and was not for the first page; begin again without page_token", reason="ANSWER_CHANGED"
    )
