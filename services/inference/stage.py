"""The stage around a served model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from services.chassis import logs
from services.chassis.server import Stage
from services.inference.metrics import InferenceMetrics
from services.inference.models.runtime import Precision
from services.inference.served_model import ServedModel

_log = logs.get_logger("inference")


@asynccontextmanager
async def warm_stage(
    served: ServedModel[Any, Any],
    metrics: InferenceMetrics,
    *,
    precision: Precision,
    service: ServiceDescriptor,
    register: Callable[[grpc.aio.Server], None],
) -> AsyncIterator[Stage]:
    """Run a model, and serve it once it is warm. `precision` is the one that was set."""
    model = served.model
    metrics.describe(model, precision)
    if model.pseudo:
        _log.warning("pseudo-embeddings serve: EMBEDDING_MODEL is empty, and vectors carry no meaning")
    async with served:
        await served.warm_up()
        _log.info(
            "warm",
            model=model.name,
            backend=model.backend,
            precision=model.precision,
            fingerprint=model.fingerprint,
        )
        yield Stage(service=service, register=register, problem=lambda: served.problem, died=served.died)
