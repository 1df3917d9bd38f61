"""Contents of a data folder of the embedded engine, while no retriever has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from services.retriever.engines.edge.store import EdgeStore
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Parts, Row


async def stored(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    """All passages of versions, or of those that names stand for, by id; without revisions, which differ each time."""
    store = await EdgeStore.open(RetrieverSettings(qdrant_path=folder), RetrieverMetrics(CollectorRegistry()))
    try:
        return {name: await _passages(store, name) for name in names}
    finally:
        await store.close()


async def _passages(store: EdgeStore, name: str) -> dict[str, Any]:
    version = (await store.describe(name, None)).version
    found: dict[str, Any] = {}
    start = None
    while True:
        rows, start = await store.scroll(version, start, 1000, Parts.VECTOR, None)
        found |= {row.id: _comparable(row) for row in rows}
        if start is None:
            return found


def _comparable(row: Row) -> Any:
    passage = row.passage
    vector = None if passage.vector is None else passage.vector.tolist()
    return (passage.id, passage.title, passage.text, passage.metadata, passage.chunk, vector, row.words)
