"""gRPC servicer of the speller."""

from __future__ import annotations

import time
from typing import Any

import grpc

from services.chassis.timing import duration
from services.chassis.validation import MAX_QUERY_BYTES, check_text
from services.speller.correction import corrected
from services.speller.metrics import SpellerMetrics
from sluice.speller.v1 import speller_pb2, speller_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class SpellerServicer(speller_pb2_grpc.SpellerServiceServicer):
    """Implement SpellerService."""

    def __init__(self, metrics: SpellerMetrics) -> None:
        self._metrics = metrics

    async def CorrectQuery(  # noqa: N802  # gRPC's name
        self, request: speller_pb2.CorrectQueryRequest, context: Context
    ) -> speller_pb2.CorrectQueryResponse:
        """Return the corrected query."""
        check_text("query", request.query, MAX_QUERY_BYTES)
        started = time.perf_counter()
        query = corrected(request.query)
        seconds = time.perf_counter() - started
        self._metrics.latency.observe(seconds)
        return speller_pb2.CorrectQueryResponse(query=query, compute_duration=duration(seconds))
