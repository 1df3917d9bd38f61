"""Composition root of the embedder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.server import Stage, run
from services.embedder import metrics
from services.embedder.backends import load_embedding_backend
from services.embedder.encoder import Encoder
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from services.inference.metrics import SchedulerTelemetry
from services.inference.metrics import process_metrics as inference_metrics
from services.inference.stage import warm_stage
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc


@asynccontextmanager
async def compose(settings: EmbedderSettings) -> AsyncIterator[Stage]:
    """The embedding model, warm, behind its scheduler."""
    shared, own = inference_metrics(), metrics.process_metrics()
    backend = load_embedding_backend(
        settings.embedding_model, settings.options, pseudo_dimension=settings.pseudo_dimension
    )
    own.describe(backend.model)
    limits = settings.scheduler_limits(backend.model)
    encoder = Encoder(backend, limits, SchedulerTelemetry(shared, own.batch_size))
    servicer = EmbedderServicer(encoder, own)
    async with warm_stage(
        encoder,
        shared,
        precision=settings.embedding_precision,
        service=embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
        register=lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
    ) as stage:
        yield stage


if __name__ == "__main__":
    run("embedder", EmbedderSettings, compose)
