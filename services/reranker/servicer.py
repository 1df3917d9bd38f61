"""RerankerService: validate, translate, delegate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import grpc

from services.chassis.interceptors import caller
from services.chassis.timing import answer_by, deadline_of, duration
from services.chassis.validation import MAX_QUERY_BYTES, MAX_TEXT_BYTES, check_count, check_text
from services.inference.scheduling import Lane
from services.reranker.metrics import RerankerMetrics
from services.reranker.scorer import Scorer
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_PASSAGES = 1000


class RerankerServicer(reranker_pb2_grpc.RerankerServiceServicer):
    """Scores passages."""

    def __init__(self, scorer: Scorer, metrics: RerankerMetrics) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._model = replace(scorer.model, dimension=0).to_proto()

    async def RerankPassages(  # noqa: N802  # gRPC's name
        self, request: reranker_pb2.RerankPassagesRequest, context: Context
    ) -> reranker_pb2.RerankPassagesResponse:
        """Score passages."""
        check_text("query", request.query, MAX_QUERY_BYTES)
        check_count("passages", len(request.passages), MAX_PASSAGES)
        for position, passage in enumerate(request.passages):
            check_text(f"passages[{position}]", passage, MAX_TEXT_BYTES)
        deadline = deadline_of(context)
        scored = await self._scorer.score(
            request.query,
            list(request.passages),
            lane=Lane.from_proto(request.priority, "priority"),
            caller=caller.get(),
            # A partial answer is of use only if it still reaches the caller.
            deadline=answer_by(time.monotonic(), deadline) if request.partial else deadline,
            partial=request.partial,
        )
        self._metrics.observe(scored.results, scored.seconds)
        return reranker_pb2.RerankPassagesResponse(
            scores=scored.results,
            truncated_count=scored.truncated_count,
            token_count=scored.token_count,
            max_passage_token_count=self._scorer.passage_tokens,
            model=self._model,
            timings=reranker_pb2.RerankTimings(
                tokenize_duration=duration(scored.tokenize_seconds),
                compute_duration=duration(scored.compute_seconds),
            ),
        )

    async def GetModel(  # noqa: N802  # gRPC's name
        self, request: reranker_pb2.GetModelRequest, context: Context
    ) -> reranker_pb2.GetModelResponse:
        """Describe the model that serves."""
        return reranker_pb2.GetModelResponse(model=self._model)
