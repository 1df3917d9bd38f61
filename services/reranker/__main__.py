"""Composition root of the reranker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.server import Stage, run
from services.inference.metrics import SchedulerTelemetry
from services.inference.metrics import process_metrics as inference_metrics
from services.inference.stage import warm_stage
from services.reranker import metrics
from services.reranker.backends import load_cross_encoder_backend
from services.reranker.scorer import Scorer
from services.reranker.servicer import RerankerServicer
from services.reranker.settings import RerankerSettings
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc


@asynccontextmanager
async def compose(settings: RerankerSettings) -> AsyncIterator[Stage]:
    """The cross-encoder, warm, behind its scheduler."""
    shared, own = inference_metrics(), metrics.process_metrics()
    backend = load_cross_encoder_backend(settings.rerank_model, settings.options, settings.rerank_passage_tokens)
    own.describe(backend.model)
    limits = settings.scheduler_limits(backend.model)
    scorer = Scorer(backend, limits, SchedulerTelemetry(shared, own.batch_size))
    servicer = RerankerServicer(scorer, own)
    async with warm_stage(
        scorer,
        shared,
        precision=settings.rerank_precision,
        service=reranker_pb2.DESCRIPTOR.services_by_name["RerankerService"],
        register=lambda server: reranker_pb2_grpc.add_RerankerServiceServicer_to_server(servicer, server),
    ) as stage:
        yield stage


if __name__ == "__main__":
    run("reranker", RerankerSettings, compose)
