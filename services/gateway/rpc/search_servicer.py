"""SearchService: answers to questions."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

import time
from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.chassis.interceptors import request_id
from services.chassis.timing import deadline_of, duration
from services.chassis.validation import MAX_QUERY_BYTES, check_document_id, check_text
from services.experiment.bucketing import Arm
from services.experiment.flags import FLAGS, Overrides
from services.gateway.metrics import GatewayMetrics, ObservedSearch
from services.gateway.rollout.exposure import Exposure, Observed
from services.gateway.rollout.shadow import Answered, Shadow, quality_of
from services.gateway.rollout.table import Decision
from services.gateway.rpc.retriever_client import RetrieverClient
from services.gateway.search import paging
from services.gateway.search.comparison import DEFAULT_PERSISTENCE, overlap, rank_biased_overlap
from services.gateway.search.pipeline import Pipeline
from services.gateway.search.query_log import QueryLog
from services.gateway.search.stages import Answer, Course, Question
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import search_pb2 as pb
from sluice.gateway.v1 import search_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_USER_BYTES = 1024
ENHANCED = Overrides(**{flag.name: True for flag in FLAGS.values() if flag.share_variable})
"""The flags that a comparison switches on where its request names none."""


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Decides on the flags of a question and delegates it to the pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        retriever: RetrieverClient,
        settings: GatewaySettings,
        exposure: Exposure,
        shadow: Shadow | None,
        metrics: GatewayMetrics,
    ) -> None:
        self._pipeline = pipeline
        self._retriever = retriever
        self._metrics = metrics
        self._settings = settings
        self._exposure = exposure
        self._shadow = shadow
        self._query_log = QueryLog(settings.log_queries, settings.log_query_key.get_secret_value())

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        _check_question(request)
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        digest = paging.question_digest(request)
        page = paging.decode(request.page_token, digest)
        own = Overrides.from_proto(request.features)
        decision = self._exposure.decide(request.user_id, page.pinned if page.offset else own)
        _trace(decision)
        question = self._question(request, decision, page.offset, page.course)
        self._note(request)
        with (
            ObservedSearch(self._metrics, decision.features, deadline) as counted,
            Observed(self._exposure.evidence, decision, deadline) as observed,
        ):
            answer = await self._pipeline.search(question, deadline=deadline)
            counted.answered(answer)
            observed.answered(answer, quality=quality_of(answer.results))
        if self._shadow is not None and question.query:  # its judge reads the query
            self._shadow.offer(
                Answered(decision, question, answer, observed.seconds),
                lambda arm: self._exposure.table.treated(arm.ramp_id, request.user_id, own),
            )
        token = ""
        if answer.following is not None:
            token = paging.encode(answer.following, decision.features, answer.course, digest)
        return _response(question, answer, decision, token)

    async def CompareSearch(self, request: pb.CompareSearchRequest, context: Context) -> pb.CompareSearchResponse:
        search = request.search
        _check_question(search, "search.")
        if search.page_token:
            raise InvalidArgument("search.page_token", "has no meaning here; compare first pages")
        persistence = request.persistence if request.HasField("persistence") else DEFAULT_PERSISTENCE
        if not 0 < persistence < 1:
            raise InvalidArgument("persistence", f"must be above 0 and below 1, not {persistence}")
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        own = Overrides.from_proto(search.features)
        # No exposure: without a user, no ramp reaches either answer, and kills hold for both.
        standard = self._exposure.table.decide("", own)
        enhanced = self._exposure.table.decide("", self._enhanced(request, own))
        self._note(search)
        questions = [self._question(search, decision) for decision in (standard, enhanced)]
        started = time.monotonic()
        first = await self._pipeline.search(questions[0], deadline=started + (deadline - started) / 2)
        between = time.monotonic()
        second = await self._pipeline.search(questions[1], deadline=deadline)
        ended = time.monotonic()
        ranking, other = ([result.passage.id for result in answer.results] for answer in (first, second))
        return pb.CompareSearchResponse(
            standard=_response(questions[0], first, standard),
            enhanced=_response(questions[1], second, enhanced),
            standard_duration=duration(between - started),
            enhanced_duration=duration(ended - between),
            depth=questions[0].limit,
            overlap=overlap(ranking, other, questions[0].limit),
            rank_biased_overlap=rank_biased_overlap(ranking, other, persistence),
            persistence=persistence,
        )

    async def CountByField(self, request: pb.CountByFieldRequest, context: Context) -> pb.CountByFieldResponse:
        collection = request.collection or self._settings.qdrant_collection
        counted = await self._retriever.count_by_field(
            collection,
            request.fields,
            filter=request.filter,
            limit=request.limit,
            deadline=deadline_of(context, self._settings.default_deadline_seconds),
        )
        return pb.CountByFieldResponse(
            fields=counted.fields,
            passage_count=counted.passage_count,
            collection=collection,
            index_version=counted.index_version,
        )

    def _note(self, request: pb.SearchRequest) -> None:
        if request.query:
            self._query_log.note(request.query)

    def _enhanced(self, request: pb.CompareSearchRequest, own: Overrides) -> Overrides:
        """Combine the flags of the question with those of the enhanced answer."""
        enhanced = Overrides.from_proto(request.enhanced)
        if not request.feature:
            return (enhanced or ENHANCED).over(own)
        if enhanced:
            raise InvalidArgument("feature", "and enhanced are both set; set one of them")
        table = self._exposure.table
        if any(kill.name == request.feature for kill in table.kills):
            raise FailedPrecondition(f"the feature {request.feature!r} is killed", reason="FEATURE_KILLED")
        ramps = {ramp.name: ramp for ramp in table.ramps}
        if request.feature not in ramps:
            raise NotFound(f"there is no feature {request.feature!r} here; there are: {', '.join(ramps) or 'none'}")
        return own.over(ramps[request.feature].overrides)

    def _question(
        self, request: pb.SearchRequest, decision: Decision, offset: int = 0, course: Course | None = None
    ) -> Question:
        return Question.from_proto(
            request,
            default_collection=self._settings.qdrant_collection,
            features=decision.features,
            offset=offset,
            course=course,
        )


def _response(question: Question, answer: Answer, decision: Decision, next_page_token: str = "") -> pb.SearchResponse:
    reply = pb.SearchResponse(
        next_page_token=next_page_token,
        stages=[report.to_proto() for report in answer.reports],
        features=decision.features.to_proto(),
        collection=question.collection,
        index_version=answer.index_version,
        request_id=request_id.get(),
        snapshot_version=decision.snapshot_version,
        arms=[arm.to_proto() for arm in decision.arms],
    )
    for result in answer.results:
        result.write(reply.results.add())
    return reply


def _trace(decision: Decision) -> None:
    if (span := tracing.recorded()) is not None:
        arms = [f"{arm.feature}={arm.arm.value}" for arm in decision.arms if arm.arm is not Arm.STANDARD]
        span.set_attributes({"sluice.rollout.version": decision.snapshot_version, "sluice.rollout.arms": arms})


def _check_question(request: pb.SearchRequest, path: str = "") -> None:
    if request.query or not (request.like_document_id or request.HasField("vector")):
        check_text(f"{path}query", request.query, MAX_QUERY_BYTES)
    if request.like_document_id:
        check_document_id(f"{path}like_document_id", request.like_document_id)
    size = len(request.user_id.encode())
    if size > MAX_USER_BYTES:
        raise InvalidArgument(f"{path}user_id", f"is {size} bytes long; at most {MAX_USER_BYTES} are taken")
