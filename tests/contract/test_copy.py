"""A collection on its way from one Sluice to another, while it is read and written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from sluice_cli import calls
from sluice_cli.main import app
from sluice_client import AsyncClient, AsyncTransferClient, Document, SluiceError, copy_collection
from tests.contract.conftest import Platform, start
from tests.contract.test_collection_commands import quiet_stages  # noqa: F401  # a fixture
from tests.contract.test_collections import UNLIMITED, documents
from tests.qdrant_server import QdrantServer

Places = list[Platform]


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Places]:
    """Two Sluices with the same model: one over the embedded engine, one over a Qdrant server."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(QdrantServer())
        settings: list[dict[str, Any]] = [
            {"qdrant_path": tmp_path / "qdrant"},
            {"qdrant_url": server.url, "qdrant_grpc_port": server.port},
        ]
        yield [
            await start(
                stack,
                {"embedder", "expander", "retriever", "gateway"},
                embedder={"pseudo_dimension": 64},
                retriever={**given, "qdrant_snapshot_path": str(tmp_path / "snapshots"), **UNLIMITED},
                gateway=UNLIMITED,
            )
            for given in settings
        ]


async def content(place: Platform, version: str) -> dict[str, Any]:
    """All passages of a version, with vectors and revisions."""
    async with AsyncTransferClient(place["gateway"].address) as client, aclosing(client.keys(version)) as keys:
        ids = [key.id async for key in keys]
        found = {}
        while ids:
            records, read = await client.read(version, ids[:1000])
            ids = ids[read:]
            for record in records:
                passage = record.passage
                kept = (passage.text, dict(passage.metadata), record.revision, record.tokens.values)
                assert record.tokens.row_count
                found[passage.id] = (kept, np.frombuffer(record.vector, "<f4"))
        return found


async def assert_equal(one: tuple[Platform, str], other: tuple[Platform, str]) -> None:
    """Compare all passages of two versions; lengths of vectors are made 1 again, which may change their last bit."""
    found, wanted = await content(*one), await content(*other)
    assert {name: kept for name, (kept, _) in found.items()} == {name: kept for name, (kept, _) in wanted.items()}
    for name, (_, vector) in found.items():
        np.testing.assert_allclose(vector, wanted[name][1], atol=1e-6)


async def copied(source: Platform, target: Platform, **options: Any) -> list[Any]:
    async with (
        AsyncTransferClient(source["gateway"].address) as origin,
        AsyncTransferClient(target["gateway"].address) as there,
        aclosing(copy_collection(origin, there, "documents", **options)) as steps,
    ):
        return [step async for step in steps]


async def test_a_copy_made_while_documents_are_written_and_deleted_is_equal_and_live(places: Places) -> None:
    source, target = places
    async with (
        AsyncClient(source["gateway"].address) as client,
        AsyncClient(target["gateway"].address) as other,
    ):
        await client.index(documents(300))
        failed: list[SluiceError] = []
        busy = True

        async def write() -> None:
            for wave in range(15):
                await client.index(documents(20 + wave, salt=f"wave {wave}"))
                await client.delete([f"d{wave}", f"d{299 - wave}"])

        async def ask() -> None:
            while busy:
                try:
                    assert (await client.search("quick fox")).results
                except SluiceError as error:
                    failed.append(error)

        asking = asyncio.create_task(ask())
        steps, _ = await asyncio.gather(copied(source, target), write())
        busy = False
        await asking
        assert not failed
        assert steps[-1].equal
        assert steps[-1].switched.live.version == "documents-v1"
        again = await copied(source, target)
        assert again[-1].switched.previous_version == "documents-v1"
        await assert_equal((target, "documents-v2"), (source, "documents-v1"))
        for question in ("quick fox", "seven wizards"):
            wanted = await client.search(question, collection="documents")
            found = await other.search(question, collection="documents")
            scores = {result.passage.id: pytest.approx(result.score, abs=1e-4) for result in found.results}
            assert {result.passage.id: result.score for result in wanted.results} == scores
        assert (await other.verify(sample_size=20)).passed
        back = await copied(target, source)
        assert back[-1].switched.live.version == "documents-v2"
        await assert_equal((source, "documents-v2"), (source, "documents-v1"))


class Stopping(AsyncTransferClient):
    """A target that fails after its first write."""

    written = False

    async def write(self, *given: Any) -> None:
        if self.written:
            raise SluiceError(grpc.StatusCode.CANCELLED, "STOPPED", "the test stops it here")
        self.written = True
        await super().write(*given)


async def test_a_copy_that_was_broken_off_goes_on(places: Places) -> None:
    source, target = places
    async with AsyncClient(source["gateway"].address) as client:
        await client.index(documents(250), collection="documents")
        await client.index([Document(f"more{place}", "", f"text {place}") for place in range(250)])
        async with (
            AsyncTransferClient(source["gateway"].address) as origin,
            Stopping(target["gateway"].address) as there,
        ):
            with pytest.raises(SluiceError, match="STOPPED"):
                [step async for step in copy_collection(origin, there, "documents")]
        with pytest.raises(SluiceError) as missing:
            async with AsyncClient(target["gateway"].address) as other:
                await other.search("text", collection="documents")
        assert missing.value.code is grpc.StatusCode.NOT_FOUND
        begun = len(await content(target, "documents-v1"))
        assert 0 < begun < 500
        steps = await copied(source, target)
        assert (steps[-1].version, steps[-1].copied_count, steps[-1].equal) == ("documents-v1", 500 - begun, True)
        await assert_equal((target, "documents-v1"), (source, "documents-v1"))


async def test_a_copy_follows_its_origin_until_it_is_ended(places: Places) -> None:
    source, target = places
    async with (
        AsyncClient(source["gateway"].address) as client,
        AsyncTransferClient(source["gateway"].address) as origin,
        AsyncTransferClient(target["gateway"].address) as there,
    ):
        await client.index(documents(30))
        live = False
        async with aclosing(copy_collection(origin, there, "documents", follow=True, pause=0.01)) as steps:
            async for step in steps:
                if step.switched:
                    live = True
                    await client.index(documents(5, salt="later"))
                    await client.delete(["d20"])
                elif live and step.equal and step.copied_count == 35:
                    break
        await assert_equal((target, "documents-v1"), (source, "documents-v1"))
        async with AsyncClient(target["gateway"].address) as other:
            assert (await other.verify(sample_size=5)).passed


async def test_what_is_not_the_description_of_a_version_is_refused(places: Places) -> None:
    async with AsyncTransferClient(places[0]["gateway"].address) as there:
        for notes in ("", "[]", "{}", '{"model_fingerprint": 3}', "[" * 10_000, '{"analyzer": {}}'):
            with pytest.raises(SluiceError) as refused:
                await there.begin("documents", "documents-v1", notes)
            assert refused.value.code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
        with pytest.raises(SluiceError, match="does not exist"):
            await there.describe("documents")


async def test_the_command_copies_and_tells_what_it_did(quiet_stages: None, places: Places) -> None:  # noqa: F811  # the fixture
    source, target = (place["gateway"].address for place in places)
    async with AsyncClient(source) as client:
        await client.index(documents(40))
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["copy", "documents", "--from", source, "--to", target, "--json"]
    )
    assert result.exit_code == calls.DONE, result.output
    said = json.loads(result.stdout)
    assert {name: said[name] for name in ("version", "previous", "passages", "copied", "removed", "equal")} == {
        "version": "documents-v1", "previous": "", "passages": 40, "copied": 40, "removed": 0, "equal": True,
    }  # fmt: skip
    nowhere = await asyncio.to_thread(CliRunner().invoke, app, ["copy", "papers", "--from", source, "--to", target])
    assert nowhere.exit_code == calls.NOT_DONE
