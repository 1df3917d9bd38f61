"""Outputs of the stages for a collection, computed once and kept: vectors, variants, reranker scores.

Everything that is dear to compute and does not depend on any weight. It lies below build/bench/quality/evidence and is
added to as it comes in, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from bench.quality.beir import Dataset
from bench.quality.kept import Kept
from deploy.local import LocalStack
from services.chassis.client import StageChannel
from services.experiment.flags import FLAGS
from services.gateway.rpc.model_clients import EmbedderClient, ExpanderClient, RerankerClient
from services.gateway.search.flags import Features
from services.gateway.search.stages import reading
from sluice.type.v1 import passage_pb2

Vectors = npt.NDArray[np.float32]

_PATIENCE_SECONDS = 300.0
_MOST_VARIANTS = 5
_SLICE = 64


class Rewording(NamedTuple):
    """A variant of a query, with the weight that the expander gave it."""

    text: str
    weight: float


@dataclass(frozen=True)
class Evidence:
    """Everything about one collection."""

    dataset: Dataset
    readings: Sequence[str]
    """Text of each document as models read it."""
    documents: Vectors
    vectors: Mapping[str, npt.NDArray[np.float32]]
    """By text, of all queries and variants."""
    variants: Mapping[str, Mapping[str, Sequence[Rewording]]]
    """By query, without the query itself."""


class Stages:
    """A stack that starts when it is first needed: once all is kept, it never is. An asynchronous context manager."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._exits = AsyncExitStack()
        self._started = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    @asynccontextmanager
    async def channel(self, stage: str) -> AsyncIterator[StageChannel]:
        """To one stage."""
        if not self._started:
            await self._exits.enter_async_context(self._stack)
            self._started = True
        async with StageChannel(self._stack.address(stage)) as channel:
            yield channel


class Collector:
    """Asks the running stages. One for each collection."""

    def __init__(self, dataset: Dataset, folder: Path, stages: Stages, progress: Progress) -> None:
        self._dataset = dataset
        self._folder = folder / f"{dataset.name}.{dataset.split}"
        self._stages = stages
        self._progress = progress
        self._readings = [
            reading(passage_pb2.Passage(title=document.title, text=document.text)) for document in dataset.documents
        ]

    async def collect(self) -> Evidence:
        """Vectors and variants."""
        variants = {strategy: await self._variants(strategy) for strategy in FLAGS["expansion_strategy"].choices}
        texts = list(self._dataset.queries.values())
        texts += [each.text for found in variants.values() for rewordings in found.values() for each in rewordings]
        distinct = list(dict.fromkeys(texts))
        vectors = await self._vectors("queries", distinct)
        return Evidence(
            dataset=self._dataset,
            readings=self._readings,
            documents=await self._vectors("documents", self._readings),
            vectors=dict(zip(distinct, vectors, strict=True)),
            variants=variants,
        )

    async def rerank(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, dict[int, float]]:
        """The cross-encoder's scores for documents (by place), by query."""
        kept = Kept(self._folder / "rerank.jsonl", self._dataset.digest)
        scores: dict[str, dict[int, float]] = {query: {} for query in wanted}
        for line in kept.lines:
            if line["query"] in scores:
                scores[line["query"]] |= dict(zip(line["documents"], line["scores"], strict=True))
        missing = {
            query: [document for document in documents if document not in scores[query]]
            for query, documents in wanted.items()
        }
        missing = {query: documents for query, documents in missing.items() if documents}
        if not missing:
            return scores
        async with self._stages.channel("reranker") as channel:
            reranker = RerankerClient(channel)
            for query, documents in self._progress.track(missing.items(), description=f"{self._dataset.name}: rerank"):
                answer = await reranker.rerank(
                    self._dataset.queries[query],
                    [self._readings[document] for document in documents],
                    deadline=time.monotonic() + _PATIENCE_SECONDS,
                )
                scores[query] |= dict(zip(documents, answer.scores, strict=True))
                kept.add(query=query, documents=documents, scores=list(answer.scores))
        return scores

    async def _variants(self, strategy: str) -> dict[str, list[Rewording]]:
        kept = Kept(self._folder / f"{strategy}.jsonl", self._dataset.digest)
        found = {line["query"]: [Rewording(*each) for each in line["variants"]] for line in kept.lines}
        missing = [query for query in self._dataset.queries if query not in found]
        if missing:
            async with self._stages.channel("expander") as channel:
                expander = ExpanderClient(channel)
                for query in missing:
                    expanded = await expander.expand(
                        self._dataset.queries[query],
                        Features(expansion_strategy=strategy, max_variant_count=_MOST_VARIANTS),
                        deadline=time.monotonic() + _PATIENCE_SECONDS,
                    )
                    found[query] = [Rewording(each.text, each.weight) for each in expanded.variants[1:]]
                    kept.add(query=query, variants=found[query])
        return {query: found[query] for query in self._dataset.queries}

    async def _vectors(self, name: str, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts, in one growing file."""
        key = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        kept = Kept(self._folder / f"{name}.jsonl", key)
        rows = [base64.b64decode(vector) for line in kept.lines for vector in line["vectors"]]
        if len(rows) < len(texts):
            async with self._stages.channel("embedder") as channel:
                embedder = EmbedderClient(channel)
                starts = range(len(rows), len(texts), _SLICE)
                for start in self._progress.track(starts, description=f"{self._dataset.name}: {name}"):
                    answer = await embedder.embed_documents(
                        texts[start : start + _SLICE], deadline=time.monotonic() + _PATIENCE_SECONDS
                    )
                    rows += answer.vectors
                    kept.add(vectors=[base64.b64encode(vector).decode() for vector in answer.vectors])
        vectors = np.frombuffer(b"".join(rows), np.float32).reshape(len(texts), -1)
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit
