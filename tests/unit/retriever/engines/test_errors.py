"""Errors that only the HTTP client and the embedded engine raise; those of gRPC are met on a socket."""

import errno
import sqlite3

import httpx
import pytest
from prometheus_client import CollectorRegistry
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from services.chassis.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.retriever.engines.embedded import EmbeddedStore
from services.retriever.engines.pool import QdrantPool
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings


def answer(status: int, body: bytes = b"") -> UnexpectedResponse:
    return UnexpectedResponse(status, "", body, httpx.Headers())


async def failing(error):
    raise error


@pytest.mark.parametrize(
    ("raised", "expected", "reason"),
    [
        (answer(400), InvalidArgument, "QDRANT_REFUSED"),
        (answer(400, b"Alias with the same name already exists"), AlreadyExists, "ALREADY_EXISTS"),
        (answer(403), FailedPrecondition, "QDRANT_DENIED"),
        (answer(404), NotFound, "NOT_FOUND"),
        (answer(409), AlreadyExists, "ALREADY_EXISTS"),
        (answer(429), ResourceExhausted, "RATE_LIMITED"),
        (answer(500), Internal, "INTERNAL"),
        (answer(500, b"No space left on device"), ResourceExhausted, "STORAGE_FULL"),
        (answer(503), Unavailable, "DEPENDENCY_DOWN"),
        (answer(418), Internal, "INTERNAL"),
        (ResourceExhaustedResponse("slow down", 3), ResourceExhausted, "RATE_LIMITED"),
        (ResponseHandlingException(httpx.ConnectError("refused")), Unavailable, "DEPENDENCY_DOWN"),
        (ResponseHandlingException(httpx.ReadTimeout("slow")), DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (ResponseHandlingException(ValueError("not JSON")), Internal, "INTERNAL"),
    ],
)
async def test_errors_over_http_become_ours(raised, expected, reason):
    settings = RetrieverSettings(qdrant_url="http://127.0.0.1:1", qdrant_grpc_port=0, qdrant_pool_retry_enabled=False)
    pool = QdrantPool(settings, RetrieverMetrics(CollectorRegistry()))
    with pytest.raises(expected) as failure:
        await pool.call(lambda _client: failing(raised))
    assert failure.value.reason == reason
    assert failure.value.__cause__ is raised
    await pool.close()


async def test_nothing_listening_over_http_is_an_outage():
    settings = RetrieverSettings(qdrant_url="http://127.0.0.1:1", qdrant_grpc_port=0, qdrant_pool_retry_enabled=False)
    pool = QdrantPool(settings, RetrieverMetrics(CollectorRegistry()))
    with pytest.raises(Unavailable):
        await pool.call(lambda client: client.info())
    await pool.close()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("Collection docs not found"), NotFound),
        (ValueError("Collection docs already exists"), AlreadyExists),
        (ValueError("shapes (3,) and (4,)"), Internal),
        (OSError(errno.ENOSPC, "No space"), ResourceExhausted),
        (OSError(errno.EIO, "I/O error"), Internal),
        (sqlite3.OperationalError("database or disk is full"), ResourceExhausted),
        (sqlite3.DatabaseError("file is not a database"), Internal),
    ],
)
async def test_errors_of_the_embedded_engine_become_ours(tmp_path, raised, expected):
    store = await EmbeddedStore.open(RetrieverSettings(qdrant_path=tmp_path), RetrieverMetrics(CollectorRegistry()))
    with pytest.raises(expected):
        await store.call("test", None, lambda _client: failing(raised))
    await store.close()
