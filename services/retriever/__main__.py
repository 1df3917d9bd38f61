"""Composition root of the retriever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis import logs
from services.chassis.errors import SluiceError
from services.chassis.server import Stage, run
from services.chassis.shedding import ConcurrencyLimit, concurrency_limit
from services.chassis.timing import in_background
from services.retriever.backends import open_qdrant
from services.retriever.index import Index
from services.retriever.lexical import Bm25
from services.retriever.metrics import process_metrics
from services.retriever.servicer import RetrieverServicer
from services.retriever.settings import RetrieverSettings
from services.retriever.snapshots import FolderSnapshots, ServerSnapshots, Snapshots, SnapshotStore
from services.retriever.versions import Versions
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc

CHECK_SECONDS = 2.0

_log = logs.get_logger("retriever")


class QdrantWatch:
    """Keeps asking Qdrant whether it is there, so that health tells the truth between searches too."""

    def __init__(self, passages: Index) -> None:
        self._index = passages
        self.problem: str | None = "Qdrant has not answered yet"

    async def look(self) -> None:
        """Asks once."""
        try:
            await self._index.check(deadline=time.monotonic() + CHECK_SECONDS)
        except SluiceError as error:
            self.problem = error.message
        else:
            self.problem = None

    async def keep_looking(self) -> None:
        """Asks for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.look()


_BULK_METHODS = frozenset(
    {
        "UpsertPassages",
        "DeletePassages",
        "CreateCollection",
        "ComparePassages",
        "CopyPassages",
        "SamplePassages",
        "CreateSnapshot",
        "RestoreSnapshot",
    }
)


@asynccontextmanager
async def compose(settings: RetrieverSettings) -> AsyncIterator[Stage]:
    """The index over Qdrant, which may come and go: health follows it."""
    metrics = process_metrics()
    qdrant = await open_qdrant(settings, metrics)
    bm25 = Bm25(settings.lexical_k1, settings.lexical_b, settings.lexical_average_length, settings.lexical_title_weight)
    passages = Index(qdrant, metrics, bm25=bm25, fusion_depth=settings.fusion_depth)
    watch = QdrantWatch(passages)
    await watch.look()
    _log.info("opened", embedded=qdrant.embedded, problem=watch.problem)
    versions = Versions(qdrant, passages)
    copies: SnapshotStore = FolderSnapshots(qdrant, settings.qdrant_snapshot_path)
    if settings.qdrant_url:
        copies = ServerSnapshots(qdrant, settings.qdrant_url, settings.qdrant_api_key.get_secret_value())
    servicer = RetrieverServicer(passages, versions, Snapshots(copies, passages, versions))
    try:
        async with in_background(watch.keep_looking()):
            yield Stage(
                service=retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"],
                register=lambda server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(servicer, server),
                limit=ConcurrencyLimit(settings.limit_bounds(), concurrency_limit.set),
                bulk_methods=_BULK_METHODS,
                problem=lambda: watch.problem,
            )
    finally:
        await qdrant.close()


if __name__ == "__main__":
    run("retriever", RetrieverSettings, compose)
