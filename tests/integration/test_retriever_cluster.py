"""Retrievers on the nodes of one Qdrant cluster, of which each learns late what was changed through another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import AlreadyExists, FailedPrecondition
from services.retriever.collections.building import Side
from services.retriever.collections.descriptions import CollectionInfo, CollectionModel
from services.retriever.documents import Passage
from services.retriever.engines.server import ServerStore
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from tests.integration.shelf import Shelf
from tests.qdrant_server import QdrantServer

OLD = CollectionModel("old", "old@1", 3, "fp32")
NEW = CollectionModel("new", "new@1", 3, "fp32")
EAST = np.eye(3, dtype=np.float32)[0]


@pytest.fixture
async def cluster() -> AsyncIterator[QdrantServer]:
    async with QdrantServer(nodes=3, lag=(0.02, 0.1)) as server:
        yield server


@pytest.fixture
async def shelves(cluster: QdrantServer) -> AsyncIterator[list[Shelf]]:
    """A retriever on each node."""
    stores = [
        ServerStore(
            RetrieverSettings(qdrant_url=f"http://127.0.0.1:{port}", qdrant_grpc_port=port, qdrant_pool_size=4),
            RetrieverMetrics(CollectorRegistry()),
        )
        for port in cluster.ports
    ]
    yield [Shelf(store) for store in stores]
    for store in stores:
        await store.close()


def passages(text: str, count: int) -> list[Passage]:
    return [Passage(f"p{number}", text, vector=EAST) for number in range(count)]


async def follow(shelf: Shelf, version: str, **which: object) -> str:
    """Copy what differs, as the gateway does; return the place to go on from."""
    compared = await shelf.building.compare("docs", version, **which)
    found = [replace(one, passage=one.passage and replace(one.passage, vector=EAST)) for one in compared.differences]
    await shelf.building.copy(version, found, model_fingerprint=NEW.fingerprint)
    return compared.next_cursor


async def write(shelf: Shelf, version: str, wanted: Passage) -> None:
    """Store a passage in the live version, and let the one that is being built follow, as the gateway does."""
    for _ in range(20):
        live = await shelf.collections.get("docs")
        try:
            written = await shelf.passages.upsert("docs", [wanted], model_fingerprint=live.model.fingerprint)
        except FailedPrecondition as error:  # of the model: switched in this moment
            assert error.reason == "MODEL_MISMATCH"
            continue
        if not written.building:
            return
        try:
            for _ in range(3):
                await follow(shelf, version, ids=[wanted.id])
        except FailedPrecondition as error:
            assert error.reason == "NOT_BUILDING"
        else:
            return
    raise AssertionError("the versions keep changing")


async def build(shelf: Shelf, model: CollectionModel = NEW) -> str:
    version = (await shelf.versions.create("docs", model))[0].version
    for side in Side:
        cursor = await follow(shelf, version, side=side)
        assert not cursor
    await shelf.versions.complete(version)
    return version


async def test_of_those_who_create_a_collection_at_once_through_all_nodes_each_sees_the_same_one(shelves):
    made = await asyncio.gather(*(one.collections.create("docs", OLD) for one in shelves), return_exceptions=True)
    assert all(isinstance(outcome, CollectionInfo | AlreadyExists) for outcome in made)
    assert any(isinstance(outcome, CollectionInfo) for outcome in made)
    assert [(await one.collections.get("docs")).version for one in shelves] == ["docs-v1"] * 3


async def test_each_step_of_a_reindexing_goes_through_another_node(shelves):
    first, second, third = shelves
    await first.collections.create("docs", OLD)
    await second.put("docs", passages("text", 7), OLD)
    version = (await third.versions.create("docs", NEW))[0].version
    assert not await follow(first, version)
    await second.versions.complete(version)
    assert (await third.versions.switch("docs", version))[0].version == version
    assert [(await one.collections.get("docs")).version for one in shelves] == [version] * 3
    assert (await first.versions.switch("docs"))[0].version == "docs-v1"
    await second.versions.delete(version)
    assert (await third.collections.versions("docs"))[0][0][0].version == "docs-v1"


async def test_a_collection_that_is_deleted_is_made_again_through_another_node(shelves):
    first, second, _ = shelves
    await first.collections.create("docs", OLD)
    await first.collections.delete("docs")
    assert (await second.collections.create("docs", NEW)).model == NEW


async def test_no_write_is_lost_while_versions_are_switched(shelves):
    first, *others = shelves
    await first.collections.create("docs", OLD)
    await first.put("docs", passages("text", 5), OLD)
    version = await build(first)
    over = asyncio.Event()
    last: dict[str, str] = {}

    async def keep_writing(shelf: Shelf, document: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            await write(shelf, version, Passage(document, f"{number}", vector=EAST))
            last[document] = f"{number}"

    writers = [
        asyncio.create_task(keep_writing(shelf, f"{place} {number}"))
        for place, shelf in enumerate(others)
        for number in range(2)
    ]
    await asyncio.sleep(0.2)
    await first.versions.switch("docs", version)
    await asyncio.sleep(0.2)
    over.set()
    await asyncio.gather(*writers)
    found = {one.id: one.text for one in (await first.passages.sample("docs", 100)).passages}
    assert (await first.collections.get("docs")).version == version
    assert {document: found.get(document) for document in last} == last


async def begun_switch(cluster: QdrantServer, shelf: Shelf, version: str = "") -> asyncio.Task[object]:
    """Let a retriever on the first node switch; return when the name stands for the other version there alone."""
    before = (await shelf.collections.get("docs")).version
    cluster.cluster.lag = (0.3, 0.3)
    switching = asyncio.create_task(shelf.versions.switch("docs", version))
    first, *others = cluster.cluster.nodes
    while cluster.cluster.view(first).aliases["docs"] == before:
        await asyncio.sleep(0.01)
    cluster.cluster.lag = (0.02, 0.1)
    assert {cluster.cluster.view(node).aliases["docs"] for node in others} == {before}
    return switching


async def test_a_write_through_a_node_that_has_not_heard_of_a_rollback_goes_to_the_live_version(cluster, shelves):
    first, second, _ = shelves
    await first.collections.create("docs", OLD)
    version = await build(first)
    await first.versions.switch("docs", version)
    await first.versions.switch("docs")
    await second.collections.get("docs")
    switching = await begun_switch(cluster, first)
    await write(second, version, Passage("late", "late", vector=EAST))
    await switching
    assert [one.id for one in (await first.passages.sample("docs", 9)).passages] == ["late"]


async def test_nothing_is_copied_through_a_node_that_has_not_heard_of_the_switch(cluster, shelves):
    first, second, _ = shelves
    await first.collections.create("docs", OLD)
    await first.put("docs", passages("older", 1), OLD)
    version = await build(first)
    switching = await begun_switch(cluster, first, version)
    await first.put("docs", passages("newer", 1), NEW)
    with pytest.raises(FailedPrecondition) as over:
        await follow(second, version, ids=["p0"])
    assert over.value.reason == "NOT_BUILDING"
    await switching
    assert [one.text for one in (await second.passages.sample("docs", 9)).passages] == ["newer"]


async def test_a_switch_that_was_cut_short_holds_writers_up_for_a_while_only(shelves, monkeypatch):
    monkeypatch.setattr("services.retriever.collections.versions.SWITCHING_SECONDS", 1.0)
    first, second, _ = shelves
    await first.collections.create("docs", OLD)
    version = await build(first)

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(first.store, "point", killed)
    with pytest.raises(asyncio.CancelledError):
        await first.versions.switch("docs", version)
    await write(second, version, Passage("late", "late", vector=EAST))
    assert [one.id for one in (await second.passages.sample("docs-v1", 9)).passages] == ["late"]
