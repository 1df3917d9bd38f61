"""Snapshots on every engine: under writes, from one engine into another, and with a node that is down."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import Unavailable
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.fields import Equals, Filter
from services.retriever.metrics import RetrieverMetrics
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Parts
from tests.integration.shelf import MODEL, PASSAGES, Shelf, chunked, ids
from tests.qdrant_server import QdrantServer


async def rows(store, version):
    """All that a version holds, to compare."""
    found, start = {}, None
    while True:
        some, start = await store.scroll(version, start, 100, Parts.VECTOR, None)
        for row in some:
            passage = row.passage
            kept = (passage.id, passage.title, passage.text, dict(passage.metadata), passage.chunk, row.revision)
            words = dict(zip(row.words.indices, np.float32(row.words.values).tolist(), strict=True))
            found[row.id] = (kept, passage.vector.tolist(), words)
        if start is None:
            return found


def scores(result):
    return {candidate.passage.id: pytest.approx(candidate.score, abs=1e-5) for candidate in result.candidates}


@pytest.fixture
async def collection(shelf, new_name):
    name = new_name()
    await shelf.collections.create(name, MODEL)
    await shelf.put(name, PASSAGES + chunked("long", 5))
    return name


async def test_a_snapshot_taken_while_documents_are_written_and_deleted_holds_all_of_them(shelf, collection):
    async def write():
        for number in range(20):
            await shelf.put(collection, [Passage(f"new{number}", f"text {number}", vector=PASSAGES[0].vector)])
            await shelf.put(collection, chunked("long", 1 + number % 4))
            if number % 3 == 0:
                await shelf.passages.delete(collection, [f"new{number - 1}", "ndiff"])

    kept, _ = await asyncio.gather(shelf.snapshots.create(collection), write())
    after = await shelf.snapshots.create(collection)
    restored = await shelf.snapshots.restore(collection, after.name)
    assert await rows(shelf.store, restored.version) == await rows(shelf.store, f"{collection}-v1")
    assert kept.version == restored.collection + "-v1"
    assert restored.counted == restored.passage_count == len(await rows(shelf.store, restored.version))
    found = await shelf.search(restored.version, QueryVariant("options", PASSAGES[1].vector), limit=1)
    assert ids(found) == ["argparse"]
    only = Filter(must=[Equals("kind", "module")])
    assert ids(await shelf.search(restored.version, QueryVariant("callable options"), condition=only)) == ["argparse"]


async def test_a_snapshot_of_one_engine_is_restored_into_another_and_back(tmp_path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(QdrantServer())
        remote = RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port, qdrant_pool_size=1)
        shelves = []
        for settings in (remote, RetrieverSettings(qdrant_path=tmp_path / "qdrant")):
            store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
            stack.push_async_callback(store.close)
            shelves.append(Shelf(store, snapshots=str(tmp_path / "snapshots")))
        first, second = shelves
        await first.collections.create("docs", MODEL)
        await first.put("docs", [*PASSAGES, *chunked("long", 5)])
        there = await second.snapshots.restore("docs", (await first.snapshots.create("docs")).name)
        assert there.version == "docs-v1"
        await second.versions.switch("docs", there.version)
        back = await first.snapshots.restore("docs", (await second.snapshots.create("docs")).name)
        assert back.version == "docs-v2"
        assert await rows(first.store, "docs-v1") == await rows(second.store, "docs-v1")
        assert await rows(first.store, "docs-v1") == await rows(first.store, "docs-v2")
        questions = [QueryVariant("options line callable"), QueryVariant("", PASSAGES[0].vector)]
        for question in questions:
            wanted = scores(await first.search("docs", question))
            assert wanted == scores(await second.search("docs", question))
            assert wanted == scores(await first.search("docs-v2", question))


async def test_with_a_node_down_a_snapshot_fails_and_is_not_offered():
    async def down(method, context):
        if method == "Scroll":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node that holds shard 2 is down")

    async with QdrantServer() as server:
        settings = RetrieverSettings(
            qdrant_url=server.url, qdrant_grpc_port=server.port, qdrant_pool_size=1, qdrant_pool_max_retries=0
        )
        store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
        shelf = Shelf(store)
        await shelf.collections.create("docs", MODEL)
        await shelf.put("docs", PASSAGES)
        server.fault = down
        with pytest.raises(Unavailable):
            await shelf.snapshots.create("docs")
        assert await shelf.snapshots.page("docs") == ([], "")
        await store.close()
