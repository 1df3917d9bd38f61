"""Requests that are malformed, or very large."""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from deploy.local.processes import Process
from services.common.client import StageChannel
from sluice.embedder.v1 import embedder_pb2 as embedder
from sluice.expander.v1 import expander_pb2 as expander
from sluice.gateway.v1 import gateway_pb2 as gateway
from sluice.reranker.v1 import reranker_pb2 as reranker
from sluice.retriever.v1 import retriever_pb2 as retriever
from sluice_client import Document, SluiceClient, SluiceError
from tests.faults.drill import Group, Seen, ms
from tests.faults.mutation import decodable, mutated
from tests.faults.processes import LIGHT, StageProcess, running

# In all; 20,000 on each of the 38 methods are 760000, and take half an hour.
MESSAGES = int(os.environ.get("FAULT_MESSAGES", "20000"))
CONCURRENCY = 6
DIMENSION = 384
MIB = 2**20
LARGEST_BYTES = 16 * MIB


@dataclass(frozen=True)
class Platform:
    """The five stages, with one collection."""

    stages: Mapping[str, StageProcess]
    client: SluiceClient
    fingerprint: str


DOCUMENTS = [
    Document(f"d{number}", f"Volume {number}", f"The sea, the ship and the storm, part {number}.", {"year": number})
    for number in range(20)
]


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """All stages as processes; the reranker with its real model."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stages = {
            name: await stack.enter_async_context(running(name, LIGHT | {"QDRANT_PATH": str(Path(folder) / "qdrant")}))
            for name in ("embedder", "expander", "retriever", "reranker")
        }
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        stages["gateway"] = await stack.enter_async_context(running("gateway", LIGHT | addresses))
        client = await stack.enter_async_context(SluiceClient(stages["gateway"].address, timeout=20))
        await client.index(DOCUMENTS)
        config = await client.config()
        assert config.collection is not None
        yield Platform(stages, client, config.collection.model_fingerprint)


group: Group[Platform] = Group("requests", platform)


@dataclass(frozen=True)
class Rpc:
    """One method: a request that is well-formed, and what an OK must mean."""

    stage: str
    method: str
    valid: Message
    reply_type: type[Message]
    sense: Callable[[Any, Any], bool]
    """Whether the reply is one that this request may get; said of what was answered with OK."""

    @property
    def path(self) -> str:
        """The method's name on the wire."""
        return f"/sluice.{self.stage}.v1.{self.stage.capitalize()}Service/{self.method}"


def rpcs(fingerprint: str) -> list[Rpc]:
    """All methods of all stages."""
    vector = np.full(DIMENSION, 0.05, dtype="<f4").tobytes()
    value = gateway.Value(integer_value=3)
    condition = gateway.Condition(field="year", range=gateway.Range(gte=1))
    passage = retriever.Passage(id="p", title="t", text="sea", metadata={"year": retriever.Value(integer_value=3)})
    return [
        Rpc(
            "gateway", "Search",
            gateway.SearchRequest(
                query="sea", limit=3, collection="documents", filter=gateway.Filter(must=[condition]), user_id="u",
                features=gateway.Features(dense=True, lexical=True, expansion=True, max_variant_count=3, rerank=False),
                policies=gateway.StagePolicies(embedding=gateway.STAGE_POLICY_BEST_EFFORT),
            ),
            gateway.SearchResponse, _search_makes_sense,
        ),
        Rpc(
            "gateway", "IndexDocuments",
            gateway.IndexDocumentsRequest(
                collection="fuzz",
                documents=[gateway.Document(id="a", title="t", text="sea", metadata={"year": value}),
                           gateway.Document(id="b", text="ship")],
            ),
            gateway.IndexDocumentsResponse,
            lambda asked, said: _ids([document.id for document in asked.documents], 512) and _named(asked.collection)
            and all((document.title + document.text).strip() for document in asked.documents)
            and all(_is_value(value) for document in asked.documents for value in document.metadata.values())
            and said.indexed_count == len(asked.documents),
        ),
        Rpc(
            "gateway", "DeleteDocuments", gateway.DeleteDocumentsRequest(collection="fuzz", ids=["a", "b"]),
            gateway.DeleteDocumentsResponse,
            lambda asked, said: 1 <= len(asked.ids) <= 1000 and 0 <= said.deleted_count <= len(set(asked.ids)),
        ),
        Rpc(
            "gateway", "GetConfig", gateway.GetConfigRequest(collection="documents"), gateway.GetConfigResponse,
            lambda asked, said: len(said.stages) == 4 and _named(asked.collection),
        ),
        Rpc(
            "embedder", "EmbedTexts", embedder.EmbedTextsRequest(texts=["sea", "ship"], kind=embedder.TEXT_KIND_QUERY),
            embedder.EmbedTextsResponse,
            lambda asked, said: 1 <= len(asked.texts) <= 1024 and all(_text(text, 65_536) for text in asked.texts)
            and asked.kind in {1, 2} and asked.priority in {0, 1, 2}
            and said.row_count == len(asked.texts) == len(said.texts)
            and bool(np.isfinite(np.frombuffer(said.vectors, "<f4")).all())
            and len(said.vectors) == said.row_count * said.dimension * 4,
        ),
        Rpc(
            "embedder", "GetModel", embedder.GetModelRequest(), embedder.GetModelResponse,
            lambda _asked, said: bool(said.model.fingerprint),
        ),
        Rpc(
            "expander", "ExpandQuery",
            expander.ExpandQueryRequest(
                query="sea", strategy=expander.EXPANSION_STRATEGY_MULTI_QUERY, max_variant_count=3
            ),
            expander.ExpandQueryResponse,
            lambda asked, said: _text(asked.query, 8192) and asked.strategy in {0, 1, 2}
            and (not asked.HasField("max_variant_count") or 1 <= asked.max_variant_count <= 16)
            and said.variants[0].text == asked.query and all(0 < variant.weight <= 1 for variant in said.variants),
        ),
        Rpc(
            "reranker", "RerankPassages",
            reranker.RerankPassagesRequest(query="sea", passages=["ship", "storm"]),
            reranker.RerankPassagesResponse,
            lambda asked, said: _text(asked.query, 65_536) and 1 <= len(asked.passages) <= 1024
            and asked.priority in {0, 1, 2}
            and len(said.scores) == len(asked.passages) and all(map(math.isfinite, said.scores)),
        ),
        Rpc(
            "reranker", "GetModel", reranker.GetModelRequest(), reranker.GetModelResponse,
            lambda _asked, said: bool(said.model.fingerprint),
        ),
        Rpc(
            "retriever", "SearchPassages",
            retriever.SearchPassagesRequest(
                collection="documents", variants=[retriever.QueryVariant(text="sea", vector=vector, weight=1)],
                filter=retriever.Filter(must=[retriever.Condition(field="year", exists=True)]),
                limit=3, dense_weight=1, lexical_weight=1, model_fingerprint=fingerprint,
            ),
            retriever.SearchPassagesResponse,
            lambda asked, said: 1 <= len(asked.variants) <= 16 and 1 <= asked.limit <= 1000
            and all(len(one.vector) in {0, DIMENSION * 4} and _weight(one.weight) for one in asked.variants)
            and all(_finite(one.vector) for one in asked.variants)
            and _weight(asked.dense_weight) and _weight(asked.lexical_weight)
            and all(one.WhichOneof("test") for one in _conditions(asked.filter))
            and len(said.candidates) <= asked.limit and all(math.isfinite(one.score) for one in said.candidates),
        ),
        Rpc(
            "retriever", "UpsertPassages",
            retriever.UpsertPassagesRequest(
                collection="documents", passages=[retriever.PassageVector(passage=passage, vector=vector)],
                model_fingerprint=fingerprint,
            ),
            retriever.UpsertPassagesResponse,
            lambda asked, said: _ids([one.passage.id for one in asked.passages], 1000)
            and all(len(one.vector) == DIMENSION * 4 and _finite(one.vector) for one in asked.passages)
            and all(_is_value(value) for one in asked.passages for value in one.passage.metadata.values())
            and asked.model_fingerprint == fingerprint and said.upserted_count == len(asked.passages),
        ),
        Rpc(
            "retriever", "DeletePassages", retriever.DeletePassagesRequest(collection="documents", ids=["p", "q"]),
            retriever.DeletePassagesResponse,
            lambda asked, said: 1 <= len(asked.ids) <= 1000 and 0 <= said.deleted_count <= len(set(asked.ids)),
        ),
        Rpc(
            "retriever", "GetPassages", retriever.GetPassagesRequest(collection="documents", ids=["d1", "q"]),
            retriever.GetPassagesResponse,
            lambda asked, said: 1 <= len(asked.ids) <= 1000
            and len(said.passages) + len(said.missing_ids) == len(asked.ids),
        ),
        Rpc(
            "retriever", "CreateCollection",
            retriever.CreateCollectionRequest(
                collection="documents",
                model=retriever.CollectionModel(name="m", fingerprint="f", dimension=8, precision="fp32"),
            ),
            retriever.CreateCollectionResponse,
            lambda asked, said: _named(asked.collection) and bool(asked.model.fingerprint)
            and 1 <= asked.model.dimension <= 65_536 and said.collection.name == asked.collection,
        ),
        Rpc(
            "retriever", "GetCollection", retriever.GetCollectionRequest(collection="documents"),
            retriever.GetCollectionResponse,
            lambda asked, said: said.collection.name == asked.collection and _named(asked.collection),
        ),
        Rpc(
            "embedder", "SplitTexts",
            embedder.SplitTextsRequest(texts=[embedder.TitledText(title="t", text="sea " * 40)], chunk_tokens=16),
            embedder.SplitTextsResponse,
            lambda asked, said: len(said.texts) == len(asked.texts)
            and all(0 <= one.start <= one.end <= len(text.text)
                    for text, parts in zip(asked.texts, said.texts, strict=True) for one in parts.chunks),
        ),
        *_life(fingerprint, vector),
    ]  # fmt: skip


def _life(fingerprint: str, vector: bytes) -> list[Rpc]:
    """Versions and snapshots, of a collection of their own: mutants must not drop what the other methods need."""
    model = retriever.CollectionModel(name="m", fingerprint=fingerprint, dimension=DIMENSION, precision="fp32")
    copied = retriever.PassageCopy(
        passage=retriever.PassageVector(passage=retriever.Passage(id="p", text="sea"), vector=vector)
    )
    named: dict[str, dict[str, Any]] = {
        "ListCollections": {},
        "RollbackCollection": {"collection": "life", "version": "life-v1"},
        "ReindexCollection": {"collection": "life", "model": "m"},
        "VerifyCollection": {"collection": "life", "version": "life-v1", "sample_size": 3},
        "CreateVersion": {"collection": "life", "model": model},
        "ComparePassages": {"collection": "life", "version": "life-v1", "ids": ["p"], "page_size": 3},
        "CopyPassages": {"version": "life-v1", "passages": [copied], "model_fingerprint": fingerprint},
        "SamplePassages": {"collection": "life", "limit": 3},
        "CompleteVersion": {"version": "life-v1"},
        "AbandonVersion": {"version": "life-v1"},
        "SwitchCollection": {"collection": "life", "version": "life-v1"},
        "DropVersion": {"version": "life-v1"},
        "CreateSnapshot": {"collection": "life"},
        "ListSnapshots": {"collection": "life"},
        "RestoreSnapshot": {"collection": "life", "snapshot": "s"},
        "DeleteSnapshot": {"collection": "life", "snapshot": "s"},
    }
    return [
        Rpc(
            stage, method, getattr(module, f"{method}Request")(**fields), getattr(module, f"{method}Response"),
            lambda asked, _said: _named(getattr(asked, "collection", "")) and _named(getattr(asked, "version", "")),
        )
        for stage, module in (("gateway", gateway), ("retriever", retriever))
        for method, fields in named.items()
        if hasattr(module, f"{method}Request")
    ]  # fmt: skip


def _search_makes_sense(asked: Any, said: Any) -> bool:
    features, limit = asked.features, asked.limit if asked.HasField("limit") else 10
    dense = features.dense if features.HasField("dense") else True
    lexical = features.lexical if features.HasField("lexical") else True
    counts = (
        not features.HasField("max_variant_count") or 1 <= features.max_variant_count <= 16,
        not features.HasField("rerank_candidate_count") or 1 <= features.rerank_candidate_count <= 1000,
    )
    policies = (asked.policies.expansion, asked.policies.embedding, asked.policies.rerank)
    return (
        _text(asked.query, 8192)
        and 1 <= limit <= 100
        and (dense or lexical)
        and all(counts)
        and features.expansion_strategy in {0, 1, 2}
        and all(policy in {0, 1, 2} for policy in policies)
        and all(condition.WhichOneof("test") for condition in _conditions(asked.filter))
        and len(said.results) <= limit
        and all(result.rank == rank for rank, result in enumerate(said.results, start=1))
        and all(math.isfinite(result.score) for result in said.results)
        and len(said.stages) == 4
    )


def _conditions(asked: Any) -> list[Any]:
    return [*asked.must, *asked.should, *asked.must_not]


def _text(text: str, most_bytes: int) -> bool:
    return bool(text.strip()) and len(text.encode()) <= most_bytes


def _named(collection: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]{0,128}", collection) is not None


def _ids(ids: Sequence[str], most: int) -> bool:
    return 1 <= len(ids) <= most and len(set(ids)) == len(ids) and all(1 <= len(one.encode()) <= 512 for one in ids)


def _is_value(value: Any) -> bool:
    kind = value.WhichOneof("kind")
    return kind is not None and (kind != "float_value" or math.isfinite(value.float_value))


def _weight(weight: float) -> bool:
    return math.isfinite(weight) and weight >= 0


def _finite(raw: bytes) -> bool:
    return bool(np.isfinite(np.frombuffer(raw, "<f4")).all())


SOUND = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}


@group.row(
    f"{MESSAGES:,} malformed messages on every RPC",
    f"{MESSAGES:,} mutants (seeded) over all methods: what does not decode is INVALID_ARGUMENT; what does is "
    "answered with a canonical code; OK only where request and reply keep what the protos promise; no process dies "
    "or stops SERVING",
)
async def malformed(platform: Platform) -> Seen:
    methods = rpcs(platform.fingerprint)
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(StageChannel(stage.address))
            for name, stage in platform.stages.items()
        }

        async def send(rpc: Rpc, raw: bytes) -> None:
            call: Any = channels[rpc.stage].channel.unary_unary(rpc.path)
            asked = decodable(type(rpc.valid), raw)
            try:
                reply = await call(raw, timeout=20)
                code, details = "OK", ""
            except grpc.aio.AioRpcError as error:
                code, details = error.code().name, f" ({(error.details() or '')[:160]})"
            codes[code] += 1
            if asked is None:
                sound = code == "INVALID_ARGUMENT"
            else:
                too_large = code == "RESOURCE_EXHAUSTED" and len(raw) > LARGEST_BYTES
                sound = (code in SOUND or too_large) and (
                    code != "OK" or rpc.sense(asked, rpc.reply_type.FromString(reply))
                )
            if not sound:
                shown = str(asked)[:200].replace("\n", " ") if asked is not None else raw[:80].hex()
                wrong.append(f"{rpc.method}: {code}{details} for {shown}")

        async def worker(number: int) -> None:
            chance = random.Random(f"sluice {number}")
            for count in range(number, MESSAGES, CONCURRENCY):
                rpc = methods[count % len(methods)]
                await send(rpc, mutated(rpc.valid, chance))

        await asyncio.gather(*(worker(number) for number in range(CONCURRENCY)))
        alive = [name for name, stage in platform.stages.items() if stage.alive]
        unwell = [name for name in alive if await channels[name].health("", deadline=time.monotonic() + 5) is not None]
        for rpc in methods:
            codes_before = codes.copy()
            await send(rpc, rpc.valid.SerializeToString())
            codes = codes_before
    ok = not wrong and len(alive) == 5 and not unwell
    told = ", ".join(f"{count:,} {code}" for code, count in codes.most_common())
    words = (
        f"{codes.total():,} messages over {len(methods)} methods: {told}; {len(alive)} of 5 processes live and serve"
    )
    return Seen(ok, words + (f"; {len(wrong)} wrong, as {wrong[:3]}" if wrong else ""))


@group.row(
    "5 MiB and 50 MiB payloads",
    "5 MiB of documents are stored; 50 MiB are refused (RESOURCE_EXHAUSTED) and cost the gateway less than 100 MiB "
    "of memory; what comes next is served",
)
async def payloads(platform: Platform) -> Seen:
    gateway_process = platform.stages["gateway"]
    assert gateway_process.child is not None
    process = Process.of(gateway_process.child.pid)
    word = "storm surge at sea " * 512

    def documents(mebibytes: int) -> list[Document]:
        return [Document(f"big-{number}", "", word) for number in range(mebibytes * MIB // len(word))]

    started = time.monotonic()
    five = documents(5)
    stored = 0
    for start in range(0, len(five), 512):
        stored += (await platform.client.index(five[start : start + 512], collection="big")).count
    took = time.monotonic() - started
    before = process.resident_mib
    code = "OK"
    fifty = [Document(f"huge-{number}", "", "x" * (MIB // 2)) for number in range(100)]
    try:
        await platform.client.index(fifty, collection="big")
    except SluiceError as error:
        code = error.code.name
    grown = process.resident_mib - before
    after = await platform.client.search("storm", collection="big")
    ok = stored == len(five) and code == "RESOURCE_EXHAUSTED" and grown < 100 and bool(after.results)
    words = f"5 MiB: {stored} documents stored in {ms(took)}; 50 MiB: {code}, {grown:+.0f} MiB of memory"
    return Seen(ok, f"{words}; then {len(after.results)} results")
