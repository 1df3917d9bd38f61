"""Token vectors of collections: made at indexing, added and left out by reindexing, copied, checked, and named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sluice.type.v1 import features_pb2
from sluice_cli.main import app
from sluice_client import (
    Answer,
    AsyncClient,
    AsyncTransferClient,
    Document,
    Features,
    Outcome,
    ReindexPhase,
    SluiceError,
    Stage,
    VersionCheckKind,
)
from tests.contract.conftest import start
from tests.contract.test_collection_commands import quiet_stages  # noqa: F401  # a fixture
from tests.contract.test_collections import UNLIMITED, World, documents, world  # noqa: F401  # a fixture

LATE = Features(rerank=True, rerank_method=features_pb2.RERANK_METHOD_LATE)


async def token_model(client: AsyncClient, collection: str = "documents") -> str:
    live = (await client.config(collection)).collection
    assert live is not None
    return live.token_model.name if live.token_model else ""


async def compared(client: AsyncClient, query: str) -> tuple[Answer, bool]:
    """Search; True if each result was compared by token vectors."""
    found = await client.search(query, features=LATE, limit=20)
    [report] = [report for report in found.stages if report.stage is Stage.RERANK]
    by_tokens = report.outcome is Outcome.RAN
    assert all((result.scores.late is not None) is by_tokens for result in found.results)
    return found, by_tokens


async def reindexed(client: AsyncClient, **asked: Any) -> Sequence[ReindexPhase]:
    steps = [step async for step in client.reindex(**asked)]
    assert [check for step in steps for check in step.checks if not check.passed] == []
    return [step.phase for step in steps]


async def test_a_new_collection_has_token_vectors_and_is_searched_with_them(world: World) -> None:  # noqa: F811
    await world.client.index([*documents(30), Document("needle", "", "zeppelins over the harbour")])
    [listed] = await world.versions()
    assert listed.token_model_served
    assert listed.version.token_model is not None
    found, by_tokens = await compared(world.client, "zeppelins over the harbour")
    assert by_tokens
    assert found.results[0].passage.id == "needle"
    assert found.results[0].scores.late == pytest.approx(1, abs=0.02)


async def test_a_collection_without_token_vectors_gets_them_while_it_is_written(world: World) -> None:  # noqa: F811
    client = world.client
    created = await client.create_collection("documents", token_vectors=False)
    assert created.token_model is None
    await client.index(documents(200))
    assert not (await compared(client, "lazy dog"))[1]

    async def write() -> None:
        for place in range(20):
            await client.index([Document(f"d{place}", "", f"written meanwhile {place}")])
            await client.delete([f"d{100 + place}"])

    writing = asyncio.create_task(write())
    assert (await reindexed(client, token_vectors=True))[-1] is ReindexPhase.SWITCHED
    await writing
    assert await token_model(client)
    texts = await world.stored("documents")
    assert len(texts) == 180
    assert all(texts[f"d{place}"] == f"written meanwhile {place}" for place in range(20))
    verified = await client.verify(sample_size=180)
    assert verified.passed
    assert verified.checks[-1].kind is VersionCheckKind.SAMPLED_TOKENS
    found, by_tokens = await compared(client, "written meanwhile 7")
    assert by_tokens
    assert found.results[0].passage.id == "d7"


async def test_token_vectors_stay_with_another_model_and_go_when_that_is_asked_for(world: World) -> None:  # noqa: F811
    await world.client.index(documents(30))
    model = await token_model(world.client)
    assert model
    await reindexed(world.client, model="pseudo-32")
    assert await token_model(world.client) == model
    assert await reindexed(world.client) == [ReindexPhase.SWITCHED], "nothing is to be done"
    await world.client.index(documents(5, "later"))
    assert (await compared(world.client, "lazy dog"))[1]
    assert (await reindexed(world.client, token_vectors=False))[-1] is ReindexPhase.SWITCHED
    assert await token_model(world.client) == ""
    await world.client.index(documents(5, "at last"))
    assert not (await compared(world.client, "lazy dog"))[1]
    await world.client.rollback()
    assert await token_model(world.client) == model
    await world.client.index(documents(5, "after all"))


async def test_a_copy_has_the_token_vectors_of_its_origin(world: World) -> None:  # noqa: F811
    await world.client.index(documents(10))
    async with AsyncTransferClient(world.client.address) as place:
        described = await place.describe("documents")
        made = await place.begin("elsewhere", described.version.version, described.notes)
        fingerprints = (described.version.model.fingerprint, described.version.token_model.fingerprint)
        records, _ = await place.read(described.version.version, [f"d{number}" for number in range(10)])
        assert all(record.tokens.row_count for record in records)
        with pytest.raises(SluiceError) as refused:
            await place.write(made.version, (fingerprints[0], "another"), [(record, "") for record in records], [])
        assert refused.value.reason == "TOKEN_MODEL_MISMATCH"
        await place.write(made.version, fingerprints, [(record, "") for record in records], [])
        await place.complete(made.version, 10)
        copies, _ = await place.read(made.version, [f"d{number}" for number in range(10)])
    assert {one.passage.id: one.tokens for one in copies} == {one.passage.id: one.tokens for one in records}
    assert (await world.client.verify(collection="elsewhere")).passed


async def test_without_a_token_model_there_are_no_token_vectors_and_who_asks_for_them_is_told(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "expander", "retriever", "gateway"},
            embedder={"token_model": ""},
            retriever={"qdrant_path": tmp_path / "qdrant", **UNLIMITED},
        )
        client = await stack.enter_async_context(AsyncClient(platform["gateway"].address))
        await client.index(documents(5))
        assert await token_model(client) == ""
        for asked in (client.create_collection("papers", token_vectors=True), reindexed(client, token_vectors=True)):
            with pytest.raises(SluiceError, match="TOKEN_MODEL=") as refused:
                await asked
            assert refused.value.reason == "TOKEN_MODEL_NOT_SERVED"


async def test_new_collections_are_without_token_vectors_where_the_setting_says_so(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "expander", "retriever", "gateway"},
            retriever={"qdrant_path": tmp_path / "qdrant", **UNLIMITED},
            gateway={"token_vectors": False},
        )
        client = await stack.enter_async_context(AsyncClient(platform["gateway"].address))
        await client.index(documents(5))
        assert await token_model(client) == ""
        assert (await client.create_collection("papers", token_vectors=True)).token_model is not None
        assert (await client.create_collection("notes")).token_model is None


async def test_the_commands_make_show_and_drop_token_vectors(quiet_stages: None, world: World) -> None:  # noqa: F811
    async def sluice(*arguments: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", world.client.address, *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "token vectors" not in await sluice("collections", "create", "documents", "--no-late")
    await world.client.index(documents(20))
    assert "token vectors" not in await sluice("collections")
    assert "documents-v2 is live" in await sluice("reindex", "documents", "--late")
    assert "nothing to do" in await sluice("reindex", "--late")
    shown = await sluice("collections")
    assert f"token vectors: {await token_model(world.client)}" in shown
    assert "not served" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "sampled tokens" in await sluice("verify")
    assert "documents-v3 is live" in await sluice("reindex", "--no-late")
