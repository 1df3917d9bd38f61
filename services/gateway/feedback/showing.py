"""Answers as they are shown: each gets an impression, and those that are to be kept are reported at their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from services.chassis.timing import duration
from services.gateway.feedback.impressions import Impressions, Origin
from services.gateway.quotas import spending
from services.gateway.rollout.evidence import Ending
from services.gateway.rollout.table import Decision
from services.gateway.search.question import Question
from services.gateway.search.stages import Answer
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.type.v1.impression_pb2 import Impression

KeptImpressions = Literal["experiments", "all"]
KeptQueries = Literal["off", "hashed", "clear"]


class Showings:
    """Begins the showing of an answer for each request."""

    def __init__(
        self,
        impressions: Impressions,
        report: Callable[[pb.ServedImpression], None],
        kept: KeptImpressions,
        queries: KeptQueries,
    ) -> None:
        """`report` takes an impression that is to be kept."""
        self.impressions = impressions
        self.report = report
        self._kept = kept
        self._queries = queries

    def begin(self, origin: Origin, question: Question, decision: Decision) -> Showing:
        """Begin with a request whose flags are decided."""
        return Showing(self, origin, question, decision)

    def keeps(self, decision: Decision) -> bool:
        """True if the impression is kept although nobody may act on it."""
        return bool(decision.experiments) or self._kept == "all"

    def kept_query(self, query: str) -> str:
        """The query as the policy keeps it."""
        if self._queries == "hashed":
            return self.impressions.hashed(query)
        return query if self._queries == "clear" else ""


class Showing:
    """The answer to one request, as it is shown."""

    def __init__(self, showings: Showings, origin: Origin, question: Question, decision: Decision) -> None:
        self._showings = showings
        self._origin = origin
        self._question = question
        self._decision = decision
        self._spending = spending.under_way()
        self._answer: Answer | None = None
        self._impression: Impression | None = None
        self._replied = False

    def token(self) -> bytes:
        """Sign the impression of what was shown last, for the reply."""
        self._replied = True
        return b"" if self._impression is None else self._showings.impressions.sign(self._impression)

    def shown(self, answer: Answer) -> None:
        """Make the impression; of an answer that has grown another one, unless its results are the same."""
        made = self._made(answer)
        if self._impression is None or made.object_ids != self._impression.object_ids:
            self._impression = made
        self._answer = answer

    def ended(self, ending: Ending) -> None:
        """Report the impression, if it is to be kept; not for a caller who gave up before there was a reply."""
        if (ending.given_up and not self._replied) or not self._showings.keeps(self._decision):
            return
        drafted = None if self._answer is None else self._answer.drafted
        served = pb.ServedImpression(
            impression=self._made(None) if self._impression is None else self._impression,
            ending=_ending(ending, one_arm=drafted is not None and drafted.one_arm),
            duration=duration(ending.seconds),
            query=self._showings.kept_query(self._question.query),
            model_token_count=self._spending.tokens,
        )
        if drafted is not None:
            served.arm_durations.extend(duration(seconds) for seconds in drafted.seconds)
            served.missing_arm = drafted.failed_arm
        self._showings.report(served)

    def _made(self, answer: Answer | None) -> Impression:
        microseconds = time.time_ns() // 1_000
        return self._showings.impressions.of(self._origin, self._question, self._decision, answer, microseconds)


def _ending(ending: Ending, *, one_arm: bool) -> pb.ImpressionEnding.ValueType:
    if ending.failed:
        return pb.IMPRESSION_ENDING_FAILED
    if one_arm:
        return pb.IMPRESSION_ENDING_ONE_ARM
    return pb.IMPRESSION_ENDING_EMPTY if ending.empty else pb.IMPRESSION_ENDING_ANSWERED
