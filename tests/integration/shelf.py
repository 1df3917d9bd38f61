"""The retriever's domain over one store, and what its tests put there."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from services.chassis.validation import chunk_id
from services.retriever.backups.snapshots import Snapshots
from services.retriever.backups.storage import SnapshotStorage
from services.retriever.collections.building import Building
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.collections.versions import Versions
from services.retriever.documents import Chunk, Passage
from services.retriever.layout import Layout
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.passages import Passages
from services.retriever.relations.enriching import Enriching
from services.retriever.relations.relating import Relating
from services.retriever.relations.statements import Statements
from services.retriever.search.findings import Findings
from services.retriever.search.searches import QueryVariant, SearchResult
from services.retriever.store import PLAIN, PassageStore

MODEL = CollectionModel(name="tiny", fingerprint="tiny@1", dimension=3, precision="fp32")
OTHER = CollectionModel(name="other", fingerprint="other@1", dimension=3, precision="fp32")
BM25 = Bm25(k1=1.2, b=0.75, average_length=10)

EAST, NORTH, UP = np.eye(3, dtype=np.float32)
PASSAGES = [
    Passage("submit", "Schedules the callable to be executed.", "concurrent.futures.ThreadPoolExecutor.submit",
            {"year": 2011, "since": 3.2, "kind": "method", "tags": ["threads", "pool"], "stable": True}, EAST),
    Passage("argparse", "Parser for command line options.", "argparse",
            {"year": 2009, "since": 2.7, "kind": "module", "tags": ["cli"], "stable": True}, NORTH),
    Passage("ndiff", "Compare two files line by line.", "difflib.ndiff",
            {"year": 2001, "since": 2, "kind": "function", "tags": [], "stable": False}, UP),
    Passage("untagged", "Nothing is known of this one.", "", {}, (EAST + NORTH) / 2),
]  # fmt: skip


class Shelf:
    """The domain over a store."""

    def __init__(
        self,
        store: PassageStore,
        take_over_seconds: float = 0.3,
        snapshots: str = "",
        layout: Layout = PLAIN,
        relations: str = "",
    ) -> None:
        self.store = store
        self.collections = Collections(store, BM25, layout, relations)
        self.passages = Passages(store, self.collections, RetrieverMetrics(CollectorRegistry()))
        self.findings = Findings(store, self.collections)
        self.versions = Versions(store, self.collections, take_over_seconds=take_over_seconds)
        self.relating = Relating(store, self.collections)
        self.enriching = Enriching(store, self.collections, passages_a_note=64, most_rows=50)
        self.statements = Statements(store, self.collections)
        self.building = Building(store, self.collections, self.versions)
        storage = SnapshotStorage(snapshots or f"memory://{uuid.uuid4()}")
        self.snapshots = Snapshots(store, self.collections, self.versions, storage)

    async def put(self, collection: str, passages: Sequence[Passage], model: CollectionModel = MODEL) -> None:
        """Stores passages."""
        await self.passages.upsert(collection, passages, model_fingerprint=model.fingerprint)

    async def search(
        self, collection: str, *variants: QueryVariant, limit: int = 10, fingerprint: str = "tiny@1", **options: Any
    ) -> SearchResult:
        return await self.passages.search(collection, variants, limit=limit, model_fingerprint=fingerprint, **options)

    async def document(self, collection: str, document_id: str) -> list[Passage]:
        """The passages of a document, none where it does not exist."""
        found = (await self.passages.get(collection, [document_id])).found
        return found[0] if found else []

    async def count(self, collection: str) -> int:
        return (await self.collections.get(collection)).passage_count


def ids(result: SearchResult) -> list[str]:
    return [candidate.passage.id for candidate in result.candidates]


def chunked(document: str, count: int, **fields: Any) -> list[Passage]:
    """A document of `count` chunks, or whole."""
    if count == 1:
        return [Passage(document, f"all of {document}", vector=EAST, **fields)]
    return [
        Passage(chunk_id(document, number), f"{number} of {document}", vector=EAST,
                chunk=Chunk(number, count, 10 * number, 10 * number + 12), **fields)
        for number in range(1, count + 1)
    ]  # fmt: skip
