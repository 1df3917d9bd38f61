"""Extraction for documents that are stored already: their relations are replaced, and nothing is embedded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sluice_cli.chat import Spent
from sluice_cli.indexing.extractors import BATCH, Extractor, reading_of, with_names
from sluice_cli.progress import counted
from sluice_client import AsyncClient, Document, Relations


@dataclass(slots=True)
class Extraction:
    """Outcome of an extraction."""

    documents: int = 0
    """Documents that were read."""
    related: int = 0
    """Documents of which the relations were replaced."""
    said: str = ""
    """Notes of the extractor on its work."""
    stopped_after: str = ""
    """The last document that was read, where the budget was spent before the end."""
    reason: str = ""


async def extract(client: AsyncClient, extractor: Extractor, collection: str, after: str = "") -> Extraction:
    """Add the names that an extractor finds to what the documents of a collection say, from one document on."""
    done = Extraction()
    batch: list[Document] = []
    last, skipping = after, bool(after)
    with counted("{task.completed:,} documents") as progress:
        bar = progress.add_task("extracting", total=None)

        async def relate() -> None:
            nonlocal last
            done.related += await _related(client, extractor, collection, batch)
            done.documents += len(batch)
            last = batch[-1].id
            batch.clear()
            progress.update(bar, completed=done.documents)

        try:
            async for stored in client.list_documents(collection=collection):
                if skipping:
                    skipping = stored.document.id != after
                    continue
                batch.append(stored.document)
                if len(batch) == BATCH:
                    await relate()
            if batch:
                await relate()
        except Spent as spent:
            done.stopped_after, done.reason = last, str(spent)
    done.said = extractor.said
    return done


async def _related(client: AsyncClient, extractor: Extractor, collection: str, batch: list[Document]) -> int:
    """Replace the relations of those documents that an extractor finds new names in; return their number."""
    names = await asyncio.to_thread(extractor.names, [reading_of(document) for document in batch])
    new: dict[str, Relations] = {}
    for document, found in zip(batch, names, strict=True):
        relations = with_names(document, found).relations
        if relations is not None and relations != document.relations:
            new[document.id] = relations
    if new:
        await client.relate(new, collection=collection)
    return len(new)
