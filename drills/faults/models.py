"""Stages with real models that are killed while they work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from drills.faults.drill import Group, Seen, ms
from drills.faults.pipeline import told
from drills.parts.flood import passage
from drills.parts.processes import StageProcess, running
from services.chassis.client import StageChannel
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from sluice_client import AsyncClient, Document, Features, features


def documents(count: int, length: int, name: str) -> list[Document]:
    """Passages, no two alike."""
    return [Document(f"{name}-{number}", "", f"{passage(length)} {number}") for number in range(count)]


MOST_IDS = 100
"""Of a call of GetDocuments."""


@dataclass(frozen=True)
class Platform:
    """Four stages with the gateway's own defaults for breakers, and real models."""

    stages: Mapping[str, StageProcess]
    client: AsyncClient


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """No expander, since no row asks for it."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stages = {
            name: await stack.enter_async_context(running(name, {"QDRANT_PATH": str(Path(folder) / "qdrant")}))
            for name in ("embedder", "retriever", "reranker")
        }
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        stages["gateway"] = await stack.enter_async_context(running("gateway", addresses))
        client = await stack.enter_async_context(AsyncClient(stages["gateway"].address, timeout=20))
        yield Platform(stages, client)


group: Group[Platform] = Group("models", platform)


@group.row(
    "reranker killed mid-request",
    "the search is answered in the first stage's order, RERANK FAILED, within its deadline of 10 s; the reranker "
    "started again is used again",
)
async def reranker_killed(platform: Platform) -> Seen:
    await platform.client.index(documents(60, 250, "long"), collection="long")
    reranked = features(rerank=True, rerank_method="cross_encoder", rerank_candidate_count=50)
    plain = await platform.client.search("ship in a storm", collection="long", features=Features(rerank=False))
    reranker = platform.stages["reranker"]
    started = time.monotonic()
    searching = asyncio.create_task(
        platform.client.search("ship in a storm", collection="long", features=reranked, timeout=10)
    )
    await asyncio.sleep(0.6)
    was_busy = not searching.done()
    reranker.kill()
    answer = await searching
    took = time.monotonic() - started
    same = [one.passage.id for one in answer.results] == [one.passage.id for one in plain.results]
    await reranker.ended()
    await reranker.start()
    returned = time.monotonic()
    async with asyncio.timeout(90):
        while True:
            again = await platform.client.search("harbour", collection="long", features=reranked, timeout=20)
            if told(again, "rerank") == "ran":
                break
            await asyncio.sleep(0.5)
    back = time.monotonic() - returned
    ok = was_busy and told(answer, "rerank").startswith("failed") and same and took < 10
    words = f"killed while it worked: {was_busy}; answer after {ms(took)}, rerank {told(answer, 'rerank')}, "
    return Seen(ok, f"{words}first stage's order: {same}; used again {back:.1f} s after its return")


@group.row(
    "embedder killed mid-index",
    "a job of 400 documents goes on by itself once the embedder is back, 4 s later; all 400 are there, each once",
)
async def embedder_killed(platform: Platform) -> Seen:
    embedder = platform.stages["embedder"]
    jobs = documents(400, 60, "job")
    halfway = asyncio.Event()
    stored = 0

    def progress(batch: object, _indexed: object) -> None:
        nonlocal stored
        stored += len(batch)  # type: ignore[arg-type]
        if stored >= 96:
            halfway.set()

    job = asyncio.create_task(platform.client.index_all(jobs, collection="job", batch_size=32, on_progress=progress))
    await halfway.wait()
    at_kill = stored
    embedder.kill()
    await embedder.ended()
    killed = time.monotonic()
    await asyncio.sleep(4)
    ended = "ended"
    await embedder.start()
    down = time.monotonic() - killed
    try:
        count = await job
    except Exception as error:
        count, ended = 0, f"failed with {type(error).__name__}: {error}"
    resumed = time.monotonic() - killed
    async with StageChannel(platform.stages["retriever"].address) as channel:
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel.channel)
        found = missing = 0
        for first in range(0, len(jobs), MOST_IDS):
            ids = [document.id for document in jobs[first : first + MOST_IDS]]
            request = retriever_pb2.GetDocumentsRequest(collection="job", ids=ids)
            reply = await channel.call(stub.GetDocuments, request, deadline=time.monotonic() + 10)
            found, missing = found + len(reply.documents), missing + len(reply.missing_ids)
        described = await channel.call(
            stub.GetCollection, retriever_pb2.GetCollectionRequest(collection="job"), deadline=time.monotonic() + 10
        )
    total = described.collection.passage_count
    ok = count == 400 and found == total == 400
    words = (
        f"killed after {at_kill} documents, back after {down:.1f} s; the job {ended} {resumed:.1f} s after the kill; "
    )
    return Seen(ok, f"{words}{total} documents stored, {missing} missing")
