"""Token vectors for a collection that has none, through real processes and real models, while it is written."""

from __future__ import annotations

import asyncio

import pytest

from sluice.type.v1 import features_pb2
from sluice_client import Document, Features, Outcome, ReindexPhase, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")

LATE = Features(rerank=True, rerank_method=features_pb2.RERANK_METHOD_LATE, expansion=False)


async def test_a_collection_gets_token_vectors_while_it_is_written_and_is_reranked_by_them(stored, client):
    passages = stored.corpus.passages[:60]
    documents = [Document(passage.title, passage.title, passage.text) for passage in passages]
    created = await client.create_collection("notes", token_vectors=False)
    assert created.token_model is None
    await client.index(documents, collection="notes")
    written = Document("written", "Zeppelins", "A zeppelin is a rigid airship.")

    async def write():
        await client.index([written], collection="notes")
        await client.delete([documents[0].id], collection="notes")

    writing = asyncio.create_task(write())
    steps = [step async for step in client.reindex(collection="notes", token_vectors=True)]
    await writing
    assert steps[-1].phase is ReindexPhase.SWITCHED, steps[-1].checks
    assert (await client.verify(collection="notes")).passed
    answer = await client.search("rigid airships", collection="notes", features=LATE, limit=20)
    [report] = [report for report in answer.stages if report.stage is Stage.RERANK]
    assert (report.outcome, report.model) == (Outcome.RAN, "answerdotai/answerai-colbert-small-v1")
    assert answer.results[0].passage.id == "written"
    assert all(result.scores.late is not None for result in answer.results)
    assert documents[0].id not in {result.passage.id for result in answer.results}
