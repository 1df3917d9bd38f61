"""Composition root of the embedder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis import logs
from services.chassis.server import Stage, run
from services.embedder import metrics
from services.embedder.backends import load_embedding_backend
from services.embedder.encoder import Encoder
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from services.inference.metrics import SchedulerTelemetry
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc

_log = logs.get_logger("embedder")


@asynccontextmanager
async def compose(settings: EmbedderSettings) -> AsyncIterator[Stage]:
    """The model, warm, behind its scheduler."""
    backend = load_embedding_backend(
        settings.embedding_model, settings.options, pseudo_dimension=settings.pseudo_dimension
    )
    metrics.describe(backend.model)
    if backend.model.pseudo:
        _log.warning("pseudo-embeddings serve: EMBEDDING_MODEL is empty, and vectors carry no meaning")
    observer = SchedulerTelemetry(metrics.embedding_batch_size)
    async with Encoder.open(backend, settings.scheduler_limits(backend.model), observer) as encoder:
        await encoder.warm_up()
        _log.info(
            "warm",
            model=backend.model.name,
            backend=backend.model.backend,
            precision=backend.model.precision,
            fingerprint=backend.model.fingerprint,
        )
        servicer = EmbedderServicer(encoder)
        yield Stage(
            service=embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            register=lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
            problem=lambda: encoder.inference.problem,
            died=encoder.inference.died,
        )


if __name__ == "__main__":
    run("embedder", EmbedderSettings, compose)
