"""The engines on which the tests of the retriever run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry

from services.retriever.engines import open_store
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PassageStore
from tests.places import in_memory
from tests.qdrant_server import QdrantServer, RealQdrant

REAL_QDRANT = RealQdrant.from_environment()
ENGINES = ["embedded", "protocol", *(["server"] if REAL_QDRANT else [])]


@asynccontextmanager
async def engine(kind: str, folder: Path) -> AsyncIterator[PassageStore]:
    """Open an engine: embedded, behind Qdrant's protocol, as a cluster, or the real server that is named."""
    async with AsyncExitStack() as stack:
        if kind == "embedded":
            place = stack.enter_context(TemporaryDirectory(dir=in_memory() or folder))
            settings = RetrieverSettings(qdrant_path=Path(place) / "qdrant")
        elif kind == "protocol":
            server = await stack.enter_async_context(QdrantServer())
            settings = RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port, qdrant_pool_size=1)
        elif kind == "cluster":  # each call goes to another node
            server = await stack.enter_async_context(QdrantServer(nodes=3, lag=(0.02, 0.1)))
            settings = RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port, qdrant_pool_size=3)
        else:
            assert REAL_QDRANT is not None
            settings = RetrieverSettings(qdrant_url=REAL_QDRANT.url, qdrant_grpc_port=REAL_QDRANT.grpc_port)
        opened = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
        stack.push_async_callback(opened.close)
        yield opened
