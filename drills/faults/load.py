"""More callers, or larger messages, than the machine can serve at once."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from drills.faults.drill import Group, Seen
from drills.faults.replicas import words_for
from drills.faults.small_inputs import watched
from drills.parts.flood import passage
from drills.parts.large import filled, methods, send_all
from drills.parts.processes import StageProcess, running
from services.chassis.client import StageChannel
from sluice.embedder.v1 import embedder_pb2
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.reranker.v1 import reranker_pb2
from sluice.retriever.v1 import retriever_pb2
from sluice_client import AsyncClient, Document, SluiceError

MIB = 2**20
PASSAGES = 400
ANSWERED = 0.99
WANTED_THROUGHPUT = 0.95
MESSAGES = 64
LIMITS_MIB = {
    "gateway": 512,
    "retriever": 768,
    "embedder": 2304,
    "reranker": 2048,
    "expander": 512,
    "reasoner": 512,
    "rollout": 512,
}
"""Memory limits of deploy/k8s/base."""
HEALTH_SECONDS = 1.0
REFUSED = {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"}
"""Codes with which a stage may refuse the largest messages, or not get to them in time."""


@dataclass(frozen=True)
class Platform:
    """All stages, each with the memory that the manifests give it."""

    stages: Mapping[str, StageProcess]
    client: AsyncClient
    folder: Path


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Stages over a small index."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        environment = {
            "QDRANT_PATH": str(folder / "qdrant"),
            "QDRANT_SNAPSHOT_PATH": str(folder / "snapshots"),
            "ROLLOUT_DATABASE_URL": f"sqlite:///{folder / 'rollout.db'}",
            "RERANKING_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
        }
        stages: dict[str, StageProcess] = {}
        for name, mebibytes in reversed(LIMITS_MIB.items()):
            addresses = {
                f"{known.upper()}_ADDRESS": stage.address for known, stage in stages.items() if known != "rollout"
            }
            stages[name] = await stack.enter_async_context(
                running(name, environment | addresses | {"MEMORY_MIB": str(mebibytes)})
            )
        client = await stack.enter_async_context(AsyncClient(stages["gateway"].address))
        documents = (Document(f"d{number}", "", f"{passage(40)} {number}") for number in range(PASSAGES))
        await client.index_all(documents, collection="load")
        yield Platform(stages, client, folder)


group: Group[Platform] = Group("load", platform)
_numbers = itertools.count()


async def ask(client: AsyncClient, seconds: float) -> str:
    """Ask what no one asked before."""
    try:
        await client.search(f"{passage(5)} {next(_numbers)}", collection="load", timeout=seconds)
    except SluiceError as error:
        return f"{error.code.name} {error.reason}"
    return "OK"


async def closed_loop(client: AsyncClient, callers: int, seconds: float, deadline: float) -> tuple[Counter[str], float]:
    """Callers of whom each asks again once it was answered: the outcomes, and answers a second."""
    ended: Counter[str] = Counter()
    began = time.monotonic()

    async def caller() -> None:
        while time.monotonic() - began < seconds:
            ended[await ask(client, deadline)] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return ended, ended["OK"] / (time.monotonic() - began)


@group.row("100 queries at once", "with deadlines of 10 s: at least 99 of 100 are answered, five times")
async def at_once(platform: Platform) -> Seen:
    ended: Counter[str] = Counter()
    for _ in range(5):
        ended.update(await asyncio.gather(*(ask(platform.client, 10) for _ in range(100))))
    return Seen(ended["OK"] >= ANSWERED * 500, words_for(ended))


@group.row(
    "64 callers",
    "in a closed loop, with deadlines of 5 s: at least 99 % are answered, and at least .95 as many a second as with "
    "the best number of callers",
)
async def sixty_four(platform: Platform) -> Seen:
    await closed_loop(platform.client, 8, 5, 5)
    rates: dict[int, list[float]] = {4: [], 16: [], 64: []}
    ended: Counter[str] = Counter()
    for _ in range(3):
        for callers, seen in rates.items():
            outcomes, rate = await closed_loop(platform.client, callers, 5, 5)
            seen.append(rate)
            if callers == max(rates):
                ended += outcomes
    middle = {callers: sorted(seen)[1] for callers, seen in rates.items()}
    share = middle[64] / max(middle.values())
    answered = ended["OK"] / ended.total()
    told = ", ".join(f"{rate:.0f}/s with {callers}" for callers, rate in middle.items())
    return Seen(
        answered >= ANSWERED and share >= WANTED_THROUGHPUT, f"{answered:.1%} answered ({words_for(ended)}); {told}"
    )


def _search() -> bytes:
    """A search with a filter that nearly fills a message."""
    request = search_pb2.SearchRequest(query="x", collection="load")
    for number in range(100_000):
        request.filter.must.add(field="f").equals.integer_value = number
    for _ in range(6_500):
        request.filter.must.add(field="f" * 120).equals.string_value = "y" * 2_000
    return request.SerializeToString()


def _index() -> bytes:
    """A legal batch of long documents."""
    documents = [documents_pb2.Document(id=f"d{i}", text=(f"w{i} " * 8_000)[:30_000]) for i in range(512)]
    collection = f"large-{secrets.token_hex(3)}"
    return documents_pb2.IndexDocumentsRequest(collection=collection, documents=documents).SerializeToString()


def _embed() -> bytes:
    texts = [(f"w{i} " * 8_000)[:30_000] for i in range(520)]
    return embedder_pb2.EmbedTextsRequest(texts=texts, kind=embedder_pb2.TEXT_KIND_DOCUMENT).SerializeToString()


def _embed_tokens() -> bytes:
    return embedder_pb2.EmbedTokensRequest.FromString(_embed()).SerializeToString()


def _split() -> bytes:
    texts = [embedder_pb2.TitledText(text=(f"w{i} " * 8_000)[:30_000]) for i in range(520)]
    return embedder_pb2.SplitTextsRequest(texts=texts).SerializeToString()


def _rerank() -> bytes:
    passages = [(f"w{i} " * 8_000)[:16_000] for i in range(980)]
    return reranker_pb2.RerankPassagesRequest(query="x", passages=passages).SerializeToString()


def _retrieve() -> bytes:
    request = retriever_pb2.SearchPassagesRequest(collection="load", limit=10, lexical_weight=1)
    request.variants.add(text="x", weight=1)
    request.filter.CopyFrom(search_pb2.SearchRequest.FromString(_search()).filter)
    return request.SerializeToString()


LARGEST = {
    ("gateway", "/sluice.gateway.v1.SearchService/Search"): _search,
    ("gateway", "/sluice.gateway.v1.DocumentService/IndexDocuments"): _index,
    ("retriever", "/sluice.retriever.v1.RetrieverService/SearchPassages"): _retrieve,
    ("embedder", "/sluice.embedder.v1.EmbedderService/EmbedTexts"): _embed,
    ("embedder", "/sluice.embedder.v1.EmbedderService/EmbedTokens"): _embed_tokens,
    ("embedder", "/sluice.embedder.v1.EmbedderService/SplitTexts"): _split,
    ("reranker", "/sluice.reranker.v1.RerankerService/RerankPassages"): _rerank,
}


@group.row(
    "64 largest messages at the shipped memory limits",
    "64 messages of about 14 to 16 MiB at once, to each RPC that takes such: no stage dies or needs more than its "
    "limit; what is not served is refused with MEMORY_BUDGET or another named reason; then all is well",
    longest_seconds=900.0,
)
async def largest(platform: Platform) -> Seen:
    words, ok = [], True
    for (name, method), make in LARGEST.items():
        stage, raw = platform.stages[name], make()
        ended = Counter(await asyncio.gather(*(_send(stage.address, method, raw) for _ in range(MESSAGES))))
        peak = _peak_mib(stage)
        async with StageChannel(stage.address) as channel:
            problem = await channel.health("", deadline=time.monotonic() + 10)
        ok = ok and stage.alive and problem is None and peak < LIMITS_MIB[name]
        words.append(f"{method.rpartition('/')[2]} of {len(raw) / MIB:.1f} MiB: {words_for(ended)}, {peak:.0f} MiB")
    after = Counter(await asyncio.gather(*(ask(platform.client, 10) for _ in range(20))))
    return Seen(ok and after["OK"] == 20, "; ".join(words) + f"; then {words_for(after)}")


@group.row(
    "64 largest messages to every RPC",
    "15 MiB of content in whatever fields hold much, 64 at once, to each RPC of each stage with the memory that the "
    "manifests give it: no stage dies or needs more than its limit, health says SERVING within 1 s all the while, and "
    "then all is well",
    longest_seconds=3600.0,
)
async def largest_of_all(platform: Platform) -> Seen:
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    slowest, asked, sent = 0.0, 0, 0
    for path, (name, request) in methods().items():
        stage, raw = platform.stages[name], filled(request)
        if len(raw) < MIB:
            continue
        sent += 1
        async with watched(stage.address) as health:
            outcomes = await send_all(stage.address, path, MESSAGES, raw, platform.folder)
            await asyncio.sleep(0.2)
        ended += outcomes
        asked, slowest = asked + health.asked, max(slowest, health.slowest)
        peak = _peak_mib(stage) if stage.alive else 0
        odd = set(outcomes) - REFUSED - {"OK"}
        if odd or not stage.alive or health.failed or health.slowest > HEALTH_SECONDS or peak > LIMITS_MIB[name]:
            told = f"health {health.failed} failed, slowest {health.slowest:.2f} s, {peak:.0f} MiB"
            wrong.append(f"{path.rpartition('/')[2]} of the {name}: {words_for(outcomes)}; {told}")
    after = Counter(await asyncio.gather(*(ask(platform.client, 10) for _ in range(20))))
    words = f"{sent} RPCs: {words_for(ended)}; health {asked} times, slowest {slowest:.2f} s; then {words_for(after)}"
    return Seen(not wrong and after["OK"] == 20, "; ".join([words, *wrong[:10]]))


async def _send(address: str, method: str, raw: bytes) -> str:
    """Send a message on a connection of its own; the outcome."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        try:
            call: Any = channel.unary_unary(method)
            await call(raw, timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


def _peak_mib(stage: StageProcess) -> float:
    """The most memory that a process ever used."""
    assert stage.child is not None
    lines = Path(f"/proc/{stage.child.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
