"""Errors that only the embedded engine raises; those of gRPC are met on a socket."""

import errno
import sqlite3

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import (
    AlreadyExists,
    Internal,
    NotFound,
    ResourceExhausted,
)
from services.retriever.engines.embedded import EmbeddedStore
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings


async def failing(error):
    raise error


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
