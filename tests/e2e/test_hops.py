"""Hops through real processes and models: paths, pages, every method of reranking after them, and the command."""

import pytest
import pytest_asyncio

from sluice_client import Document, Outcome, RelationKind, Relations, Stage, features

pytestmark = pytest.mark.asyncio(loop_scope="session")

COLLECTION = "hops-films"
DOCUMENTS = [
    Document("film", "Silent Water", "Silent Water is a film that Jane Marlow directed in 1931."),
    Document("director", "Jane Marlow", "She was born in Aldershot, and studied law before the war."),
    Document("town", "Aldershot", "A town in the south with a large garrison and two railway lines."),
    *(
        Document(
            f"other{number}", f"Film number {number}", f"A film about water, the director of it was born in {number}."
        )
        for number in range(30)
    ),
    Document("said", "An atlas", "Maps of the south.", relations=Relations(mentions=("Aldershot",), links=("town",))),
]
QUESTION = "where was the director of Silent Water born"
METHODS = ("late", "cascade", "cross_encoder")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def films(client):
    await client.index(DOCUMENTS, collection=COLLECTION)
    yield COLLECTION
    await client.delete_collection(COLLECTION)


async def ask(client, question=QUESTION, *, hops=1, limit=10, **flags):
    on = features(multi_hop=hops > 0, **({"max_hops": hops} if hops else {}), **flags)
    return await client.search(question, collection=COLLECTION, limit=limit, features=on)


async def test_a_hop_brings_what_the_best_result_mentions_and_says_how(films, client):
    answer = await ask(client)
    [report] = [report for report in answer.stages if report.stage is Stage.HOP]
    assert report.outcome is Outcome.RAN
    found = {result.passage.id: result for result in answer.results}
    [step] = found["director"].path
    assert (step.kind, step.passage_id, step.key) == (RelationKind.LINK, "film", "jane marlow")
    assert found["director"].passage.text == DOCUMENTS[1].text
    assert 0 <= answer.enrichment_score <= 1
    two = {result.passage.id: result for result in (await ask(client, hops=2, limit=50)).results}
    assert [step.key for step in two["town"].path] == ["jane marlow", "aldershot"]
    without = await ask(client, hops=0)
    assert without.enrichment_score is None
    assert not any(result.path for result in without.results)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_of_reranking_keeps_what_a_hop_brought(films, client, method):
    answer = await ask(client, rerank=True, rerank_method=method, rerank_candidate_count=20)
    assert {"film", "director"} <= {result.passage.id for result in answer.results[:5]}
    assert all(report.outcome in (Outcome.RAN, Outcome.SKIPPED) for report in answer.stages)


async def test_the_pages_of_an_answer_with_hops_are_the_answer(films, client):
    whole = await ask(client, limit=30)
    shown = []
    async for page in client.pages(QUESTION, collection=films, limit=7, features=features(multi_hop=True)):
        shown += page.results
    assert [result.passage.id for result in shown[:30]] == [result.passage.id for result in whole.results]
    assert len({result.passage.id for result in shown}) == len(shown) == len(DOCUMENTS)


async def test_what_a_document_says_of_its_relations_leads_on_and_comes_back(films, client):
    answer = await ask(client, "maps of an atlas of the south")
    found = {result.passage.id: result for result in answer.results}
    assert found["town"].path[-1].passage_id == "said"
    stored = await client.get_documents(["said"], collection=films)
    assert stored.documents[0].document.relations == DOCUMENTS[-1].relations
