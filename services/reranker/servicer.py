"""RerankerService: validate, translate, delegate."""

from __future__ import annotations

import time
from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.interceptors import caller
from services.chassis.timing import deadline_of, duration
from services.chassis.validation import MAX_QUERY_BYTES, check_count, check_text
from services.inference.models.info import ModelInfo
from services.inference.scheduling import Lane
from services.reranker import metrics
from services.reranker.scorer import Scorer
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_PASSAGES = 1000
MAX_PASSAGE_BYTES = 65_536

_LANES = {
    reranker_pb2.PRIORITY_UNSPECIFIED: Lane.INTERACTIVE,
    reranker_pb2.PRIORITY_INTERACTIVE: Lane.INTERACTIVE,
    reranker_pb2.PRIORITY_BULK: Lane.BULK,
}


class RerankerServicer(reranker_pb2_grpc.RerankerServiceServicer):
    """Reranks."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._model = _model(scorer.model)

    async def RerankPassages(  # noqa: N802  # gRPC's name
        self, request: reranker_pb2.RerankPassagesRequest, context: Context
    ) -> reranker_pb2.RerankPassagesResponse:
        """Scores passages."""
        check_text("query", request.query, MAX_QUERY_BYTES)
        check_count("passages", len(request.passages), MAX_PASSAGES)
        for position, passage in enumerate(request.passages):
            check_text(f"passages[{position}]", passage, MAX_PASSAGE_BYTES)
        lane = _LANES.get(request.priority)
        if lane is None:
            raise InvalidArgument("priority", f"is unknown ({request.priority})")
        started = time.perf_counter()
        scored = await self._scorer.score(
            request.query, list(request.passages), lane=lane, caller=caller.get(), deadline=deadline_of(context)
        )
        metrics.observe_reranking(scored.results, time.perf_counter() - started)
        if (span := tracing.recorded()) is not None:
            span.set_attributes(
                {
                    "sluice.model": self._model.name,
                    "sluice.lane": lane.value,
                    "sluice.passages": len(scored.rows),
                    "sluice.tokens": sum(pair.token_count for pair in scored.rows),
                    "sluice.truncated": sum(pair.truncated for pair in scored.rows),
                }
            )
        return reranker_pb2.RerankPassagesResponse(
            scores=scored.results,
            truncated_count=sum(pair.truncated for pair in scored.rows),
            model=self._model,
            timings=reranker_pb2.RerankTimings(
                tokenize_duration=duration(scored.tokenize_seconds),
                compute_duration=duration(scored.compute_seconds),
            ),
        )

    async def GetModel(  # noqa: N802  # gRPC's name
        self, request: reranker_pb2.GetModelRequest, context: Context
    ) -> reranker_pb2.GetModelResponse:
        """Describes the model that serves."""
        return reranker_pb2.GetModelResponse(model=self._model)


def _model(model: ModelInfo) -> reranker_pb2.RerankingModel:
    return reranker_pb2.RerankingModel(
        name=model.name,
        fingerprint=model.fingerprint,
        max_token_count=model.max_token_count,
        backend=model.backend,
        precision=model.precision,
        device=model.device,
    )
