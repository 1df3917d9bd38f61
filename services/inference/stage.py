"""The stage around the models that it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from services.chassis import logs
from services.chassis.server import Stage
from services.inference.metrics import InferenceMetrics
from services.inference.models.info import Precision
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
    beside: Sequence[ServedModel[Any, Any]] = (),
) -> AsyncIterator[Stage]:
    """Run a model and those beside it, and serve them once all are warm; a stage with a dead model is dead.

    `precision` is the one that was set for the first.
    """
    metrics.describe(served.model, precision)
    if served.model.pseudo:
        _log.warning("pseudo-embeddings serve: EMBEDDING_MODEL is empty, and vectors carry no meaning")
    models = [served, *beside]
    async with AsyncExitStack() as running:
        for one in models:
            one.died = served.died
            await running.enter_async_context(one)
            await one.warm_up()
            model = one.model
            _log.info(
                "warm",
                model=model.name,
                backend=model.backend,
                precision=model.precision,
                fingerprint=model.fingerprint,
            )
        yield Stage(service=service, register=register, problem=lambda: _problem_of(models), died=served.died)


def _problem_of(models: Sequence[ServedModel[Any, Any]]) -> str | None:
    return next((f"{one.model.name}: {one.problem}" for one in models if one.problem), None)
