"""Composition root of the reasoner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.server import Stage, run
from services.reasoner.metrics import process_metrics
from services.reasoner.reasoning import Reasoner
from services.reasoner.servicer import ReasonerServicer
from services.reasoner.settings import ReasonerSettings
from sluice.reasoner.v1 import reasoner_pb2, reasoner_pb2_grpc


@asynccontextmanager
async def compose(settings: ReasonerSettings) -> AsyncIterator[Stage]:
    """Compose the reasoner."""
    servicer = ReasonerServicer(Reasoner(None), process_metrics(), 60.0)
    yield Stage(
        service=reasoner_pb2.DESCRIPTOR.services_by_name["ReasonerService"],
        register=lambda server: reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(servicer, server),
    )


if __name__ == "__main__":
    run("reasoner", ReasonerSettings, compose)
