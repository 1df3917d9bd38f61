"""Lines of the audit log for calls to a gateway and the retriever behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.gateway.search.query_log import hash_of
from sluice.gateway.v1 import collections_pb2 as collections
from sluice.gateway.v1 import collections_pb2_grpc, documents_pb2_grpc, search_pb2_grpc
from sluice.gateway.v1 import documents_pb2 as documents
from sluice.gateway.v1 import search_pb2 as search
from tests.contract.access import bearer, key_of, row
from tests.contract.conftest import Platform, start

SETTINGS = {"audit_searches": True, "audit_chain": True, "audit_key": "a key"}


@dataclass
class Audited:
    """Stages with audit logs, whose lines are whole once the stages have stopped."""

    folder: Path
    stack: AsyncExitStack
    platform: Platform

    async def lines(self, stage: str = "gateway") -> list[dict[str, Any]]:
        """Stop the stages, and read the lines of one for calls."""
        await self.stack.aclose()
        file = self.folder / f"{stage}.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if "method" in line]

    async def index(self, *ids: str) -> None:
        """Store documents."""
        stub = documents_pb2_grpc.DocumentServiceStub(self.platform["gateway"].channel)
        await stub.IndexDocuments(
            documents.IndexDocumentsRequest(
                collection="papers",
                documents=[documents.Document(id=identity, text=f"text of {identity}") for identity in ids],
            ),
            timeout=10,
            metadata=(("x-request-id", "r-1"),),
        )


@pytest.fixture
async def audited(tmp_path: Path) -> AsyncIterator[Audited]:
    quotas = tmp_path / "quotas.yaml"
    quotas.write_text("anonymous: {calls_per_second: 0.01, burst: 4}", encoding="utf-8")
    folder = tmp_path / "audit"
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "retriever", "gateway"},
            retriever={"qdrant_path": tmp_path / "qdrant", "audit_dir": folder},
            gateway={**SETTINGS, "audit_dir": folder, "quota_file": quotas},
        )
        yield Audited(folder, stack, platform)


async def test_a_change_has_a_line_at_the_gateway_and_at_the_stage_that_makes_it(audited: Audited) -> None:
    await audited.index("a", "b")
    stub = documents_pb2_grpc.DocumentServiceStub(audited.platform["gateway"].channel)
    await stub.DeleteDocuments(documents.DeleteDocumentsRequest(collection="papers", ids=["a"]), timeout=10)
    stored, deleted = await audited.lines()
    assert stored["method"] == "sluice.gateway.v1.DocumentService/IndexDocuments"
    assert stored["object"] == {"collection": "papers", "documents": 2}
    assert (stored["outcome"], stored["request_id"], stored["stage"]) == ("OK", "r-1", "gateway")
    assert stored["peer"].startswith("ipv4:127.0.0.1:")
    assert deleted["object"] == {"collection": "papers", "ids": 1, "first_ids": ["a"]}
    inner = await audited.lines("retriever")
    upsert = next(line for line in inner if line["method"].endswith("UpsertPassages"))
    assert (upsert["request_id"], upsert["for"]) == ("r-1", "ipv4:127.0.0.1")


async def test_a_change_that_fails_has_a_line_with_its_reason(audited: Audited) -> None:
    stub = collections_pb2_grpc.CollectionServiceStub(audited.platform["gateway"].channel)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.DeleteCollection(collections.DeleteCollectionRequest(collection="nothing"), timeout=10)
    (line,) = await audited.lines()
    assert line["object"] == {"collection": "nothing"}
    assert line["outcome"] == "NOT_FOUND"


async def test_a_search_has_a_line_where_that_is_asked_for_with_no_word_of_its_query(audited: Audited) -> None:
    await audited.index("a", "b")
    stub = search_pb2_grpc.SearchServiceStub(audited.platform["gateway"].channel)
    await stub.Search(search.SearchRequest(query="the secret", collection="papers", user_id="somebody"), timeout=10)
    _, line = await audited.lines()
    assert line["object"] == {"collection": "papers"}
    assert line["query_hash"] == hash_of("the secret", b"a key")
    assert sorted(line["ids"]) == ["a", "b"]
    assert "secret" not in json.dumps(line)
    assert "SearchPassages" not in json.dumps(await audited.lines("retriever"))


async def test_refusals_share_a_line(audited: Audited) -> None:
    stub = collections_pb2_grpc.CollectionServiceStub(audited.platform["gateway"].channel)
    for _ in range(4):
        await stub.ListCollections(collections.ListCollectionsRequest(), timeout=10)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ListCollections(collections.ListCollectionsRequest(), timeout=0.2)
    found = await audited.lines()
    assert {(line["outcome"], line["reason"]) for line in found} == {("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")}
    assert sum(line.get("count", 1) for line in found) == 3


async def test_lines_name_the_identity_of_a_caller_and_stages_hear_it_whatever_the_call_says(tmp_path: Path) -> None:
    callers = tmp_path / "callers.toml"
    callers.write_text(row("alice", "writer") + row("bob", "reader"), encoding="utf-8")
    folder = tmp_path / "audit"
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "retriever", "gateway"},
            retriever={"qdrant_path": tmp_path / "qdrant", "audit_dir": folder},
            gateway={"auth_callers": callers, "audit_dir": folder},
        )
        audited = Audited(folder, stack, platform)
        stub = documents_pb2_grpc.DocumentServiceStub(platform["gateway"].channel)
        request = documents.IndexDocumentsRequest(
            collection="papers", documents=[documents.Document(id="a", text="text")]
        )
        await stub.IndexDocuments(
            request, timeout=10, metadata=(*bearer(key_of("alice")), ("x-sluice-caller", "key:bob"))
        )
        for metadata in (bearer(key_of("bob")), ()):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.IndexDocuments(request, timeout=10, metadata=metadata)
        found = [(line["identity"], line["outcome"], line.get("policies")) for line in await audited.lines()]
        assert found == [
            ("key:alice", "OK", ["writers-read-and-write"]),
            ("key:bob", "PERMISSION_DENIED", []),
            ("", "UNAUTHENTICATED", None),
        ]
        assert {line["for"] for line in await audited.lines("retriever")} == {"key:alice"}
