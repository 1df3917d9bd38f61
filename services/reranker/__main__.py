"""Composition root of the reranker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis import logs
from services.chassis.server import Stage, run
from services.inference.metrics import SchedulerTelemetry
from services.reranker import metrics
from services.reranker.backends import load_cross_encoder_backend
from services.reranker.scorer import Scorer
from services.reranker.servicer import RerankerServicer
from services.reranker.settings import RerankerSettings
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc

_log = logs.get_logger("reranker")


@asynccontextmanager
async def compose(settings: RerankerSettings) -> AsyncIterator[Stage]:
    """The cross-encoder, warm, behind its scheduler."""
    backend = load_cross_encoder_backend(settings.rerank_model, settings.options)
    metrics.describe(backend.model)
    observer = SchedulerTelemetry(metrics.reranker_batch_size)
    async with Scorer.open(backend, settings.scheduler_limits(backend.model), observer) as scorer:
        await scorer.warm_up()
        _log.info(
            "warm",
            model=backend.model.name,
            backend=backend.model.backend,
            precision=backend.model.precision,
            fingerprint=backend.model.fingerprint,
        )
        servicer = RerankerServicer(scorer)
        yield Stage(
            service=reranker_pb2.DESCRIPTOR.services_by_name["RerankerService"],
            register=lambda server: reranker_pb2_grpc.add_RerankerServiceServicer_to_server(servicer, server),
            problem=lambda: scorer.inference.problem,
            died=scorer.inference.died,
        )


if __name__ == "__main__":
    run("reranker", RerankerSettings, compose)
