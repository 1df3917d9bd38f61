"""Platform to observe: the local stack with real models, Qdrant's protocol, a collector, a Prometheus."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from deploy.local.paths import BUILD
from deploy.local.stack import STAGES, LocalStack
from drills.observe.collector import Collector
from drills.observe.prometheus import Prometheus
from drills.parts.processes import metric, reserve, running
from drills.parts.qdrant import Gate, failing
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.gateway.v1 import documents_pb2, documents_pb2_grpc, search_pb2_grpc
from sluice.gateway.v1 import search_pb2 as pb
from sluice.reranker.v1 import reranker_pb2_grpc
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from sluice.type.v1 import model_pb2
from sluice.type.v1.features_pb2 import RERANK_METHOD_CROSS_ENCODER, RERANK_METHOD_LATE, Features
from sluice.type.v1.filter_pb2 import Condition, Filter, Value
from tests.qdrant_server import QdrantServer

SECRET = "zanzibar"
"""A word of every query and document; it must be in no log and no span."""
QUERY_KEY = "observe-check"
QUERY = f"buy a used car in {SECRET}"
ALL_FEATURES = Features(
    expansion=True, rerank=True, rerank_method=RERANK_METHOD_CROSS_ENCODER, rerank_candidate_count=10
)
NOTHING = Filter(must=[Condition(field="kind", equals=Value(string_value="poem"))])
"""A filter that no document matches."""
FOLDER = BUILD / "observe"
OTHER_MODEL = "another-model@1"
_SECONDS = 120.0
_BROKEN_SECONDS = 15.0
_SUCCESSES = 80
_LATE_SECONDS = 0.5
"""Deadline of a call for which the embedder takes many seconds."""
_FROZEN_SECONDS = 4.0
"""Deadline of a search whose reranker is frozen: missed ones only count where there was a second for it."""
_ENVIRONMENT = {
    "OTEL_TRACES_SAMPLER_ARG": "1.0",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "INFO",
    "LOG_QUERIES": "hash",
    "LOG_QUERY_KEY": QUERY_KEY,
    "DRAIN_SECONDS": "0",
    # Small enough for a few calls to fill, open or exhaust.
    "QUEUED_TOKENS": "32768",
    "QDRANT_POOL_SIZE": "2",
    "QDRANT_POOL_RETRY_DELAY": "0.05",
    "QDRANT_BREAKER_FAILURES": "3",
    "QDRANT_BREAKER_RESET_SECONDS": "1",
    "BREAKER_FAILURES": "3",
    "BREAKER_RESET_SECONDS": "1",
    "ROLLOUT_NO_DATA_SECONDS": "2",
}


@dataclass
class Platform:
    """Everything at hand."""

    stack: LocalStack
    qdrant: QdrantServer
    collector: Collector
    prometheus: Prometheus
    gateway: search_pb2_grpc.SearchServiceStub
    documents: documents_pb2_grpc.DocumentServiceStub
    embedder: embedder_pb2_grpc.EmbedderServiceStub
    reranker: reranker_pb2_grpc.RerankerServiceStub
    retriever: retriever_pb2_grpc.RetrieverServiceStub
    traceparents: set[str]
    """Trace ids that came with calls to Qdrant."""

    async def search(
        self, query: str = QUERY, *, request_id: str = "", timeout: float = _SECONDS, **options: Any
    ) -> pb.SearchResponse:
        """One search; raises grpc.aio.AioRpcError."""
        identity = request_id or uuid.uuid4().hex
        request = pb.SearchRequest(query=query, **options)
        reply: pb.SearchResponse = await self.gateway.Search(
            request, timeout=timeout, metadata=(("x-request-id", identity),)
        )
        return reply

    async def searches(self, count: int, **options: Any) -> list[pb.SearchResponse | BaseException]:
        """Search a number of times at once, each with a query of its own; failures are among the answers."""
        return await asyncio.gather(
            *(self.search(f"{QUERY} {uuid.uuid4().hex[:6]}", **options) for _ in range(count)), return_exceptions=True
        )


@asynccontextmanager
async def observed(say: Callable[[str], None], on_serving: Callable[[str], None]) -> AsyncIterator[Platform]:
    """Start it all, with twenty documents stored."""
    data = FOLDER / "data"
    shutil.rmtree(data, ignore_errors=True)
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(Collector())
        qdrant = await stack.enter_async_context(QdrantServer())
        environment = {
            **_ENVIRONMENT,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "QDRANT_URL": qdrant.url,
            "QDRANT_GRPC_PORT": str(qdrant.port),
        }
        say("starting the stages")
        local = LocalStack(name="observe", environment=environment, data=data, on_serving=on_serving)
        await stack.enter_async_context(local)
        # A second embedder without a model: what the alert on pseudo-embeddings is about.
        with_metrics = {"EMBEDDING_MODEL": "", "METRICS_PORT": str(_free_port())}
        await stack.enter_async_context(running("embedder", with_metrics))
        targets = {stage: [local.metrics_url(stage).split("/")[2]] for stage in STAGES}
        targets["embedder"].append(f"127.0.0.1:{with_metrics['METRICS_PORT']}")
        say("starting Prometheus")
        prometheus = await stack.enter_async_context(Prometheus(targets, FOLDER / "prometheus"))
        channels = {
            stage: await stack.enter_async_context(grpc.aio.insecure_channel(local.address(stage))) for stage in STAGES
        }
        platform = Platform(
            local,
            qdrant,
            collector,
            prometheus,
            search_pb2_grpc.SearchServiceStub(channels["gateway"]),
            documents_pb2_grpc.DocumentServiceStub(channels["gateway"]),
            embedder_pb2_grpc.EmbedderServiceStub(channels["embedder"]),
            reranker_pb2_grpc.RerankerServiceStub(channels["reranker"]),
            retriever_pb2_grpc.RetrieverServiceStub(channels["retriever"]),
            traceparents=set(),
        )
        await index(platform, 20)
        yield platform


async def index(platform: Platform, count: int) -> None:
    """Store a number of documents."""
    documents = [
        documents_pb2.Document(
            id=str(number),
            title=f"Number {number}",
            text=f"Sentence {number} about {SECRET}, and then Number {number + 1}.",
            metadata={"kind": Value(string_value="sentence")},
        )
        for number in range(count)
    ]
    await platform.documents.IndexDocuments(documents_pb2.IndexDocumentsRequest(documents=documents), timeout=_SECONDS)


async def drive(platform: Platform, say: Callable[[str], None]) -> None:
    """Load of every kind: each feature, each way to fail, and more than there is room for."""
    scraped = platform.prometheus.scraped
    say("searching with every combination of features")
    for expansion in (False, True):
        for rerank in (False, True):
            await platform.searches(4, features=Features(expansion=expansion, rerank=rerank))
    await platform.search(features=Features(multi_hop=True))
    await scraped()
    await platform.searches(4, features=Features(multi_hop=True, max_hops=2))
    await platform.search(features=ALL_FEATURES, filter=NOTHING)
    await platform.search(features=Features(rerank=True, rerank_method=RERANK_METHOD_LATE))
    await platform.search(features=ALL_FEATURES)  # twice the same: the caches answer
    await platform.search(features=ALL_FEATURES)
    await scraped()
    say("asking wrongly, and leaving early")
    await asyncio.gather(platform.search(query=""), return_exceptions=True)
    await _embed(platform, ["the same", "the same"])
    await _leave(platform)
    say("sending more than there is room for")
    await _flood(platform)
    say("holding up Qdrant")
    await _hold_up_qdrant(platform)
    say("breaking Qdrant")
    await _break_qdrant(platform)
    say("freezing the reranker")
    await _freeze_reranker(platform)
    say("switching to an index of another model, and back")
    await _mismatch(platform)
    await platform.searches(4, features=ALL_FEATURES)
    await scraped()


async def _embed(platform: Platform, texts: Sequence[str], timeout: float = _SECONDS, bulk: bool = False) -> None:
    request = embedder_pb2.EmbedTextsRequest(
        texts=texts,
        kind=embedder_pb2.TEXT_KIND_DOCUMENT,
        priority=model_pb2.PRIORITY_BULK if bulk else model_pb2.PRIORITY_INTERACTIVE,
    )
    await platform.embedder.EmbedTexts(request, timeout=timeout)


async def _leave(platform: Platform) -> None:
    """Callers that go away, and deadlines that pass."""
    gate = Gate()
    platform.qdrant.fault = gate
    leaving = asyncio.create_task(platform.search())
    await gate.holds(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    late = await asyncio.gather(platform.search(timeout=0.5), return_exceptions=True)
    assert isinstance(late[0], grpc.aio.AioRpcError)
    platform.qdrant.fault = None
    gate.open.set()


async def _flood(platform: Platform) -> None:
    """Texts that wait, a call that leaves its place in the queue, and one that cannot be done in its time."""
    texts = [f"{SECRET} {number} " + "word " * (number % 80) for number in range(300)]
    waiting = asyncio.create_task(_embed(platform, texts, bulk=True))
    await platform.prometheus.scraped(1)
    leaving = asyncio.create_task(_embed(platform, [f"{text} again" for text in texts]))
    address = platform.stack.metrics_url("embedder").split("/")[2]
    async with asyncio.timeout(_SECONDS):
        while not await metric(address, "sluice_queue_depth", lane="interactive"):
            await asyncio.sleep(0.05)
    leaving.cancel()
    late = _embed(platform, ["word " * 250 + str(number) for number in range(200)], timeout=_LATE_SECONDS)
    await asyncio.gather(leaving, late, waiting, return_exceptions=True)


async def _hold_up_qdrant(platform: Platform) -> None:
    """More searches at once than there are connections, for as long as it takes to be scraped."""
    gate = Gate()
    platform.qdrant.fault = gate
    held = asyncio.create_task(platform.searches(24, features=Features(dense=False, lexical=True)))
    await gate.holds(2)
    await platform.prometheus.scraped(2)
    platform.qdrant.fault = None
    gate.open.set()
    await held


async def _break_qdrant(platform: Platform) -> None:
    """Qdrant fails until its breaker opens, and comes back; again if no call was retried before it did."""
    awaited = {"qdrant_circuit_breaker_open", "grpc_server_retried_total"}
    async with asyncio.timeout(2 * _SECONDS):
        while awaited:
            # gRPC's throttle allows retries only after some successes for each failure before.
            await platform.searches(_SUCCESSES, features=Features(dense=False, lexical=True))
            platform.qdrant.fault = failing(grpc.StatusCode.UNAVAILABLE, "gone")
            broken_until = time.monotonic() + _BROKEN_SECONDS
            while awaited and time.monotonic() < broken_until:
                await platform.searches(2, features=Features(dense=False, lexical=True))
                await asyncio.sleep(0.3)
                awaited = {series for series in awaited if not await platform.prometheus.total(series)}
            platform.qdrant.fault = None
            while isinstance((await platform.searches(1))[0], BaseException):
                await asyncio.sleep(0.5)


async def _freeze_reranker(platform: Platform) -> None:
    """The reranker answers nothing until the gateway's breaker for it opens, and then goes on."""
    reranker = platform.stack.pid("reranker")
    async with asyncio.timeout(2 * _SECONDS):
        os.kill(reranker, signal.SIGSTOP)
        try:
            while not await platform.prometheus.total("sluice_stage_breaker_open"):
                await platform.searches(3, timeout=_FROZEN_SECONDS, features=ALL_FEATURES)
        finally:
            os.kill(reranker, signal.SIGCONT)
        while await platform.prometheus.total("sluice_stage_breaker_open"):
            await platform.searches(1, features=ALL_FEATURES)


async def _mismatch(platform: Platform) -> None:
    """The live version becomes one of a model that no embedder serves, until the gateway has seen it."""
    model = model_pb2.ModelInfo(name="another-model", fingerprint=OTHER_MODEL, dimension=384, precision="fp32")
    created = await platform.retriever.CreateVersion(
        retriever_pb2.CreateVersionRequest(collection="documents", model=model), timeout=_SECONDS
    )
    version, live = created.version.version, created.live.version
    await platform.retriever.CompleteVersion(retriever_pb2.CompleteVersionRequest(version=version), timeout=_SECONDS)
    await _switch(platform, version)
    await _until(platform, "max(sluice_fingerprint_mismatch) == 1")
    await platform.searches(2)
    await platform.prometheus.scraped()
    await _switch(platform, live)
    await _until(platform, "max(sluice_fingerprint_mismatch) == 0")


async def _switch(platform: Platform, version: str) -> None:
    request = retriever_pb2.SwitchCollectionRequest(collection="documents", version=version)
    await platform.retriever.SwitchCollection(request, timeout=_SECONDS)


async def _until(platform: Platform, condition: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not await platform.prometheus.query(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} has not come true")
        await asyncio.sleep(0.5)


def query_hash(query: str) -> str:
    """Hash of a query, as the logs show it."""
    return hashlib.blake2b(query.encode(), key=QUERY_KEY.encode(), digest_size=16).hexdigest()


def _free_port() -> int:
    with reserve("127.0.0.1") as holder:
        port: int = holder.getsockname()[1]
        return port
