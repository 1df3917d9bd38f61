"""The commands for collections, versions and snapshots."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from sluice_cli import calls
from sluice_cli.main import app
from sluice_client import Document, Features, Relations
from tests.contract.test_collections import World, documents, world  # noqa: F401  # a fixture
from tests.scripted_llm import Script, scripted_llm


@pytest.fixture
def quiet_stages() -> Iterator[None]:
    """The stages of this process do not log: their standard output is the command's, too."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def test_the_commands_do_all_of_it(quiet_stages: None, world: World) -> None:  # noqa: F811  # the fixture
    await world.client.index(documents(40))

    async def sluice(*arguments: str, code: int = calls.DONE) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", world.client.address, *arguments])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    built = await sluice("reindex", "--model", "pseudo-32", "--json")
    assert (built["version"], built["previous"], built["switched"]) == ("documents-v2", "documents-v1", True)
    assert (built["passages"], built["copied"], {check["passed"] for check in built["checks"]}) == (40, 40, {True})
    assert "documents-v1 now" in await sluice("rollback")
    assert (await sluice("rollback", "--to", "documents-v2", "--json"))["previous"] == "documents-v1"
    assert "as it should be" in await sluice("verify")
    versions = await sluice("collections", "--json")
    assert [(version["version"], version["live"]) for version in versions] == [
        ("documents-v1", False),
        ("documents-v2", True),
    ]
    made = [(await sluice("snapshot", "create", "--json"))["name"] for _ in range(2)]
    assert {found["name"] for found in await sluice("snapshot", "list", "--json")} == set(made)
    assert made[0] in await sluice("snapshot", "list")
    assert (await sluice("snapshot", "restore", made[0], "--json"))["live"] == "documents-v3"
    assert (await sluice("snapshot", "prune", "--keep", "1", "--json"))["deleted"] == made[:1]
    # What is acted on is an argument; the option of earlier releases says the same.
    named = (await sluice("snapshot", "create", "documents", "--json"))["name"]
    for said in (["documents"], ["--collection", "documents"], ["documents", "--collection", "documents"]):
        assert named in await sluice("snapshot", "list", *said)
    await sluice("snapshot", "list", "documents", "--collection", "papers", code=calls.WRONG_COMMAND_LINE)
    # To keep none is asked for.
    await sluice("snapshot", "prune", "documents", "--keep", "0", code=calls.WRONG_COMMAND_LINE)
    assert named in await sluice("snapshot", "list")
    assert named in (await sluice("snapshot", "prune", "documents", "--keep", "0", "--yes", "--json"))["deleted"]
    assert "dropped" in await sluice("collections", "--drop", "documents-v1")
    await sluice("collections", "--drop", "documents-v3", code=calls.NOT_DONE)
    await sluice("reindex", "--model", "none", code=calls.NOT_DONE)
    assert (await sluice("collections", "create", "papers", "--model", "pseudo-32", "--json"))["version"] == "papers-v1"
    await sluice("collections", "delete", "papers", code=calls.WRONG_COMMAND_LINE)  # no terminal to ask
    assert (await sluice("collections", "delete", "papers", "--yes", "--json"))["versions"] == ["papers-v1"]


async def test_snapshots_of_all_collections_are_taken_pruned_and_the_newest_restored(
    quiet_stages: None,
    world: World,  # noqa: F811  # the fixture
) -> None:
    await world.client.index(documents(10))
    await world.client.index(documents(5), collection="papers")

    async def sluice(*arguments: str, code: int = calls.DONE) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", world.client.address, *arguments])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    for _ in range(2):
        everything = await sluice("snapshot", "create", "--all", "--json")
        assert [made["version"] for made in everything] == ["documents-v1", "papers-v1"]
    deleted = (await sluice("snapshot", "prune", "--all", "--keep", "1", "--json"))["deleted"]
    assert [name.partition("-v1")[0] for name in deleted] == ["documents", "papers"]
    restored = await sluice("snapshot", "restore", "--newest", "--collection", "papers", "--json")
    assert (restored["live"], restored["passages"]) == ("papers-v2", 5)
    await sluice("snapshot", "restore", code=calls.WRONG_COMMAND_LINE)
    await sluice("snapshot", "restore", "--newest", "--collection", "nothing", code=calls.NOT_DONE)


async def test_a_collection_without_keys_is_enriched_and_reported_on(
    quiet_stages: None,
    world: World,  # noqa: F811  # the fixture
) -> None:
    await world.client.index([Document(f"d{place}", f"Alan {place}", "He met Ada Byron.") for place in range(30)])
    [listed] = await world.versions()
    assert listed.version.enriched  # RELATIONS is on

    async def sluice(*arguments: str) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", world.client.address, *arguments])
        assert result.exit_code == calls.DONE, result.output
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    assert "all passages have their keys" in await sluice("collections")
    assert "all passages had their keys, of 30" in await sluice("enrich")
    shown = await sluice("enrich", "documents", "--report")
    assert "ada byron" in shown
    assert "very many passages mention it" in shown
    found = await sluice("enrich", "documents-v1", "--report", "--json")
    assert (found["version"], found["progress"]["total_count"]) == ("documents-v1", 30)
    assert [(key["key"], key["mention_count"]) for key in found["report"]["frequent_keys"]] == [("ada byron", 30)]


async def test_documents_are_related_without_being_embedded_again(world: World) -> None:  # noqa: F811  # the fixture
    await world.client.index([Document("a", "Ada", "A programme."), Document("b", "Charles", "An engine.")])
    await world.second_embedder.aclose()
    related = await world.client.relate({"a": Relations(mentions=["Charles"]), "c": Relations(links=["a"])})
    assert (related.changed_count, related.missing_ids) == (1, ("c",))
    found = await world.client.get_documents(["a", "b"])
    assert [one.document.relations for one in found.documents] == [Relations((), ("Charles",), ()), None]
    answer = await world.client.search("programme", features=Features(multi_hop=True, max_hops=1, dense=False))
    assert {result.passage.id for result in answer.results} == {"a", "b"}


async def test_names_of_an_extractor_are_added_to_stored_documents_within_its_budget(
    quiet_stages: None,
    world: World,  # noqa: F811  # the fixture
) -> None:
    await world.client.index(
        [
            Document(f"d{place}", "", f"Then {place}, ada byron wrote.", relations=Relations(["A"]))
            for place in range(40)
        ]
    )
    names = json.dumps({"names": ["ada byron", "somebody else"]})
    usage = {"prompt_tokens": 50, "completion_tokens": 10}
    reply = Script(raw=json.dumps({"choices": [{"message": {"content": names}}], "usage": usage}).encode())
    async with scripted_llm(reply) as llm:
        asked = ["enrich", "documents", "--extractor", "llm:llama3", "--extractor-url", llm.url, "--json"]

        async def sluice(*arguments: str, code: int) -> Any:
            result = await asyncio.to_thread(
                CliRunner().invoke, app, ["--gateway", world.client.address, *asked, *arguments]
            )
            assert result.exit_code == code, result.output
            return json.loads(result.stdout)["extracted"]

        first = await sluice("--extractor-budget", "3000", code=calls.NEEDS_A_LOOK)
        assert 0 < first["documents"] == first["related"] < 40
        rest = await sluice("--after", first["stopped_after"], code=calls.DONE)
    assert first["documents"] + rest["documents"] == 40
    assert len(llm.requests) < 60
    found = [stored.document.relations async for stored in world.client.list_documents()]
    assert found == [Relations(("A",), ("ada byron",), ())] * 40
