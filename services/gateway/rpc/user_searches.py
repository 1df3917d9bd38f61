"""Searches of users: flags by exposure, evidence, metrics and shadows, alike for results and for an answer in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.chassis import tracing
from services.chassis.access.identity import caller_of
from services.chassis.errors import InvalidArgument
from services.chassis.interceptors import request_id
from services.chassis.timing import duration
from services.chassis.validation import check_document_id
from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.gateway.feedback.impressions import Origin
from services.gateway.feedback.showing import Showing, Showings
from services.gateway.metrics import GatewayMetrics, ObservedSearch
from services.gateway.quotas import spending
from services.gateway.quotas.spending import Spending
from services.gateway.rollout.exposure import Exposure, Observed
from services.gateway.rollout.shadow import Answered, Shadow, quality_of
from services.gateway.rollout.table import Decision
from services.gateway.search import paging
from services.gateway.search.arms.two_arms import Asked, TwoArms
from services.gateway.search.flags import Features
from services.gateway.search.pipeline import Pipeline
from services.gateway.search.query_log import QueryLog, SearchAudit
from services.gateway.search.query_rules import QueryRules
from services.gateway.search.question import Course, Question
from services.gateway.search.reports import changed
from services.gateway.search.stages import Answer, Drafted, Result
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import search_pb2 as pb

MAX_USER_BYTES = 1024


@dataclass(frozen=True, slots=True)
class UserSearch:
    """A search whose flags are decided."""

    request: pb.SearchRequest
    question: Question
    decision: Decision
    own: Overrides
    """Flags of the request itself."""
    digest: str
    spent: Spending
    """Tokens that models have read for it so far."""
    other_course: Course | None = None
    """That of the second arm, if this is a later page of an answer with results of two."""
    showing: Showing | None = None
    """Its impression; None where no feedback is taken."""


class UserSearches:
    """Decides on the flags of questions, and searches."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: GatewaySettings,
        exposure: Exposure,
        shadow: Shadow | None,
        metrics: GatewayMetrics,
        showings: Showings | None = None,
    ) -> None:
        """Without `showings` no feedback is taken."""
        self._showings = showings
        self.exposure = exposure
        self.pipeline = pipeline
        self._two_arms = TwoArms(pipeline)
        self._settings = settings
        self._shadow = shadow
        self._metrics = metrics
        self._rules = QueryRules(settings.query_max_characters, settings.query_pattern)
        self._audit = SearchAudit(on=settings.audit_searches, key=settings.audit_key.get_secret_value())
        self._query_log = QueryLog(settings.log_queries, settings.log_query_key.get_secret_value())

    def check(self, request: pb.SearchRequest, path: str = "") -> None:
        """Raise InvalidArgument for a question that is none, or that breaks a rule."""
        if request.query or not (request.like_document_id or request.HasField("vector")):
            self._rules.check(f"{path}query", request.query)
        if request.like_document_id:
            check_document_id(f"{path}like_document_id", request.like_document_id)
        size = len(request.user_id.encode())
        if size > MAX_USER_BYTES:
            raise InvalidArgument(f"{path}user_id", f"is {size} bytes long; at most {MAX_USER_BYTES} are taken")

    def decided(self, request: pb.SearchRequest) -> UserSearch:
        """Decide on the flags of a request, once. It has been checked."""
        digest = paging.question_digest(request)
        page = paging.decode(request.page_token, digest)
        own = Overrides.from_proto(request.features)
        decision = (
            self.exposure.resume(request.user_id, page) if page.offset else self.exposure.decide(request.user_id, own)
        )
        if page.interleaved is not None and decision.interleaved is None:
            raise changed("its experiment is killed")
        _trace(decision)
        question = self.question(request, decision, page.offset, page.course)
        self.note(request)
        showing = None
        if self._showings is not None:
            origin = Origin(request_id.get(), request.user_id, caller_of().tenant)
            showing = self._showings.begin(origin, question, decision)
        spent = spending.under_way()
        return UserSearch(request, question, decision, own, digest, spent, page.other_course, showing)

    def observed(self, search: UserSearch, deadline: float) -> Observed:
        """Make evidence of a request: a context, around all that it does."""
        return Observed(self.exposure.evidence, search.decision, deadline, search.showing)

    async def find(self, search: UserSearch, observed: Observed, *, deadline: float) -> Answer:
        """Search, and count it."""
        with ObservedSearch(self._metrics, search.decision.features, deadline) as counted:
            answer = await self._searched(search, deadline)
            counted.answered(answer)
            observed.answered(answer, quality=quality_of(answer.results))
        self.audit(search.question, answer.results)
        return answer

    async def _searched(self, search: UserSearch, deadline: float) -> Answer:
        interleaved = search.decision.interleaved
        if interleaved is None:
            return await self.pipeline.search(search.question, deadline=deadline)
        (one, _), (other, features) = interleaved.arms
        second = replace(search.question, features=features, course=search.other_course)
        asked = Asked((search.question, second), (one, other), interleaved.salt, search.request.user_id)
        return await self._two_arms.search(asked, deadline=deadline)

    def audit(self, question: Question, *results: Sequence[Result]) -> None:
        """Have the audit log say which passages are returned, if the settings ask for it."""
        ids = (result.passage.id for some in results for result in some)
        self._audit.note(question.collection, question.query, dict.fromkeys(ids))

    def offer_shadow(self, search: UserSearch, answer: Answer, seconds: float) -> None:
        """Start a shadow by chance, when the reply is made."""
        # Its judge reads the query, and compares answers of one configuration.
        if self._shadow is not None and search.question.query and search.decision.interleaved is None:
            self._shadow.offer(
                Answered(search.decision, search.question, answer, seconds),
                lambda arm: self.exposure.table.treated(arm.ramp_id, search.request.user_id, search.own),
            )

    def note(self, request: pb.SearchRequest) -> None:
        """Note the hash of a query, if the settings ask for it."""
        if request.query:
            self._query_log.note(request.query)

    def question(
        self, request: pb.SearchRequest, decision: Decision, offset: int = 0, course: Course | None = None
    ) -> Question:
        """Read a question. Raises InvalidArgument."""
        return Question.from_proto(
            request,
            default_collection=self._settings.qdrant_collection,
            features=decision.features,
            offset=offset,
            course=course,
        )


def next_page(search: UserSearch, answer: Answer) -> str:
    """The token of the next page; empty where there is none."""
    if answer.following is None:
        return ""
    decision, drafted = search.decision, answer.drafted
    second = drafted.course if drafted is not None else None
    return paging.encode(
        answer.following,
        served_features(decision, answer),
        answer.course,
        search.digest,
        [part.run_id for part in decision.experiments],
        (decision.interleaved, second) if decision.interleaved is not None and second is not None else None,
    )


def served_features(decision: Decision, answer: Answer) -> Features:
    """The flags of an answer; of one with results of two arms, those of the first."""
    if decision.interleaved is None or answer.drafted is None:
        return decision.features
    return decision.interleaved.arms[answer.drafted.served][1]


def response_to(search: UserSearch, answer: Answer) -> pb.SearchResponse:
    """Write the reply to the search of a user, after its end or before that of the rest."""
    reply = response(search.question, answer, search.decision, next_page(search, answer))
    reply.model_token_count = search.spent.tokens
    if search.showing is not None:
        reply.impression_token = search.showing.token()
    return reply


def response(question: Question, answer: Answer, decision: Decision, next_page_token: str = "") -> pb.SearchResponse:
    """Write the reply."""
    reply = pb.SearchResponse(
        next_page_token=next_page_token,
        stages=[report.to_proto() for report in answer.reports],
        features=served_features(decision, answer).to_proto(),
        collection=question.collection,
        index_version=answer.index_version,
        request_id=request_id.get(),
        snapshot_version=decision.snapshot_version,
        arms=[arm.to_proto() for arm in decision.arms],
        experiments=[part.to_proto() for part in decision.experiments],
        enrichment_score=answer.enrichment_score,
    )
    arms = decision.interleaved.arms if decision.interleaved is not None else ()
    for result in answer.results:
        message = reply.results.add()
        result.write(message)
        if result.team:
            message.team, _ = arms[result.team - 1]
    if answer.drafted is not None:
        reply.interleaved_arms.extend(_arms(arms, answer.drafted))
    return reply


def _arms(arms: Sequence[tuple[str, Features]], drafted: Drafted) -> Iterator[pb.InterleavedArm]:
    for place, (name, features) in enumerate(arms):
        yield pb.InterleavedArm(
            name=name,
            features=features.to_proto(),
            duration=duration(drafted.seconds[place]),
            stages=[report.to_proto() for report in drafted.reports] if place != drafted.served else (),
            failure_reason=drafted.failure_reason if place != drafted.served else "",
        )


def _trace(decision: Decision) -> None:
    if (span := tracing.recorded()) is not None:
        arms = [f"{arm.feature}={arm.arm.value}" for arm in decision.arms if arm.arm is not Arm.STANDARD]
        span.set_attributes({"sluice.rollout.version": decision.snapshot_version, "sluice.rollout.arms": arms})
