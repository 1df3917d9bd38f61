"""Tenants: collections that are not theirs, and documents of one collection that are not theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from sluice.gateway.v1 import answer_pb2, search_pb2
from sluice_cli.main import app
from sluice_client import AsyncClient, Chunking, Document, Features, Filter, SluiceError, any_of, field, none_of
from tests.contract.access import Doors, bearer, key_of, row
from tests.contract.conftest import start
from tests.stubs import GatewayStubs

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = Features(dense=False, lexical=True)
CALLERS = f"""
{row("blue", "reader", "writer", tenant="blue")}
{row("red", "reader", "writer", tenant="red")}
{row("operator", "operator", "writer")}
{row("auditor", "auditor")}

[tenants.blue]
collections = ["blue-*", "shared"]

[tenants.red]
collections = ["red-*", "shared"]
"""
POLICY = """
@id("own") permit (principal, action in [Action::"read", Action::"write", Action::"overview"], resource)
    when { context.own && resource.name != "shared" };
@id("shared") @filter("team == principal.tenant")
permit (principal in Role::"writer", action in [Action::"read", Action::"write"], resource == Collection::"shared")
    when { context.own && principal.tenant != "" };
@id("operators") permit (principal in Role::"operator", action, resource);
@id("auditors") permit (principal in Role::"auditor", action in [Action::"overview", Action::"audit"], resource);
"""


class Town:
    """A gateway with tenants, and clients of it."""

    def __init__(self, address: str, channel: grpc.aio.Channel, doors: Doors) -> None:
        self.address = address
        self.doors = doors
        self.stubs = GatewayStubs(channel)

    @asynccontextmanager
    async def as_(self, name: str) -> AsyncIterator[AsyncClient]:
        async with AsyncClient(self.address, token=key_of(name)) as client:
            yield client

    async def refused(self, name: str, method: str, *args: Any, **named: Any) -> tuple[grpc.StatusCode, str]:
        async with self.as_(name) as client:
            with pytest.raises(SluiceError) as error:
                await getattr(client, method)(*args, **named)
        return error.value.code, error.value.message

    async def found(self, name: str, query: str = "apple", collection: str = "shared", **options: Any) -> set[str]:
        async with self.as_(name) as client:
            answer = await client.search(query, collection=collection, features=WORDS, limit=100, **options)
        return {result.passage.document_id for result in answer.results}


# One for all tests, of which none may change what is stored.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    tmp_path = tmp_path_factory.mktemp("town")
    doors = Doors(tmp_path / "access", CALLERS, POLICY)
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "expander", "retriever", "gateway"},
            retriever={"qdrant_path": tmp_path / "qdrant"},
            gateway={**doors.variables(), "qdrant_collection": "shared"},
        )
        town = Town(platform["gateway"].address, platform["gateway"].channel, doors)
        for name in ("blue", "red"):
            async with town.as_(name) as client:
                await client.index(
                    [
                        Document(f"{name}-{place}", f"{name} apple", "A tree with apples.", {f"{name}-only": place})
                        for place in range(3)
                    ]
                )
                await client.index([Document("one", "apple", "apple")], collection=f"{name}-1")
        yield town


PERMISSION, MISSING, INVALID = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
)
BLUE = {"blue-0", "blue-1", "blue-2"}


async def test_a_refusal_is_the_same_whether_a_collection_is_there_or_not(town: Town) -> None:
    there = await town.refused("blue", "search", "apple", collection="red-1")
    absent = await town.refused("blue", "search", "apple", collection="red-9")
    assert there[0] is absent[0] is PERMISSION
    assert there[1].replace("red-1", "red-9") == absent[1]


async def test_lists_show_what_the_caller_may_read(town: Town) -> None:
    async with town.as_("blue") as client:
        assert {one.version.collection async for one in client.list_collections()} == {"blue-1"}
        assert (await client.config("blue-1")).collection is not None
        assert (await client.config("red-1")).collection is None
        assert (await client.config("red-9")).collection is None
    async with town.as_("auditor") as client:
        assert {one.version.collection async for one in client.list_collections()} == {"blue-1", "red-1", "shared"}


async def test_a_search_finds_the_documents_of_its_tenant_whatever_its_filter_says(town: Town) -> None:
    assert await town.found("blue") == BLUE
    assert await town.found("operator") == {*BLUE, "red-0", "red-1", "red-2"}
    lifting = [
        Filter(should=[field("team") == "red"]),
        Filter(should=[field("team") == "red", field("team") == "blue"]),
        Filter(must=[any_of(field("team") == "red", field("team") == "blue")]),
        Filter(must_not=[field("team") == "blue"]),
        Filter(must=[none_of(field("team") == "blue")]),
        Filter(must=[field("team") == "red"]),
    ]
    for lifted in lifting:
        assert await town.found("blue", filter=lifted) <= BLUE, lifted


async def test_a_version_by_its_name_has_the_filter_of_its_collection(town: Town) -> None:
    assert await town.found("operator", collection="shared-v1") == {*BLUE, "red-0", "red-1", "red-2"}
    assert await town.found("blue", collection="shared-v1") == BLUE
    assert (await town.refused("blue", "search", "apple", collection="red-1-v1"))[0] is PERMISSION
    async with town.as_("blue") as client:
        assert (await client.config("red-1-v1")).collection is None


async def test_a_page_token_of_another_tenant_is_refused(town: Town) -> None:
    async with town.as_("red") as client:
        page = await client.search("apple", features=WORDS, limit=1)
    assert page.next_page_token
    code, _ = await town.refused("blue", "search", "apple", features=WORDS, limit=1, page_token=page.next_page_token)
    assert code is INVALID


async def test_a_document_of_another_tenant_counts_as_not_there(town: Town) -> None:
    async with town.as_("blue") as client:
        got = await client.get_documents(["red-0", "blue-0", "no"])
        assert [stored.document.id for stored in got.documents] == ["blue-0"]
        assert got.missing_ids == ("red-0", "no")
        assert {stored.document.id async for stored in client.list_documents()} == BLUE
        counts = await client.count_by_field("team")
        assert (counts.passage_count, [one.value for one in counts.fields[0].values]) == (3, ["blue"])
        assert await client.delete(["red-0", "no"]) == 0
    there = await town.refused("blue", "search", like_document_id="red-0")
    absent = await town.refused("blue", "search", like_document_id="red-9")
    assert there[0] is absent[0] is MISSING
    assert there[1].replace("red-0", "red-9") == absent[1]
    assert await town.found("red") == {"red-0", "red-1", "red-2"}


async def test_nobody_stores_over_a_document_of_another_tenant_or_in_its_name(town: Town) -> None:
    document = Document("red-0", "apple", "Now it is blue.")
    code, _ = await town.refused("blue", "index", [Document("blue-9", "apple", "a"), document])
    assert code is PERMISSION
    long = Document("red-0", "apple", "Many words. " * 2000)
    code, _ = await town.refused("blue", "index", [long], chunking=Chunking(64))
    assert code is PERMISSION
    code, message = await town.refused("blue", "index", [Document("blue-9", "apple", "a", {"team": "red"})])
    assert code is INVALID
    assert "documents[0].metadata.team" in message
    code, _ = await town.refused("blue", "index", [Document("blue-9", "apple", "a", {"team": ["blue", "red"]})])
    assert code is INVALID
    assert await town.found("blue") == BLUE
    async with town.as_("red") as client:
        (stored,) = (await client.get_documents(["red-0"])).documents
        assert stored.document.text == "A tree with apples."


async def test_an_error_does_not_name_the_fields_of_others(town: Town) -> None:
    code, message = await town.refused("blue", "search", "apple", filter=Filter(must=[field("nothing") == 1]))
    assert code is INVALID
    assert "red-only" not in message
    code, message = await town.refused("blue", "count_by_field", "nothing")
    assert "red-only" not in message


async def test_a_comparison_and_an_answer_in_words_keep_to_the_tenant_as_well(town: Town) -> None:
    search = search_pb2.SearchRequest(query="apple", features=WORDS, limit=100)
    metadata = bearer(key_of("blue"))
    compared = await town.stubs.search.CompareSearch(
        search_pb2.CompareSearchRequest(search=search), metadata=metadata, timeout=20
    )
    for reply in (compared.standard, compared.enhanced):
        assert {result.passage.document_id for result in reply.results} == BLUE
    answered = await town.stubs.answers.Answer(answer_pb2.AnswerRequest(search=search), metadata=metadata, timeout=20)
    assert {result.passage.document_id for result in answered.search.results} == BLUE


async def test_a_decision_can_be_explained_to_operators_and_auditors_alone(town: Town) -> None:
    async with town.as_("operator") as client:
        told = await client.check_access("blue", "Search", collection="shared")
        assert (told.allowed, told.policies) == (True, ("shared",))
        assert [(one.field, one.value) for one in told.conditions] == [("team", "blue")]
        assert not (await client.check_access("key:blue", "Search", collection="red-1")).allowed
        assert not (await client.check_access("jwt:a", "KillFeature", roles=["reader"])).allowed
    assert (await town.refused("blue", "check_access", "red", "Search"))[0] is PERMISSION


async def test_the_command_explains_a_decision(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before them come log lines of the stages, which run in this process.
    monkeypatch.setenv("SLUICE_TOKEN", key_of("auditor"))
    options = ["--gateway", town.address, "access", "check", "--may", "Search", "--on", "shared", "--as"]
    done = await asyncio.to_thread(CliRunner().invoke, app, [*options, "blue"])
    assert (done.exit_code, done.stdout.splitlines()[-4:]) == (
        0,
        [
            "key:blue (reader, writer of blue)",
            "may SearchService/Search on shared",
            "permitted by shared",
            "only documents with team = blue",
        ],
    )
    refused = await asyncio.to_thread(CliRunner().invoke, app, [*options, "auditor"])
    assert (refused.exit_code, refused.stdout.splitlines()[-1]) == (1, "no policy permits it")
    unknown = await asyncio.to_thread(CliRunner().invoke, app, [*options, "nobody"])
    assert unknown.exit_code == 3
    assert "is not in AUTH_CALLERS" in unknown.stderr


async def test_a_key_that_the_command_makes_is_taken_without_a_restart(town: Town, tmp_path: Path) -> None:
    own = tmp_path / "callers.toml"
    own.write_text((town.doors.folder / "callers.toml").read_text())
    options = ["access", "key", "new", "fresh", "--role", "reader", "--role", "writer", "--tenant", "red", "--file"]
    made = await asyncio.to_thread(CliRunner().invoke, app, [*options, str(own)])
    assert made.exit_code == 0, made.stderr
    assert (await asyncio.to_thread(CliRunner().invoke, app, [*options, str(own)])).exit_code == 3
    assert made.stdout.strip() not in own.read_text()
    town.doors.write("callers.toml", own.read_text())
    async with asyncio.timeout(20), AsyncClient(town.address, token=made.stdout.strip()) as client:
        while True:
            try:
                answer = await client.search("apple", collection="red-1", features=WORDS)
                break
            except SluiceError:
                await asyncio.sleep(0.1)
    assert [result.passage.id for result in answer.results] == ["one"]
