"""gRPC servicer of the expander."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.timing import duration
from services.chassis.validation import MAX_QUERY_BYTES, check_text
from services.expander.expansion import MAX_VARIANTS, Expander, Source, Strategy
from services.expander.metrics import ExpanderMetrics
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice.type.v1 import features_pb2

Context = grpc.aio.ServicerContext[Any, Any]

_STRATEGIES = {
    features_pb2.EXPANSION_STRATEGY_SYNONYMS: Strategy.SYNONYMS,
    features_pb2.EXPANSION_STRATEGY_MULTI_QUERY: Strategy.MULTI_QUERY,
}
_STRATEGY_NUMBERS = {strategy: number for number, strategy in _STRATEGIES.items()}
_SOURCES = {
    Source.ORIGINAL: expander_pb2.VARIANT_SOURCE_ORIGINAL,
    Source.SYNONYM: expander_pb2.VARIANT_SOURCE_SYNONYM,
    Source.TEMPLATE: expander_pb2.VARIANT_SOURCE_TEMPLATE,
}


class ExpanderServicer(expander_pb2_grpc.ExpanderServiceServicer):
    """Implement ExpanderService."""

    def __init__(
        self, expander: Expander, metrics: ExpanderMetrics, default_strategy: Strategy, default_count: int
    ) -> None:
        self._expander = expander
        self._metrics = metrics
        self._default_strategy = default_strategy
        self._default_count = default_count

    async def ExpandQuery(  # noqa: N802  # gRPC's name
        self, request: expander_pb2.ExpandQueryRequest, context: Context
    ) -> expander_pb2.ExpandQueryResponse:
        """Return the query and its variants."""
        check_text("query", request.query, MAX_QUERY_BYTES)
        strategy = self._strategy(request.strategy)
        count = request.max_variant_count if request.HasField("max_variant_count") else self._default_count
        if not 1 <= count <= MAX_VARIANTS:
            raise InvalidArgument("max_variant_count", f"must be between 1 and {MAX_VARIANTS}, not {count}")
        started = time.perf_counter()
        # A long query takes long enough to hold up health checks.
        expansion = await asyncio.to_thread(self._expander.expand, request.query, strategy, count)
        seconds = time.perf_counter() - started
        self._metrics.observe(expansion.strategy_used, len(expansion.variants), seconds)
        if (span := tracing.recorded()) is not None:
            span.set_attributes(
                {
                    "sluice.strategy": expansion.strategy_used.value,
                    "sluice.variants": len(expansion.variants),
                    "sluice.outcome": "degraded" if expansion.degraded_reason else "ran",
                }
            )
        return expander_pb2.ExpandQueryResponse(
            variants=[
                expander_pb2.Variant(text=variant.text, weight=variant.weight, source=_SOURCES[variant.source])
                for variant in expansion.variants
            ],
            strategy=_STRATEGY_NUMBERS[expansion.strategy_used],
            degraded_reason=expansion.degraded_reason or "",
            compute_duration=duration(seconds),
        )

    def _strategy(self, number: features_pb2.ExpansionStrategy.ValueType) -> Strategy:
        if number == features_pb2.EXPANSION_STRATEGY_UNSPECIFIED:
            return self._default_strategy
        if number not in _STRATEGIES:
            raise InvalidArgument("strategy", f"is unknown ({number}); use synonyms or multi_query")
        return _STRATEGIES[number]
