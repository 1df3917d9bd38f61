"""Verification of a version by counts, vectors and searches."""

from __future__ import annotations

import asyncio
import enum
import math
import random
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import TypeVar

from services.chassis.errors import SluiceError
from services.chassis.timing import both
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.store import Sample, Sampled, Store
from services.gateway.search.stages import EmbeddedTokens, Retrieved, SearchVariant, reading
from services.late.codes import similarity
from sluice.gateway.v1 import collections_pb2
from sluice.type.v1 import filter_pb2, passage_pb2, tokens_pb2

ResultT = TypeVar("ResultT")

DEFAULT_SAMPLE = 64
# A vector computed again differs in its last digits only, whatever the batch, the backend and the device.
_LEAST_COSINE = 0.99
# Token vectors are rounded to bytes, and groups of tokens may be divided otherwise where two ways are as good.
_LEAST_TOKEN_COSINE = 0.95
# Vectors this near are the same; passages with the same text have the same vector, and any of them may come first.
_TIE = 1e-4
_LEAST_FOUND = 0.98
# The same texts weighed by the same words are found in the same order but for ties.
_LEAST_OVERLAP = 0.8
_DEPTH = 10
_QUERY_WORDS = 8
_MOST_QUERIES = 32
_AT_ONCE = 4
# While documents are written, the two counts are of different moments: they are taken again until they meet.
_MOST_COUNTS = 10
_PAUSE_SECONDS = 0.1


class CheckKind(enum.Enum):
    """A check of a version."""

    COUNT = collections_pb2.VERSION_CHECK_KIND_COUNT
    SAMPLED_VECTORS = collections_pb2.VERSION_CHECK_KIND_SAMPLED_VECTORS
    SELF_RETRIEVAL = collections_pb2.VERSION_CHECK_KIND_SELF_RETRIEVAL
    OVERLAP = collections_pb2.VERSION_CHECK_KIND_OVERLAP
    SAMPLED_TOKENS = collections_pb2.VERSION_CHECK_KIND_SAMPLED_TOKENS


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check."""

    kind: CheckKind
    passed: bool
    detail: str

    def to_proto(self) -> collections_pb2.VersionCheck:
        """Write the result."""
        return collections_pb2.VersionCheck(kind=self.kind.value, passed=self.passed, detail=self.detail)


def some_words(passage: passage_pb2.Passage) -> str:
    """Choose some consecutive words of a passage; empty without letters and digits."""
    words = reading(passage).split()
    start = random.randrange(max(1, len(words) - _QUERY_WORDS))  # noqa: S311  no secret
    query = " ".join(words[start : start + _QUERY_WORDS])
    return query if any(character.isalnum() for character in query) else ""


class Verification:
    """Checks versions."""

    def __init__(
        self,
        store: Store,
        embedders: Embedders,
        query_of: Callable[[passage_pb2.Passage], str] = some_words,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        """`query_of` makes a query that a passage should answer; empty where it cannot."""
        self._store = store
        self._embedders = embedders
        self._query_of = query_of
        self._pause_seconds = pause_seconds

    async def verify(
        self, collection: str, version: str, *, sample_size: int = DEFAULT_SAMPLE, deadline: float
    ) -> list[Check]:
        """Check a version by what was written down, by its model, and against the live version if it is another."""
        counted, sample = await self._count(collection, version, sample_size, deadline)
        if not sample.passages:
            return [counted]
        texts = [reading(sampled.passage) for sampled in sample.passages]
        embedded, tokens = await both(
            self._embedders.embed_documents(texts, collection=version, deadline=deadline),
            self._embedders.embed_document_tokens(texts, collection=version, deadline=deadline),
        )
        least = min(
            _cosine(sampled.vector, vector) for sampled, vector in zip(sample.passages, embedded.vectors, strict=True)
        )
        recomputed = Check(
            CheckKind.SAMPLED_VECTORS,
            least >= _LEAST_COSINE,
            f"{len(texts)} computed again by {embedded.model.name}: cosine to what is stored at least {least:.4f}",
        )
        checks = [
            counted,
            recomputed,
            await self._self_retrieval(version, sample, embedded.model.fingerprint, deadline),
        ]
        if not await self._is_live(collection, version, deadline):
            checks.append(await self._overlap(collection, version, sample, deadline))
        if tokens is not None:
            checks.append(_sampled_tokens(sample, tokens))
        return checks

    async def _count(self, collection: str, version: str, size: int, deadline: float) -> tuple[Check, Sample]:
        counts: list[int] = []
        live_counts: list[int] = []
        while True:
            sample = await self._store.sample(version, size, deadline=deadline)
            counts.append(sample.count)
            live_counts.append((await self._store.sample(collection, 1, deadline=deadline)).count)
            # Both went through the same range of counts: as good as equal while documents are written.
            same = min(counts) <= max(live_counts) and min(live_counts) <= max(counts)
            if same or len(counts) == _MOST_COUNTS:
                break
            await asyncio.sleep(self._pause_seconds)
        detail = f"{counts[-1]:,} passages"
        if not await self._is_live(collection, version, deadline):
            others = "as many as" if same else f"{live_counts[-1]:,} in"
            detail += f", {others} the live version"
        # The count that was written down is forgotten with the first deletion, so there are at least as many.
        written = (await self._store.collection(version, deadline=deadline)).counted_passages
        if written:
            detail += f"; {written:,} were written down when it was complete or copied, and none was deleted since"
        else:
            detail += "; no number is written down to compare with (`sluice snapshot create` does so)"
        return Check(CheckKind.COUNT, same and counts[-1] >= written, detail), sample

    async def _is_live(self, collection: str, version: str, deadline: float) -> bool:
        return version == (await self._store.collection(collection, deadline=deadline)).version

    async def _self_retrieval(self, version: str, sample: Sample, fingerprint: str, deadline: float) -> Check:
        async def found(sampled: Sampled) -> bool:
            candidates = (await self._by_vector(version, sampled.vector, fingerprint, deadline)).candidates
            own = [candidate.score for candidate in candidates if candidate.passage.id == sampled.passage.id]
            ties = bool(candidates) and candidates[-1].score >= 1 - _TIE
            return ties or bool(own and own[0] >= candidates[0].score - _TIE)

        hits = await _few_at_once(found(sampled) for sampled in sample.passages)
        missed = [sampled.passage for sampled, hit in zip(sample.passages, hits, strict=True) if not hit]
        if missed:  # a passage that was written or deleted meanwhile proves nothing
            ids = [passage.id for passage in missed]
            now = [passage async for passage in self._store.passages(version, ids, deadline=deadline)]
            missed = [passage for passage in missed if passage in now]
        asked = sum(hits) + len(missed)
        return Check(
            CheckKind.SELF_RETRIEVAL,
            sum(hits) >= _LEAST_FOUND * asked,
            f"{sum(hits)} of {asked} passages are found first by their own vector",
        )

    async def _overlap(self, collection: str, version: str, sample: Sample, deadline: float) -> Check:
        queries = list(filter(None, (self._query_of(sampled.passage) for sampled in sample.passages)))[:_MOST_QUERIES]
        if not queries:
            return Check(CheckKind.OVERLAP, True, "the sampled passages have no words to ask for")

        async def by_words(name: str) -> list[Retrieved]:
            return await _few_at_once(self._by_words(name, query, deadline) for query in queries)

        async def by_vectors(name: str) -> list[Retrieved]:
            embedded = await self._embedders.embed_queries(queries, collection=name, deadline=deadline)
            return await _few_at_once(
                self._by_vector(name, vector, embedded.model.fingerprint, deadline) for vector in embedded.vectors
            )

        words = _mean_overlap(await by_words(collection), await by_words(version))
        try:
            vectors = f"{_mean_overlap(await by_vectors(collection), await by_vectors(version)):.0%}"
        except SluiceError as failed:
            vectors = f"not compared ({failed.reason})"
        analyzers = {await self._analyzer(name, deadline) for name in (collection, version)}
        return Check(
            CheckKind.OVERLAP,
            words >= _LEAST_OVERLAP or len(analyzers) > 1,
            f"of the first {_DEPTH} results of {len(queries)} questions the live version gives the same: by words "
            f"{words:.0%}, by vectors {vectors}" + ("; words are analysed otherwise now" if len(analyzers) > 1 else ""),
        )

    async def _analyzer(self, name: str, deadline: float) -> str:
        return (await self._store.collection(name, deadline=deadline)).lexical_settings.partition(",")[0]

    async def _by_words(self, name: str, query: str, deadline: float) -> Retrieved:
        return await self._search(name, SearchVariant(query, b"", 1.0), "", deadline)

    async def _by_vector(self, name: str, vector: bytes, fingerprint: str, deadline: float) -> Retrieved:
        return await self._search(name, SearchVariant("", vector, 1.0), fingerprint, deadline)

    async def _search(self, name: str, variant: SearchVariant, fingerprint: str, deadline: float) -> Retrieved:
        return await self._store.search(
            name,
            [variant],
            filter=filter_pb2.Filter(),
            limit=_DEPTH,
            whole=0,
            dense_weight=float(bool(variant.vector)),
            lexical_weight=float(bool(variant.text)),
            model_fingerprint=fingerprint,
            deadline=deadline,
        )


def _sampled_tokens(sample: Sample, made: EmbeddedTokens) -> Check:
    least = min(
        _mean_cosine(sampled.tokens, tokens) for sampled, tokens in zip(sample.passages, made.vectors, strict=True)
    )
    return Check(
        CheckKind.SAMPLED_TOKENS,
        least >= _LEAST_TOKEN_COSINE,
        f"token vectors of {len(made.vectors)} made again by {made.model.name}: mean cosine to what is stored at least "
        f"{least:.4f}",
    )


def _mean_cosine(stored: tokens_pb2.TokenVectors | None, made: tokens_pb2.TokenVectors) -> float:
    """Mean cosine of rows at the same place; 0 where there are not as many."""
    if stored is None or (stored.row_count, len(stored.values)) != (made.row_count, len(made.values)):
        return 0.0
    products: int = sum(map(mul, stored.values, made.values))
    return similarity(products, made.row_count, len(made.values) // made.row_count)


def _mean_overlap(some: Sequence[Retrieved], others: Sequence[Retrieved]) -> float:
    """Mean share of results that both have; 1 where both are empty."""
    shares = []
    for one, other in zip(some, others, strict=True):
        ids = {candidate.passage.id for candidate in one.candidates}
        also = {candidate.passage.id for candidate in other.candidates}
        shares.append(len(ids & also) / max(len(ids), len(also)) if ids or also else 1.0)
    return sum(shares) / len(shares)


def _cosine(one: bytes, other: bytes) -> float:
    first, second = array("f", one), array("f", other)
    if len(first) != len(second):
        return 0.0
    lengths = math.sqrt(sum(map(mul, first, first)) * sum(map(mul, second, second)))
    return sum(map(mul, first, second)) / lengths if lengths else 0.0


async def _few_at_once(calls: Iterable[Awaitable[ResultT]]) -> list[ResultT]:
    waiting = list(calls)
    results: list[ResultT] = []
    for start in range(0, len(waiting), _AT_ONCE):
        results += await asyncio.gather(*waiting[start : start + _AT_ONCE])
    return results
