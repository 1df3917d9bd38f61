"""Reranking by each method, with real processes and models."""

import pytest

from demo.questions import QUESTIONS
from sluice_client import Document, Outcome, SluiceError, Stage, features

pytestmark = pytest.mark.asyncio(loop_scope="session")

CANDIDATES = 20
TOKEN_MODEL = "answerdotai/answerai-colbert-small-v1"
CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L-12-v2"


def by(method, **others):
    return features(rerank=True, rerank_method=method, rerank_candidate_count=CANDIDATES, **others)


async def ask(client, collection, method, question=QUESTIONS[0], **options):
    options = {"limit": CANDIDATES, "features": by(method), **options}
    return await client.search(question, collection=collection, **options)


def reranking(answer):
    [report] = [report for report in answer.stages if report.stage is Stage.RERANK]
    return report


async def test_late_interaction_orders_by_token_vectors_alone(stored, client):
    answer = await ask(client, stored.collection, "late")
    report = reranking(answer)
    assert (report.outcome, report.model, report.item_count) == (Outcome.RAN, TOKEN_MODEL, CANDIDATES)
    assert all(-1 <= result.scores.late <= 1 and 0 <= result.scores.relevance <= 1 for result in answer.results)
    assert all(result.scores.rerank is None for result in answer.results)
    assert any(result.scores.retrieval_rank != result.rank for result in answer.results)


async def test_the_cross_encoder_of_a_cascade_reads_the_best_after_late_interaction(stored, client):
    late = await ask(client, stored.collection, "late")
    cascade = await ask(client, stored.collection, "cascade", features=by("cascade", cascade_count=5))
    report = reranking(cascade)
    assert (report.outcome, report.model, report.item_count) == (Outcome.RAN, CROSS_ENCODER, 5)
    read = {result.passage.id for result in cascade.results if result.scores.rerank is not None}
    assert read == {result.passage.id for result in late.results[:5]}
    assert [result.passage.id for result in cascade.results[5:]] == [result.passage.id for result in late.results[5:]]


@pytest.mark.parametrize("method", ["late", "cascade"])
async def test_the_pages_of_an_answer_are_the_answer(stored, client, method):
    whole = await ask(client, stored.collection, method, limit=30)
    options = {"limit": 7, "features": by(method), "collection": stored.collection}
    shown = []
    async for page in client.pages(QUESTIONS[0], **options):
        shown += page.results
        if len(shown) >= len(whole.results):
            break
    assert [result.passage.id for result in shown[:30]] == [result.passage.id for result in whole.results]
    assert [result.score for result in shown[:30]] == pytest.approx([result.score for result in whole.results])


async def test_a_collection_without_token_vectors_is_reranked_by_the_cross_encoder(stored, client):
    await client.create_collection("no-tokens", token_vectors=False)
    await client.index(
        [Document(str(place), text=text) for place, text in enumerate(QUESTIONS)], collection="no-tokens"
    )
    report = reranking(await ask(client, "no-tokens", "late", limit=3))
    assert (report.outcome, report.reason, report.model) == (Outcome.DEGRADED, "NO_TOKEN_VECTORS", CROSS_ENCODER)


async def test_a_later_page_is_refused_where_the_token_vectors_have_gone(stored, client):
    await client.create_collection("tokens-go", token_vectors=True)
    await client.index(
        [Document(str(place), text=text) for place, text in enumerate(QUESTIONS)], collection="tokens-go"
    )
    first = await ask(client, "tokens-go", "late", limit=1)
    assert reranking(first).outcome is Outcome.RAN
    async for _ in client.reindex(collection="tokens-go", token_vectors=False):
        pass
    with pytest.raises(SluiceError) as refused:
        await ask(client, "tokens-go", "late", limit=1, page_token=first.next_page_token)
    assert refused.value.reason in ("INDEX_SWITCHED", "NO_TOKEN_VECTORS")
