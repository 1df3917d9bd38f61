"""Composition root of the retriever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis import logs
from services.chassis.admission.concurrency import ConcurrencyLimit
from services.chassis.errors import SluiceError
from services.chassis.server import Stage, run
from services.chassis.timing import in_background
from services.retriever.backups.snapshots import Snapshots
from services.retriever.backups.storage import SnapshotStorage
from services.retriever.collections.building import Building
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.transfers import Transfers
from services.retriever.collections.tuning import Tuning
from services.retriever.collections.versions import Versions
from services.retriever.engines import open_store
from services.retriever.lexical import Analyzer, Bm25
from services.retriever.metrics import process_metrics
from services.retriever.passages import Passages
from services.retriever.relations.enriching import Enriching
from services.retriever.relations.keys import KEYS
from services.retriever.relations.relating import Relating
from services.retriever.relations.statements import Statements
from services.retriever.search.findings import Findings
from services.retriever.servicer import RetrieverServicer
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PassageStore
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc

CHECK_SECONDS = 2.0
RECHECK_SECONDS = 0.25

_BULK_METHODS = frozenset(
    {
        "UpsertPassages",
        "DeletePassages",
        "ListDocuments",
        "CreateCollection",
        "TuneCollection",
        "DeleteCollection",
        "ComparePassages",
        "CopyPassages",
        "SamplePassages",
        "CreateSnapshot",
        "RestoreSnapshot",
        "ListKeys",
        "ReadRecords",
        "BeginTransfer",
        "CompleteTransfer",
        "RelatePassages",
    }
)

_log = logs.get_logger("retriever")


class StoreWatch:
    """Asks the store again and again for its state, so that health is right between searches too."""

    def __init__(self, store: PassageStore) -> None:
        self._store = store
        self.problem: str | None = "Qdrant has not answered yet"

    async def check(self) -> None:
        """Ask once."""
        try:
            await self._store.check(deadline=time.monotonic() + CHECK_SECONDS)
        except SluiceError as error:
            self.problem = error.message
        else:
            self.problem = None

    async def run(self) -> None:
        """Ask every two seconds until cancelled, and more often while there is a problem."""
        while True:
            await asyncio.sleep(CHECK_SECONDS if self.problem is None else RECHECK_SECONDS)
            await self.check()


@asynccontextmanager
async def compose(settings: RetrieverSettings) -> AsyncIterator[Stage]:
    """Compose the stage over a store, which may come and go: health follows it."""
    metrics = process_metrics()
    storage = SnapshotStorage(settings.qdrant_snapshot_path)
    store = await open_store(settings, metrics)
    watch = StoreWatch(store)
    await watch.check()
    _log.info("opened", store=type(store).__name__, problem=watch.problem)
    bm25 = Bm25(
        settings.lexical_k1,
        settings.lexical_b,
        settings.lexical_average_length,
        settings.lexical_title_weight,
        Analyzer(settings.lexical_language),
    )
    collections = Collections(store, bm25, settings.layout(), KEYS if settings.relations else "")
    versions = Versions(store, collections)
    servicer = RetrieverServicer(
        collections,
        Tuning(store, collections),
        Passages(store, collections, metrics, fusion_depth=settings.fusion_depth),
        versions,
        Building(store, collections, versions),
        Snapshots(store, collections, versions, storage),
        Findings(store, collections),
        Transfers(store, collections, versions),
        Relating(store, collections),
        Enriching(store, collections),
        Statements(store, collections),
    )
    try:
        async with in_background(watch.run()):
            yield Stage(
                service=retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"],
                register=lambda server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(servicer, server),
                limit=ConcurrencyLimit(settings.limit_bounds()),
                bulk_methods=_BULK_METHODS,
                problem=lambda: watch.problem,
            )
    finally:
        await store.close()
        storage.close()


if __name__ == "__main__":
    run("retriever", RetrieverSettings, compose)
