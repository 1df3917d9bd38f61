"""Composition root of the speller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.server import Stage, run
from services.speller.metrics import process_metrics
from services.speller.servicer import SpellerServicer
from services.speller.settings import SpellerSettings
from sluice.speller.v1 import speller_pb2, speller_pb2_grpc


@asynccontextmanager
async def compose(settings: SpellerSettings) -> AsyncIterator[Stage]:
    """Compose the speller."""
    servicer = SpellerServicer(process_metrics())
    yield Stage(
        service=speller_pb2.DESCRIPTOR.services_by_name["SpellerService"],
        register=lambda server: speller_pb2_grpc.add_SpellerServiceServicer_to_server(servicer, server),
    )


if __name__ == "__main__":
    run("speller", SpellerSettings, compose)
