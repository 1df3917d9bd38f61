"""Versions of collections on every engine: what is copied, what is switched to, what is kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SluiceError,
)
from services.retriever.collections.building import Difference, Side
from services.retriever.collections.descriptions import CollectionInfo, CollectionModel, VersionState
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.fields import Equals, Filter
from services.retriever.metrics import RetrieverMetrics
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings
from tests.integration.shelf import BM25, Shelf
from tests.qdrant_server import QdrantServer

pytestmark = pytest.mark.cluster

OLD = CollectionModel("old", "old@1", 3, "fp32")
NEW = CollectionModel("new", "new@1", 2, "fp32")
PASSAGES = [
    Passage(f"p{place}", f"text {place}", metadata={"place": place}, vector=np.eye(3, dtype=np.float32)[place % 3])
    for place in range(7)
]
EAST = np.array([1, 0], dtype=np.float32)


@pytest.fixture
async def collection(shelf, new_name):
    """A collection by the old model."""
    name = new_name()
    await shelf.collections.create(name, OLD)
    await shelf.put(name, PASSAGES, OLD)
    return name


async def bring(shelf, collection, version, **page):
    """One round: what differs is copied. Tells what it was."""
    compared = await shelf.building.compare(collection, version, limit=3, **page)
    await shelf.building.copy(
        version,
        [embedded(found) for found in compared.differences],
        model_fingerprint=NEW.fingerprint,
    )
    return compared


def embedded(found, vector=EAST):
    """The difference with a vector by the new model."""
    return replace(found, passage=found.passage and replace(found.passage, vector=vector))


async def build(shelf, collection):
    version = (await shelf.versions.create(collection, NEW))[0].version
    for side in Side:
        cursor = ""
        while True:
            compared = await bring(shelf, collection, version, side=side, cursor=cursor)
            cursor = compared.next_cursor
            if not cursor:
                break
    await shelf.versions.complete(version)
    return version


async def texts(shelf, name):
    return {passage.id: passage.text for passage in (await shelf.passages.sample(name, 1000)).passages}


async def test_many_who_create_a_collection_at_once_make_one(store, new_name):
    name = new_name()
    shelves = [Shelf(store) for _ in range(5)]
    made = await asyncio.gather(*(one.collections.create(name, OLD) for one in shelves), return_exceptions=True)
    assert all(isinstance(outcome, CollectionInfo | AlreadyExists) for outcome in made)
    info = await shelves[0].collections.get(name)
    assert (info.version, info.collection, info.state) == (f"{name}-v1", name, VersionState.READY)


async def test_a_rebuilt_version_has_every_passage_and_every_field(shelf, collection):
    version = await build(shelf, collection)
    live, before = await shelf.versions.switch(collection, version)
    assert (live.version, before) == (f"{collection}-v2", f"{collection}-v1")
    assert await texts(shelf, collection) == {passage.id: passage.text for passage in PASSAGES}
    found = await shelf.passages.search(
        collection, [QueryVariant("text")], limit=9, condition=Filter(must=[Equals("place", 3)])
    )
    assert [candidate.passage.id for candidate in found.candidates] == ["p3"]
    assert (await shelf.collections.get(collection)).model == NEW


async def test_a_copy_never_replaces_what_was_written_after_it_was_compared(shelf, collection):
    version = (await shelf.versions.create(collection, NEW))[0].version
    seen = (await shelf.building.compare(collection, version, ids=["p1"])).differences
    await shelf.passages.upsert(collection, [replace(PASSAGES[1], text="newer")], model_fingerprint=OLD.fingerprint)
    await bring(shelf, collection, version, ids=["p1"])
    for older in (seen[0], replace(seen[0], building_revision="of no write")):
        removal = Difference("p1", None, "", "of no write")
        await shelf.building.copy(version, [embedded(older), removal], model_fingerprint=NEW.fingerprint)
    assert await texts(shelf, version) == {"p1": "newer"}


async def test_what_is_deleted_in_the_live_version_goes_from_the_one_being_built(shelf, collection):
    version = (await shelf.versions.create(collection, NEW))[0].version
    await bring(shelf, collection, version, ids=[passage.id for passage in PASSAGES])
    deleted = await shelf.passages.delete(collection, ["p2", "p3"])
    assert (deleted.count, deleted.building) == (2, version)
    for _ in range(2):
        await bring(shelf, collection, version, side=Side.BUILDING)
    await bring(shelf, collection, version, ids=["p2", "p3"])
    assert await texts(shelf, version) == await texts(shelf, collection)


async def test_a_version_is_left_out_once_it_is_not_built_any_more(shelf, collection):
    version = (await shelf.versions.create(collection, NEW))[0].version
    assert (await shelf.passages.upsert(collection, PASSAGES, model_fingerprint=OLD.fingerprint)).building == version
    await shelf.versions.abandon(version)
    assert (await shelf.passages.upsert(collection, PASSAGES, model_fingerprint=OLD.fingerprint)).building == ""
    for call in (shelf.building.compare(collection, version, ids=["p1"]), shelf.versions.complete(version)):
        with pytest.raises(FailedPrecondition) as over:
            await call
        assert over.value.reason == "NOT_BUILDING"
    assert (await shelf.versions.create(collection, NEW))[0].version == version


async def test_nothing_is_switched_to_an_unfinished_foreign_or_missing_version(shelf, collection):
    other = f"{collection}-other"
    await shelf.collections.create(other, OLD)
    version = (await shelf.versions.create(collection, NEW))[0].version
    for wanted, kind in (
        (version, FailedPrecondition),
        ("", FailedPrecondition),
        (f"{other}-v1", InvalidArgument),
        (f"{collection}-v9", NotFound),
    ):
        with pytest.raises(kind):
            await shelf.versions.switch(collection, wanted)
    with pytest.raises(InvalidArgument):
        await shelf.versions.switch(f"{collection}-v1", version)
    assert (await shelf.collections.get(collection)).version == f"{collection}-v1"


async def test_a_wrong_dimension_or_model_leaves_the_version_as_it_was(shelf, collection):
    version = (await shelf.versions.create(collection, NEW))[0].version
    [found] = (await shelf.building.compare(collection, version, ids=["p1"])).differences
    for vector, fingerprint in ((EAST, OLD.fingerprint), (np.ones(3, dtype=np.float32), NEW.fingerprint)):
        with pytest.raises(SluiceError):
            await shelf.building.copy(version, [embedded(found, vector)], model_fingerprint=fingerprint)
    assert await texts(shelf, version) == {}


async def test_a_rollback_goes_to_and_fro(shelf, collection):
    version = await build(shelf, collection)
    await shelf.versions.switch(collection, version)
    assert (await shelf.versions.switch(collection))[0].version == f"{collection}-v1"
    assert (await shelf.versions.switch(collection))[0].version == version
    with pytest.raises(FailedPrecondition):
        await shelf.versions.delete(version)
    await shelf.versions.delete(f"{collection}-v1")
    with pytest.raises(NotFound):
        await shelf.versions.switch(collection)
    assert (await shelf.collections.get(collection)).version == version


async def test_a_collection_of_an_earlier_release_goes_on_and_hands_its_name_over(shelf, new_name):
    name = new_name()
    plain = CollectionInfo(name, name, OLD, 0, BM25, {}, datetime.now(UTC), name)
    await shelf.collections.make(plain)
    await shelf.put(name, PASSAGES, OLD)
    found = await shelf.passages.search(name, [QueryVariant("text")], limit=9)
    assert (found.version, len(found.candidates)) == (name, 7)

    version = await build(shelf, name)
    switching = asyncio.create_task(shelf.versions.switch(name, version))
    answered = set()
    while not switching.done():
        found = await shelf.passages.search(name, [QueryVariant("text")], limit=9)
        assert len(found.candidates) == 7
        answered.add(found.version)
        await asyncio.sleep(0.01)
    assert switching.result()[1] == name
    assert answered == {name, version}
    assert (await shelf.store.catalogue(None)).aliases[name] == version
    assert await texts(shelf, name) == {passage.id: passage.text for passage in PASSAGES}
    with pytest.raises(FailedPrecondition):
        await shelf.versions.switch(name)


async def test_a_killed_hand_over_still_answers_and_ends_with_the_next_switch(store, new_name):
    shelf, name = Shelf(store, take_over_seconds=60.0), new_name()
    await shelf.collections.make(CollectionInfo(name, name, OLD, 0, BM25, {}, datetime.now(UTC), name))
    await shelf.put(name, PASSAGES, OLD)
    version = await build(shelf, name)
    switching = asyncio.create_task(shelf.versions.switch(name, version))
    while name in (await store.catalogue(None)).versions:
        await asyncio.sleep(0.001)
    switching.cancel()
    assert (await shelf.passages.search(name, [QueryVariant("text")], limit=9)).version == version
    assert (
        await shelf.passages.upsert(name, [Passage("new", "n", vector=EAST)], model_fingerprint=NEW.fingerprint)
    ).count == 1


async def test_a_snapshot_holds_what_was_there(shelf, collection):
    kept = await shelf.snapshots.create(collection)
    await shelf.passages.delete(collection, ["p1"])
    version = await build(shelf, collection)
    await shelf.versions.switch(collection, version)
    restored = await shelf.snapshots.restore(collection, kept.name)
    assert (restored.version, restored.model, restored.passage_count) == (f"{collection}-v3", OLD, 7)
    assert restored.state is VersionState.READY
    assert restored.source == f"restored from {kept.name}"
    assert await shelf.snapshots.page(collection) == ([kept], "")
    await shelf.versions.switch(collection, restored.version)
    found = await shelf.passages.search(
        collection, [QueryVariant("", PASSAGES[1].vector)], limit=2, model_fingerprint=OLD.fingerprint
    )
    assert found.candidates[0].passage.id in {"p1", "p4"}
    await shelf.snapshots.delete(collection, kept.name)
    assert await shelf.snapshots.page(collection) == ([], "")
    with pytest.raises(NotFound, match="it has none"):
        await shelf.snapshots.restore(collection, kept.name)
    with pytest.raises(InvalidArgument):
        await shelf.snapshots.restore(collection, "../elsewhere")


async def counted(shelf, name):
    return (await shelf.collections.get(name)).counted


async def test_the_number_of_passages_is_written_down_with_a_snapshot_and_forgotten_with_a_deletion(shelf, collection):
    assert await counted(shelf, collection) == 0
    await shelf.snapshots.create(collection)
    await shelf.put(collection, PASSAGES[:2], OLD)
    assert await counted(shelf, collection) == 7
    await shelf.passages.delete(collection, ["nothing"])
    assert await counted(shelf, collection) == 7
    await shelf.passages.delete(collection, ["p0"])
    assert await counted(shelf, collection) == 0


async def test_the_number_of_passages_is_written_down_when_a_version_is_complete(shelf, collection):
    version = await build(shelf, collection)
    assert await counted(shelf, version) == 7


async def test_snapshots_come_in_pages_newest_first(shelf, collection):
    taken = [(await shelf.snapshots.create(collection)).name for _ in range(5)]
    found, token = [], ""
    while True:
        page, token = await shelf.snapshots.page(collection, 2, token)
        found.append([snapshot.name for snapshot in page])
        if not token:
            break
    assert found == [taken[:2:-1], taken[2:0:-1], taken[:1]]
    with pytest.raises(NotFound, match=f"has no snapshot 'none'; snapshots: {', '.join(sorted(taken))}"):
        await shelf.snapshots.delete(collection, "none")


async def test_a_collection_that_is_deleted_is_restored_from_a_snapshot(shelf, collection):
    kept = await shelf.snapshots.create(collection)
    await shelf.collections.delete(collection)
    restored = await shelf.snapshots.restore(collection, kept.name)
    await shelf.versions.switch(collection, restored.version)
    assert await texts(shelf, collection) == {passage.id: passage.text for passage in PASSAGES}


async def test_a_full_disk_is_told_and_the_live_version_answers_as_before():
    async def full(method, context):
        if method in {"Create", "Upsert"}:
            await context.abort(grpc.StatusCode.INTERNAL, "No space left on device: WAL buffer size exceeds disk space")

    async with QdrantServer() as server:
        settings = RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port, qdrant_pool_size=1)
        store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
        shelf = Shelf(store)
        await shelf.collections.create("docs", OLD)
        await shelf.put("docs", PASSAGES, OLD)
        server.fault = full
        with pytest.raises(ResourceExhausted) as no_room:
            await shelf.versions.create("docs", NEW)
        server.fault = None
        version = (await shelf.versions.create("docs", NEW))[0].version
        server.fault = full
        with pytest.raises(ResourceExhausted) as no_more_room:
            await bring(shelf, "docs", version, ids=["p1"])
        assert {no_room.value.reason, no_more_room.value.reason} == {"STORAGE_FULL"}
        found = await shelf.passages.search("docs", [QueryVariant("text")], limit=9)
        assert (found.version, len(found.candidates)) == ("docs-v1", 7)
        await store.close()
