"""Calls to an engine: how they are counted, traced and limited in time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from services.chassis import status, tracing
from services.chassis.errors import SluiceError
from services.retriever.metrics import RetrieverMetrics


@contextmanager
def observed(metrics: RetrieverMetrics, name: str) -> Iterator[None]:
    """Count and trace one call to Qdrant, however it ends."""
    code = grpc.StatusCode.CANCELLED
    attributes = {"db.system.name": "qdrant", "db.operation.name": name}
    with tracing.client_span(f"qdrant {name}", attributes) as span:
        try:
            yield
            code = grpc.StatusCode.OK
        except SluiceError as error:
            code = status.code_of(error)
            raise
        finally:
            metrics.calls.labels(code.name).inc()
            tracing.end_with_code(span, code.name, "db.response.status_code")


def time_limit(end: float) -> asyncio.Timeout:
    """Limit a block to a moment on the monotonic clock; one that has passed already lets nothing start."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return asyncio.timeout(None if left == math.inf else left)
