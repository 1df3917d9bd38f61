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
from services.embedder.token_backends import load_token_backend
from services.embedder.token_encoder import TokenEncoder
from services.inference.metrics import SchedulerTelemetry
from services.inference.metrics import process_metrics as inference_metrics
from services.inference.scheduling import Turn
from services.inference.stage import warm_stage
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc


@asynccontextmanager
async def compose(settings: EmbedderSettings) -> AsyncIterator[Stage]:
    """The embedding model and the token model, warm, each behind its scheduler."""
    shared, own = inference_metrics(), metrics.process_metrics()
    backend = load_embedding_backend(
        settings.embedding_model, settings.options, pseudo_dimension=settings.pseudo_dimension
    )
    token_backend = load_token_backend(
        settings.token_model, settings.token_options, settings.token_passage_tokens, pseudo=backend.model.pseudo
    )
    own.describe(backend.model, token_backend.model if token_backend else None)
    turn = Turn()
    limits = settings.limits(backend.model, turn)
    encoder = Encoder(backend, limits, SchedulerTelemetry(shared, own.batch_size))
    token_encoder = None
    if token_backend is not None:
        limits = settings.token_limits(token_backend.model, turn)
        token_encoder = TokenEncoder(token_backend, limits, SchedulerTelemetry(shared, own.token_batch_size))
    servicer = EmbedderServicer(encoder, token_encoder, own)
    async with warm_stage(
        encoder,
        shared,
        precision=settings.embedding_precision,
        service=embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
        register=lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        beside=[token_encoder] if token_encoder else [],
    ) as stage:
        yield stage


if __name__ == "__main__":
    run("embedder", EmbedderSettings, compose)
