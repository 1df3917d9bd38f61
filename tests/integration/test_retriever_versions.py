"""Versions of collections on every engine: what is copied, what is switched to, what is kept."""

from __future__ import annotations

import asyncio
import uuid
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
from services.retriever import versions as versions_module
from services.retriever.backends import open_qdrant
from services.retriever.documents import Passage
from services.retriever.fields import Equals, Filter
from services.retriever.index import CollectionInfo, CollectionModel, Index, QueryVariant, VersionState
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.snapshots import FolderSnapshots, ServerSnapshots, Snapshots
from services.retriever.versions import Copy, Removal, Side, Versions
from tests.qdrant_server import QdrantServer

OLD = CollectionModel("old", "old@1", 3, "fp32")
NEW = CollectionModel("new", "new@1", 2, "fp32")
BM25 = Bm25(1.2, 0.75, 10)
PASSAGES = [
    Passage(f"p{place}", f"text {place}", metadata={"place": place}, vector=np.eye(3, dtype=np.float32)[place % 3])
    for place in range(7)
]
EAST = np.array([1, 0], dtype=np.float32)


@pytest.fixture
def index(qdrant):
    return Index(qdrant, RetrieverMetrics(CollectorRegistry()), bm25=BM25)


@pytest.fixture
def versions(qdrant, index):
    return Versions(qdrant, index)


@pytest.fixture
def snapshots(qdrant, index, versions, tmp_path):
    """Where the engine keeps them: a folder, or the server."""
    if qdrant.embedded:
        return Snapshots(FolderSnapshots(qdrant, tmp_path / "snapshots"), index, versions)
    return Snapshots(ServerSnapshots(qdrant, qdrant._settings.qdrant_url, ""), index, versions)


@pytest.fixture
async def collection(qdrant, index):
    """A collection whose versions go away with the test."""
    name = f"test-{uuid.uuid4()}"
    await index.create_collection(name, OLD)
    await index.upsert(name, PASSAGES, model_fingerprint=OLD.fingerprint)
    yield name
    for known in (await qdrant.call(lambda client: client.get_collections())).collections:
        if known.name.startswith(name):
            await qdrant.call(lambda client, known=known: client.delete_collection(known.name))


async def bring(versions, collection, version, **page):
    """One round: what differs is copied. Tells what it was."""
    compared = await versions.compare(collection, version, limit=3, **page)
    await versions.copy(
        version,
        [
            Copy(replace(found.passage, vector=EAST), found.revision, found.building_revision)
            for found in compared.differences
            if found.passage
        ],
        [Removal(found.id, found.building_revision) for found in compared.differences if not found.passage],
        model_fingerprint=NEW.fingerprint,
    )
    return compared


async def build(versions, collection):
    version = (await versions.create(collection, NEW))[0].version
    for side in Side:
        cursor = ""
        while True:
            compared = await bring(versions, collection, version, side=side, cursor=cursor)
            cursor = compared.next_cursor
            if not cursor:
                break
    await versions.complete(version)
    return version


async def texts(versions, name):
    return {passage.id: passage.text for passage in (await versions.sample(name, 1000)).passages}


async def test_many_who_create_a_collection_at_once_make_one(qdrant):
    name = f"test-{uuid.uuid4()}"
    indexes = [Index(qdrant, RetrieverMetrics(CollectorRegistry()), bm25=BM25) for _ in range(5)]
    made = await asyncio.gather(*(one.create_collection(name, OLD) for one in indexes), return_exceptions=True)
    assert all(isinstance(outcome, CollectionInfo | AlreadyExists) for outcome in made)
    info = await indexes[0].get_collection(name)
    assert (info.version, info.collection, info.state) == (f"{name}-v1", name, VersionState.READY)
    await qdrant.call(lambda client: client.delete_collection(info.version))


async def test_a_rebuilt_version_has_every_passage_and_every_field(index, versions, collection):
    version = await build(versions, collection)
    live, before = await versions.switch(collection, version)
    assert (live.version, before) == (f"{collection}-v2", f"{collection}-v1")
    assert await texts(versions, collection) == {passage.id: passage.text for passage in PASSAGES}
    found = await index.search(collection, [QueryVariant("text")], limit=9, condition=Filter(must=[Equals("place", 3)]))
    assert [candidate.passage.id for candidate in found.candidates] == ["p3"]
    assert (await index.get_collection(collection)).model == NEW


async def test_a_copy_never_replaces_what_was_written_after_it_was_compared(index, versions, collection):
    version = (await versions.create(collection, NEW))[0].version
    seen = (await versions.compare(collection, version, ids=["p1"])).differences
    await index.upsert(collection, [replace(PASSAGES[1], text="newer")], model_fingerprint=OLD.fingerprint)
    await bring(versions, collection, version, ids=["p1"])
    for older in (seen[0], replace(seen[0], building_revision="of nobody")):
        copy = Copy(replace(older.passage, vector=EAST), older.revision, older.building_revision)
        await versions.copy(version, [copy], [Removal("p1", "of nobody")], model_fingerprint=NEW.fingerprint)
    assert await texts(versions, version) == {"p1": "newer"}


async def test_what_is_deleted_in_the_live_version_goes_from_the_one_being_built(index, versions, collection):
    version = (await versions.create(collection, NEW))[0].version
    await bring(versions, collection, version, ids=[passage.id for passage in PASSAGES])
    deleted = await index.delete(collection, ["p2", "p3"])
    assert (deleted.count, deleted.building) == (2, version)
    for _ in range(2):
        await bring(versions, collection, version, side=Side.BUILDING)
    await bring(versions, collection, version, ids=["p2", "p3"])
    assert await texts(versions, version) == await texts(versions, collection)


async def test_a_version_is_left_out_once_it_is_not_built_any_more(index, versions, collection):
    version = (await versions.create(collection, NEW))[0].version
    assert (await index.upsert(collection, PASSAGES, model_fingerprint=OLD.fingerprint)).building == version
    await versions.abandon(version)
    assert (await index.upsert(collection, PASSAGES, model_fingerprint=OLD.fingerprint)).building == ""
    for call in (versions.compare(collection, version, ids=["p1"]), versions.complete(version)):
        with pytest.raises(FailedPrecondition) as over:
            await call
        assert over.value.reason == "NOT_BUILDING"
    assert (await versions.create(collection, NEW))[0].version == version


async def test_nothing_is_switched_to_an_unfinished_foreign_or_missing_version(index, versions, collection):
    other = f"{collection}-other"
    await index.create_collection(other, OLD)
    version = (await versions.create(collection, NEW))[0].version
    for wanted, kind in (
        (version, FailedPrecondition),
        ("", FailedPrecondition),
        (f"{other}-v1", InvalidArgument),
        (f"{collection}-v9", NotFound),
    ):
        with pytest.raises(kind):
            await versions.switch(collection, wanted)
    with pytest.raises(InvalidArgument):
        await versions.switch(f"{collection}-v1", version)
    assert (await index.get_collection(collection)).version == f"{collection}-v1"


async def test_a_wrong_dimension_or_model_leaves_the_version_as_it_was(versions, collection):
    version = (await versions.create(collection, NEW))[0].version
    [found] = (await versions.compare(collection, version, ids=["p1"])).differences
    for vector, fingerprint in ((EAST, OLD.fingerprint), (np.ones(3, dtype=np.float32), NEW.fingerprint)):
        with pytest.raises(SluiceError):
            await versions.copy(
                version, [Copy(replace(found.passage, vector=vector), found.revision, "")], [],
                model_fingerprint=fingerprint,
            )  # fmt: skip
    assert await texts(versions, version) == {}


async def test_a_rollback_goes_to_and_fro(index, versions, collection):
    version = await build(versions, collection)
    await versions.switch(collection, version)
    assert (await versions.switch(collection))[0].version == f"{collection}-v1"
    assert (await versions.switch(collection))[0].version == version
    with pytest.raises(FailedPrecondition):
        await versions.delete(version)
    await versions.delete(f"{collection}-v1")
    with pytest.raises(NotFound):
        await versions.switch(collection)
    assert (await index.get_collection(collection)).version == version


async def test_a_collection_of_an_earlier_release_goes_on_and_hands_its_name_over(
    qdrant, index, versions, collection, monkeypatch
):
    monkeypatch.setattr(versions_module, "TAKE_OVER_SECONDS", 0.3)
    name = f"{collection}-plain"
    plain = CollectionInfo(name, name, OLD, 0, BM25, {}, datetime.now(UTC), name)
    await index.make(plain)
    await index.upsert(name, PASSAGES, model_fingerprint=OLD.fingerprint)
    found = await index.search(name, [QueryVariant("text")], limit=9)
    assert (found.version, len(found.candidates)) == (name, 7)

    version = await build(versions, name)
    switching = asyncio.create_task(versions.switch(name, version))
    answered = set()
    while not switching.done():
        found = await index.search(name, [QueryVariant("text")], limit=9)
        assert len(found.candidates) == 7
        answered.add(found.version)
        await asyncio.sleep(0.01)
    assert switching.result()[1] == name
    assert answered == {name, version}
    aliases = (await qdrant.call(lambda client: client.get_aliases())).aliases
    assert [alias.collection_name for alias in aliases if alias.alias_name == name] == [version]
    assert await texts(versions, name) == {passage.id: passage.text for passage in PASSAGES}
    with pytest.raises(FailedPrecondition):
        await versions.switch(name)


async def test_a_killed_hand_over_still_answers_and_ends_with_the_next_switch(
    qdrant, index, versions, collection, monkeypatch
):
    monkeypatch.setattr(versions_module, "TAKE_OVER_SECONDS", 60.0)
    name = f"{collection}-plain"
    await index.make(CollectionInfo(name, name, OLD, 0, BM25, {}, datetime.now(UTC), name))
    await index.upsert(name, PASSAGES, model_fingerprint=OLD.fingerprint)
    version = await build(versions, name)
    switching = asyncio.create_task(versions.switch(name, version))
    await asyncio.sleep(0.3)
    switching.cancel()
    assert (await index.search(name, [QueryVariant("text")], limit=9)).version == version
    assert (await index.upsert(name, [Passage("new", "n", vector=EAST)], model_fingerprint=NEW.fingerprint)).count == 1


async def test_a_snapshot_holds_what_was_there(snapshots, index, versions, collection):
    kept = await snapshots.create(collection)
    await index.delete(collection, ["p1"])
    version = await build(versions, collection)
    await versions.switch(collection, version)
    restored = await snapshots.restore(collection, kept.name)
    assert (restored.version, restored.model, restored.passage_count) == (f"{collection}-v3", OLD, 7)
    assert restored.state is VersionState.READY
    assert restored.source == f"restored from {kept.name}"
    assert [snapshot.name for snapshot in await snapshots.of(collection)] == [kept.name]
    await versions.switch(collection, restored.version)
    found = await index.search(
        collection, [QueryVariant("", PASSAGES[1].vector)], limit=2, model_fingerprint=OLD.fingerprint
    )
    assert found.candidates[0].passage.id in {"p1", "p4"}
    await snapshots.delete(collection, kept.name)
    assert await snapshots.of(collection) == []
    with pytest.raises(NotFound):
        await snapshots.restore(collection, kept.name)
    with pytest.raises(InvalidArgument):
        await snapshots.restore(collection, "../elsewhere")


async def test_a_collection_that_is_lost_is_restored_from_a_snapshot(qdrant, snapshots, versions, collection):
    if not qdrant.embedded:
        pytest.skip("a server's snapshots are lost with their collection")
    kept = await snapshots.create(collection)
    await qdrant.call(lambda client: client.delete_collection(f"{collection}-v1"))
    restored = await snapshots.restore(collection, kept.name)
    await versions.switch(collection, restored.version)
    assert await texts(versions, collection) == {passage.id: passage.text for passage in PASSAGES}


async def test_a_full_disk_is_told_and_the_live_version_answers_as_before():
    async def full(method, context):
        if method in {"Create", "Upsert"}:
            await context.abort(grpc.StatusCode.INTERNAL, "No space left on device: WAL buffer size exceeds disk space")

    async with QdrantServer() as server:
        metrics = RetrieverMetrics(CollectorRegistry())
        settings = RetrieverSettings(qdrant_url=server.rest_url, qdrant_grpc_port=server.port, qdrant_pool_size=1)
        qdrant = await open_qdrant(settings, metrics)
        index = Index(qdrant, metrics, bm25=BM25)
        versions = Versions(qdrant, index)
        await index.create_collection("docs", OLD)
        await index.upsert("docs", PASSAGES, model_fingerprint=OLD.fingerprint)
        server.fault = full
        with pytest.raises(ResourceExhausted) as no_room:
            await versions.create("docs", NEW)
        server.fault = None
        version = (await versions.create("docs", NEW))[0].version
        server.fault = full
        with pytest.raises(ResourceExhausted) as no_more_room:
            await bring(versions, "docs", version, ids=["p1"])
        assert {no_room.value.reason, no_more_room.value.reason} == {"STORAGE_FULL"}
        found = await index.search("docs", [QueryVariant("text")], limit=9)
        assert (found.version, len(found.candidates)) == ("docs-v1", 7)
        await qdrant.close()
