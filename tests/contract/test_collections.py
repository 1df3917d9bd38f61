"""Collections and documents through the gateway: two models, and readers and writers at the same time."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.server import serving
from sluice.gateway.v1 import collections_pb2
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from sluice_client import (
    AsyncClient,
    Chunking,
    Document,
    Features,
    Filter,
    ListedVersion,
    Outcome,
    ReindexPhase,
    SluiceError,
    Stage,
    VersionCheckKind,
    VersionState,
    field,
)
from tests.contract.conftest import Platform, start
from tests.registry import STAGES
from tests.stubs import GatewayStubs

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box and judge my vow".split()  # noqa: SIM905
UNLIMITED = {"concurrency_lowest": 100, "concurrency_initial": 100}
DENSE = Features(dense=True, lexical=False)


@dataclass
class World:
    """A platform whose gateway knows two embedders, and a client of it."""

    platform: Platform
    client: AsyncClient
    second_embedder: AsyncExitStack
    """Closing it ends the second embedder."""

    async def reindex(self, model: str) -> list[ReindexPhase]:
        steps = [step async for step in self.client.reindex(model)]
        assert [check for step in steps for check in step.checks if not check.passed] == []
        return [step.phase for step in steps]

    async def live(self) -> str:
        live = (await self.client.config()).collection
        assert live is not None
        return live.version

    async def versions(self) -> list[ListedVersion]:
        return [version async for version in self.client.list_collections()]

    async def stored(self, collection: str) -> dict[str, str]:
        """All passages of a version, by id, straight from the retriever."""
        stub = retriever_pb2_grpc.RetrieverServiceStub(self.platform["retriever"].channel)
        request = retriever_pb2.SamplePassagesRequest(collection=collection, limit=1000)
        reply = await self.platform["retriever"].call(stub.SamplePassages, request, deadline=time.monotonic() + 10)
        return {entry.passage.id: entry.passage.text for entry in reply.passages}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(AsyncExitStack())
        embedder = next(stage for stage in STAGES if stage.name == "embedder")
        loaded = embedder.load_settings(pseudo_dimension=32)
        server = await second.enter_async_context(
            serving(await second.enter_async_context(embedder.compose(loaded)), loaded)
        )
        platform = await start(
            stack,
            {"embedder", "expander", "retriever", "gateway"},
            embedder={"pseudo_dimension": 64},
            retriever={
                "qdrant_path": tmp_path / "qdrant",
                "qdrant_snapshot_path": str(tmp_path / "snapshots"),
                **UNLIMITED,
            },
            gateway={"embedder_additional_addresses": f"127.0.0.1:{server.port}", **UNLIMITED},
        )
        client = await stack.enter_async_context(AsyncClient(platform["gateway"].address))
        yield World(platform, client, second)


def documents(count: int, salt: str = "") -> list[Document]:
    chance = random.Random(f"{count}{salt}")
    return [Document(f"d{place}", "", f"{salt} {' '.join(chance.choices(WORDS, k=9))}") for place in range(count)]


async def test_the_first_documents_make_the_first_version_and_its_alias(world: World) -> None:
    await asyncio.gather(*(world.client.index([document]) for document in documents(8)))
    [listed] = await world.versions()
    version = listed.version
    assert (version.collection, version.version, version.live) == ("documents", "documents-v1", True)
    assert (version.model.name, version.model.dimension, version.passage_count) == ("pseudo-64", 64, 8)
    assert (version.state, version.source, listed.model_served) == (VersionState.READY, "written", True)


async def test_a_reindexed_collection_is_searched_with_the_new_model_and_can_go_back(world: World) -> None:
    await world.client.index(documents(300))
    phases = await world.reindex("pseudo-32")
    assert [phase for place, phase in enumerate(phases) if phase not in phases[:place]] == list(ReindexPhase)[:4]

    answer = await world.client.search("lazy dog", features=DENSE)
    embedding = next(stage for stage in answer.stages if stage.stage is Stage.EMBED)
    assert (answer.index_version, embedding.model, len(answer.results)) == ("documents-v2", "pseudo-32", 10)
    assert await world.stored("documents-v2") == await world.stored("documents-v1")

    assert await world.reindex("pseudo-32") == [
        ReindexPhase.SWITCHED
    ]  # as after a run that was killed in its last moment
    switched = await world.client.rollback()
    assert (switched.live.version, switched.previous_version) == ("documents-v1", "documents-v2")
    answer = await world.client.search("lazy dog", features=DENSE)
    assert (answer.index_version, len(answer.results)) == ("documents-v1", 10)
    assert (await world.client.verify("documents-v2")).passed


async def test_what_is_written_and_deleted_during_a_rebuild_reaches_both_versions(world: World) -> None:
    """Writers with ids of their own, so that what is left in the end is known; some ids are written by two."""
    await world.client.index(documents(250))
    expected = {document.id: document.text for document in documents(250)}
    shared = [f"s{place}" for place in range(5)]
    over = asyncio.Event()
    answered: Counter[str] = Counter()
    written: Counter[int] = Counter()

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        own = [f"d{place}" for place in range(300) if place % 4 == writer]
        while not over.is_set():
            await asyncio.sleep(0.02)
            ids = chance.sample(own, chance.randint(1, 8))
            if chance.random() < 0.3:
                await world.client.delete(ids)
                for identity in ids:
                    expected.pop(identity, None)
            else:
                batch = [Document(identity, "", f"{writer} {' '.join(chance.choices(WORDS, k=9))}") for identity in ids]
                both = Document(chance.choice(shared), "", f"{writer} {chance.random()}")
                await world.client.index([*batch, both])
                expected.update({document.id: document.text for document in batch})
            written[writer] += 1

    async def ask() -> None:
        while not over.is_set():
            answer = await world.client.search(" ".join(random.sample(WORDS, 3)), features=DENSE)
            assert answer.results
            answered[answer.index_version] += 1

    async with asyncio.TaskGroup() as group:
        for writer in range(4):
            group.create_task(write(writer))
        group.create_task(ask())
        for steps in (2, 4):  # left in the middle, and begun again
            run = world.client.reindex("pseudo-32")
            for _ in range(steps):
                await anext(run)
            await run.aclose()
        phases = await world.reindex("pseudo-32")
        before = await world.live()
        # Each writer writes at least twice more, and the new version answers.
        enough = {writer: written[writer] + 2 for writer in range(4)}
        while not answered["documents-v2"] or any(written[writer] < count for writer, count in enough.items()):
            await asyncio.sleep(0.01)
        over.set()
    assert (phases[-1], before) == (ReindexPhase.SWITCHED, "documents-v2")
    assert set(answered) == {"documents-v1", "documents-v2"}

    found = await world.stored("documents")
    assert {identity: text for identity, text in found.items() if identity not in shared} == expected
    assert (await world.client.verify()).passed


async def test_versions_agree_to_the_last_passage_at_the_moment_of_the_switch(world: World) -> None:
    """Two writers fight for the same few ids until just before the switch."""
    await world.client.index(documents(40))
    over = asyncio.Event()

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        while not over.is_set():
            ids = [f"d{place}" for place in chance.sample(range(6), 3)]
            if chance.random() < 0.5:
                await world.client.delete(ids)
            else:
                await world.client.index([Document(identity, "", f"{writer} {chance.random()}") for identity in ids])

    async with asyncio.TaskGroup() as group:
        for writer in range(4):
            group.create_task(write(writer))
        async for step in world.client.reindex("pseudo-32"):
            if step.phase is ReindexPhase.SWEEP:
                break
        over.set()
    assert await world.stored("documents-v2") == await world.stored("documents-v1")


async def test_writing_goes_on_when_nothing_embeds_for_the_version_being_built(world: World) -> None:
    await world.client.index(documents(200))
    run = world.client.reindex("pseudo-32")
    await anext(run)
    await anext(run)
    await world.second_embedder.aclose()

    await world.client.index([Document("new", "", "written beside a rebuild")])
    with pytest.raises(SluiceError) as ended:
        await anext(run)
    assert ended.value.reason == "NOT_BUILDING"
    with pytest.raises(SluiceError, match="serves 'pseudo-32'") as missing:
        await world.reindex("pseudo-32")
    assert missing.value.reason == "MODEL_NOT_SERVED"
    live, unfinished = await world.versions()
    assert (live.version.live, live.version.passage_count, live.version.building_version) == (True, 201, "")
    assert (unfinished.version.state, unfinished.model_served) == (VersionState.BUILDING, False)


async def test_a_collection_whose_model_no_embedder_serves_is_searched_by_words_alone(world: World) -> None:
    await world.client.index(documents(30))
    await world.reindex("pseudo-32")
    await world.second_embedder.aclose()
    answer = await world.client.search("lazy dog")
    outcomes = {stage.stage: stage.outcome for stage in answer.stages}
    assert (outcomes[Stage.EMBED], outcomes[Stage.RETRIEVE]) == (Outcome.FAILED, Outcome.DEGRADED)
    assert answer.results


async def test_a_call_that_cannot_be_done_says_why_and_leaves_the_live_version_alone(world: World) -> None:
    await world.client.index(documents(300))
    with pytest.raises(SluiceError) as nothing:
        await world.client.rollback()
    assert nothing.value.reason == "NO_PREVIOUS_VERSION"
    with pytest.raises(SluiceError) as unknown:
        await world.reindex("no-such-model")
    assert unknown.value.reason == "MODEL_NOT_SERVED"

    run = world.client.reindex("pseudo-32")
    await anext(run)
    await anext(run)
    with pytest.raises(SluiceError) as unfinished:
        await world.client.rollback("documents-v2")
    assert unfinished.value.reason == "VERSION_NOT_READY"
    with pytest.raises(SluiceError) as other:
        await world.reindex("pseudo-64")
    assert other.value.reason == "BUILD_UNDER_WAY"
    with pytest.raises(SluiceError) as live:
        await world.client.delete_version("documents-v1")
    assert live.value.reason == "VERSION_LIVE"
    for code, call in (
        (grpc.StatusCode.NOT_FOUND, world.client.delete_version("documents-v9")),
        (grpc.StatusCode.NOT_FOUND, world.client.restore_snapshot("none")),
        (grpc.StatusCode.NOT_FOUND, world.client.create_snapshot("nowhere")),
    ):
        with pytest.raises(SluiceError) as missing:
            await call
        assert missing.value.code is code

    await world.client.delete_version("documents-v2")
    with pytest.raises(SluiceError) as gone:
        await anext(run)
    assert gone.value.reason == "NOT_BUILDING"
    [listed] = await world.versions()
    version = listed.version
    assert (version.version, version.building_version, version.passage_count) == ("documents-v1", "", 300)


async def test_a_snapshot_is_restored_into_a_new_version(world: World) -> None:
    await world.client.index(documents(300))
    snapshot = await world.client.create_snapshot()
    assert [found async for found in world.client.list_snapshots()] == [snapshot]
    await world.client.delete([f"d{place}" for place in range(100)])
    switched = await world.client.restore_snapshot(snapshot.name)
    assert (switched.live.version, switched.previous_version) == ("documents-v2", "documents-v1")
    assert len(await world.stored("documents")) == 300
    assert (await world.client.search("lazy dog", features=DENSE)).index_version == "documents-v2"
    await world.client.rollback()
    assert len(await world.stored("documents")) == 200
    await world.client.delete_snapshot(snapshot.name)
    assert [found async for found in world.client.list_snapshots()] == []


async def test_a_version_that_is_not_what_it_should_be_is_not_switched_to(world: World) -> None:
    await world.client.index(documents(40))
    run = world.client.reindex("pseudo-32")
    async for step in run:
        if step.phase is ReindexPhase.SWEEP:
            break
    # Behind the gateway's back, so that nothing follows: some passages go from the version being built.
    stub = retriever_pb2_grpc.RetrieverServiceStub(world.platform["retriever"].channel)
    removal = retriever_pb2.DeletePassagesRequest(collection="documents-v2", ids=[f"d{place}" for place in range(9)])
    await world.platform["retriever"].call(stub.DeletePassages, removal, deadline=time.monotonic() + 5)
    steps = [step async for step in run]
    assert [check.kind for check in steps[-1].checks if not check.passed][:1] == [VersionCheckKind.COUNT]
    assert steps[-1].phase is ReindexPhase.VERIFY
    assert await world.live() == "documents-v1"
    assert (await world.reindex("pseudo-32"))[-1] is ReindexPhase.SWITCHED
    assert len(await world.stored("documents")) == 40


# Documents and collections


async def every(world: World, **asked: Any) -> list[Document]:
    return [stored.document async for stored in world.client.list_documents(**asked)]


async def test_documents_are_read_back_with_their_text_as_it_was_given(world: World) -> None:
    long = Document("long", "A title", " ".join(WORDS * 20), {"kind": "saga", "year": 1900})
    short = Document("short", "", "a few words", {"kind": "note"})
    await world.client.index([long, short], chunking=Chunking(chunk_tokens=32, overlap_tokens=8))
    found = await world.client.get_documents(["short", "no such", "long"])
    assert ([stored.document for stored in found.documents], list(found.missing_ids)) == ([short, long], ["no such"])
    assert [len(stored.chunks) > 1 for stored in found.documents] == [False, True]
    chunks = found.documents[1].chunks
    assert all(later.start < earlier.end for earlier, later in itertools.pairwise(chunks)), "chunks do not overlap"


async def test_documents_are_listed_page_by_page_each_once(world: World) -> None:
    stored = [Document(f"d{place}", "", f"text {place}", {"even": place % 2 == 0}) for place in range(25)]
    await world.client.index(stored)
    listed = await every(world, page_size=10)
    assert sorted(listed, key=lambda document: document.id) == sorted(stored, key=lambda document: document.id)
    assert {document.id for document in await every(world, filter=Filter(must=[field("even") == True]))} == {  # noqa: E712
        document.id for document in stored if document.metadata["even"]
    }


async def test_a_collection_is_created_for_a_language_that_there_is(world: World) -> None:
    german = await world.client.create_collection("artikel", language="german")
    assert german.lexical_settings.startswith("words-2 german, ")
    with pytest.raises(SluiceError) as unspoken:
        await world.client.create_collection("others", language="klingon")
    assert unspoken.value.field == "language"


async def test_a_search_for_what_has_no_words_says_so(world: World) -> None:
    await world.client.index(documents(3))
    answer = await world.client.search("?!", features=Features(dense=False, lexical=True))
    (report,) = [report for report in answer.stages if report.stage is Stage.RETRIEVE]
    assert (answer.results, report.outcome, report.reason) == ((), Outcome.SKIPPED, "NO_WORDS")
    assert "words" in report.detail


async def test_a_collection_is_created_for_a_model_and_deleted_with_all_of_its_versions(world: World) -> None:
    created = await world.client.create_collection("papers", model="pseudo-32")
    assert (created.version, created.live, created.model.name, created.passage_count) == (
        "papers-v1",
        True,
        "pseudo-32",
        0,
    )
    assert (await world.client.create_collection("notes")).model.name == "pseudo-64"
    assert (await world.client.index(documents(3), collection="papers")).model == "pseudo-32"
    [step async for step in world.client.reindex("pseudo-64", collection="papers")]
    with pytest.raises(SluiceError) as taken:
        await world.client.create_collection("papers")
    assert taken.value.code is grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(SluiceError) as unserved:
        await world.client.create_collection("others", model="no-such-model")
    assert unserved.value.reason == "MODEL_NOT_SERVED"

    assert sorted(await world.client.delete_collection("papers")) == ["papers-v1", "papers-v2"]
    assert [listed.version.collection for listed in await world.versions()] == ["notes"]
    with pytest.raises(SluiceError, match="notes") as gone:
        await world.client.search("lazy dog", collection="papers")
    assert gone.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(SluiceError) as again:
        await world.client.delete_collection("papers")
    assert again.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(SluiceError, match="collection: is empty"):
        await world.client.delete_collection("")


async def test_versions_are_listed_page_by_page(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.client.create_collection(name)
    stub = GatewayStubs(world.platform["gateway"].channel).collections
    names, token = [], ""
    while True:
        request = collections_pb2.ListCollectionsRequest(page_size=2, page_token=token)
        page = await stub.ListCollections(request, timeout=20)
        assert len(page.versions) <= 2
        names += [listed.version.collection for listed in page.versions]
        if not (token := page.next_page_token):
            break
    assert names == ["a", "b", "c"]


async def test_a_page_after_a_switch_of_the_index_is_refused_with_the_reason(world: World) -> None:
    await world.client.index(documents(30))
    snapshot = await world.client.create_snapshot()
    first = await world.client.search("lazy dog", limit=10)
    assert first.next_page_token
    await world.client.search("lazy dog", limit=10, page_token=first.next_page_token)
    await world.client.restore_snapshot(snapshot.name)
    with pytest.raises(SluiceError, match="begin again without page_token") as refused:
        await world.client.search("lazy dog", limit=10, page_token=first.next_page_token)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INDEX_SWITCHED")


async def test_nothing_is_written_under_the_name_of_a_version(world: World) -> None:
    await world.client.index(documents(3))
    document = Document("d", text="text")
    for name in ("documents-v1", "manual-v1"):
        for call in (world.client.index([document], collection=name), world.client.delete(["d"], collection=name)):
            with pytest.raises(SluiceError, match="is the name of version 1 of") as refused:
                await call
            assert (refused.value.field, refused.value.reason) == ("collection", "VERSION_NAME")
    await world.client.index([document], collection="manual")
    assert (await world.client.search("text", collection="manual")).results


async def test_deleting_a_chunk_names_the_document_to_delete(world: World) -> None:
    with pytest.raises(SluiceError, match="is that of a chunk of document 'guide'") as refused:
        await world.client.delete(["guide##11"])
    assert (refused.value.field, refused.value.reason) == ("ids[0]", "CHUNK_ID")
