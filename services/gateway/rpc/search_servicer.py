"""SearchService: answers to questions."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

import time
from typing import Any

import grpc

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.chassis.timing import deadline_of, duration
from services.experiment.flags import FLAGS, Overrides
from services.gateway.rpc.retriever_client import RetrieverClient
from services.gateway.rpc.user_searches import UserSearches, response, response_to
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import search_pb2 as pb
from sluice.gateway.v1 import search_pb2_grpc
from sluice_statistics.rankings import DEFAULT_PERSISTENCE, overlap, rank_biased_overlap

Context = grpc.aio.ServicerContext[Any, Any]

ENHANCED = Overrides(**{flag.name: True for flag in FLAGS.values() if flag.share_variable})
"""The flags that a comparison switches on where its request names none."""


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Decides on the flags of a question and delegates it to the pipeline."""

    def __init__(self, searches: UserSearches, retriever: RetrieverClient, settings: GatewaySettings) -> None:
        self._searches = searches
        self._retriever = retriever
        self._settings = settings

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        self._searches.check(request)
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        search = self._searches.decided(request)
        with self._searches.observed(search, deadline) as observed:
            answer = await self._searches.find(search, observed, deadline=deadline)
        self._searches.offer_shadow(search, answer, observed.seconds)
        return response_to(search, answer)

    async def CompareSearch(self, request: pb.CompareSearchRequest, context: Context) -> pb.CompareSearchResponse:
        search = request.search
        self._searches.check(search, "search.")
        if search.page_token:
            raise InvalidArgument("search.page_token", "has no meaning here; compare first pages")
        persistence = request.persistence if request.HasField("persistence") else DEFAULT_PERSISTENCE
        if not 0 < persistence < 1:
            raise InvalidArgument("persistence", f"must be above 0 and below 1, not {persistence}")
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        own = Overrides.from_proto(search.features)
        # No exposure: without a user, no ramp reaches either answer, and kills hold for both.
        standard = self._searches.exposure.table.decide("", own)
        enhanced = self._searches.exposure.table.decide("", self._enhanced(request, own))
        self._searches.note(search)
        questions = [self._searches.question(search, decision) for decision in (standard, enhanced)]
        started = time.monotonic()
        first = await self._searches.pipeline.search(questions[0], deadline=started + (deadline - started) / 2)
        between = time.monotonic()
        second = await self._searches.pipeline.search(questions[1], deadline=deadline)
        ended = time.monotonic()
        self._searches.audit(questions[0], first.results, second.results)
        ranking, other = ([result.passage.id for result in answer.results] for answer in (first, second))
        return pb.CompareSearchResponse(
            standard=response(questions[0], first, standard),
            enhanced=response(questions[1], second, enhanced),
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

    def _enhanced(self, request: pb.CompareSearchRequest, own: Overrides) -> Overrides:
        """Combine the flags of the question with those of the enhanced answer."""
        enhanced = Overrides.from_proto(request.enhanced)
        if not request.feature:
            return (enhanced or ENHANCED).over(own)
        if enhanced:
            raise InvalidArgument("feature", "and enhanced are both set; set one of them")
        table = self._searches.exposure.table
        if any(kill.name == request.feature for kill in table.kills):
            raise FailedPrecondition(f"the feature {request.feature!r} is killed", reason="FEATURE_KILLED")
        ramps = {ramp.name: ramp for ramp in table.ramps}
        if request.feature not in ramps:
            raise NotFound(f"there is no feature {request.feature!r} here; there are: {', '.join(ramps) or 'none'}")
        return own.over(ramps[request.feature].overrides)
