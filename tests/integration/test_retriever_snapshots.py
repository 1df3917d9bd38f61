"""Snapshots on every engine: under writes, from one engine into another, and with a node that is down."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import Unavailable
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.fields import Equals, Filter
from services.retriever.layout import Layout
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


@pytest.fixture
async def cluster():
    """Three nodes, each with a shard of every version."""
    async with QdrantServer(nodes=3, lag=(0.0, 0.01)) as server:
        yield server


@pytest.fixture
async def spread(cluster, tmp_path):
    """The domain over the cluster, with a collection of 4,000 passages on all nodes."""
    urls = ",".join(f"http://127.0.0.1:{port}" for port in cluster.ports)
    settings = RetrieverSettings(qdrant_url=urls, qdrant_grpc_port=0, qdrant_pool_retry_enabled=False)
    store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
    shelf = Shelf(store, snapshots=str(tmp_path / "snapshots"), layout=Layout(shards=3))
    await shelf.collections.create("docs", MODEL)
    vectors = np.random.default_rng(16).normal(size=(4000, 3)).astype(np.float32)
    passages = [Passage(f"p{number}", f"text {number}", vector=vector) for number, vector in enumerate(vectors)]
    for start in range(0, 4000, 1000):
        await shelf.put("docs", passages[start : start + 1000])
    yield shelf
    await store.close()


async def test_all_shards_of_a_cluster_come_back_in_one_shard_and_in_another_engine(spread, tmp_path):
    async def write():
        for number in range(0, 400, 10):
            await spread.put("docs", [Passage(f"p{number}", "newer", vector=PASSAGES[0].vector)])

    kept, _ = await asyncio.gather(spread.snapshots.create("docs"), write())
    kept = await spread.snapshots.create("docs")
    wanted = await rows(spread.store, "docs-v1")
    assert len(wanted) == 4000
    restored = await spread.snapshots.restore("docs", kept.name, shards=1)
    assert (restored.version, restored.counted, restored.layout.shards) == ("docs-v2", 4000, 1)
    assert await rows(spread.store, "docs-v2") == wanted
    store = await open_store(RetrieverSettings(qdrant_path=tmp_path / "qdrant"), RetrieverMetrics(CollectorRegistry()))
    other = Shelf(store, snapshots=str(tmp_path / "snapshots"))
    assert (await other.snapshots.restore("docs", kept.name)).passage_count == 4000
    assert await rows(store, "docs-v1") == wanted
    await store.close()


async def test_with_a_node_down_a_snapshot_fails_with_the_reason_and_is_not_offered(spread, cluster):
    await cluster.take_down(2)
    with pytest.raises(Unavailable) as down:
        await spread.snapshots.create("docs")
    assert down.value.reason == "SHARD_DOWN"
    assert await spread.snapshots.page("docs") == ([], "")
    await cluster.bring_up(2)
    assert (await spread.snapshots.create("docs")).version == "docs-v1"
