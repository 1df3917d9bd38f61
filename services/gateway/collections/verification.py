"""Is a version what it should be? Counted, recomputed, asked for its own passages, and compared with the live one."""

from __future__ import annotations

import asyncio
import math
import random
from array import array
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol, TypeVar

from services.chassis.errors import SluiceError
from services.gateway.collections.embedders import Embedders
from services.gateway.search.stages import Passage, Retrieved, Retriever, SearchVariant

ResultT = TypeVar("ResultT")

SAMPLE = 64
# A vector computed again differs in its last digits only, whatever the batch, the backend and the device.
_LEAST_COSINE = 0.99
# Vectors this near are the same; passages with the same text have the same vector, and any of them may come first.
_TIE = 1e-4
_LEAST_FOUND = 0.98
# The same texts weighed by the same words are found in the same order but for ties.
_LEAST_OVERLAP = 0.8
_FIRST = 10
_QUERY_WORDS = 8
_MOST_QUERIES = 32
_AT_ONCE = 4
# While documents are being stored and deleted, the one count is taken a little before the other: so often, and with
# such pauses, until they meet.
_COUNTS, _PAUSE_SECONDS = 10, 0.1


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """A passage with its vector."""

    passage: Passage
    vector: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """Passages chosen by chance, and how many there are in all."""

    passages: Sequence[Sampled]
    count: int


class Versions(Retriever, Protocol):
    """Searched and sampled by the names of versions."""

    async def sample(self, collection: str, limit: int, *, deadline: float) -> Sample: ...  # noqa: D102

    async def get(self, collection: str, ids: Sequence[str], *, deadline: float) -> Sequence[Passage]: ...  # noqa: D102


class Verification:
    """Checks versions."""

    def __init__(self, versions: Versions, embedders: Embedders) -> None:
        self._versions = versions
        self._embedders = embedders

    async def verify(self, collection: str, version: str, *, sample_size: int = SAMPLE, deadline: float) -> list[Check]:
        """All checks of a version, and of how it compares with the live version of the collection."""
        counted, sample = await self._count(collection, version, sample_size, deadline)
        if not sample.passages:
            return [counted]
        readings = [sampled.passage.reading for sampled in sample.passages]
        embedded = await self._embedders.embed_documents(readings, collection=version, deadline=deadline)
        cosines = [
            _cosine(sampled.vector, vector) for sampled, vector in zip(sample.passages, embedded.vectors, strict=True)
        ]
        recomputed = Check(
            "SAMPLED_VECTORS",
            min(cosines) >= _LEAST_COSINE,
            f"{len(cosines)} computed again by {embedded.model}: cosine to what is stored at least {min(cosines):.4f}",
        )
        return [
            counted,
            recomputed,
            await self._find_themselves(version, sample, embedded.fingerprint, deadline),
            await self._overlap(collection, version, sample, deadline),
        ]

    async def _count(self, collection: str, version: str, size: int, deadline: float) -> tuple[Check, Sample]:
        counts: list[int] = []
        live_counts: list[int] = []
        while True:
            sample = await self._versions.sample(version, size, deadline=deadline)
            counts.append(sample.count)
            live_counts.append((await self._versions.sample(collection, 1, deadline=deadline)).count)
            # Both have been through the same numbers: as good as equal, for what changes all the while.
            same = min(counts) <= max(live_counts) and min(live_counts) <= max(counts)
            if same or len(counts) == _COUNTS:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        others = "as many as" if same else f"{live_counts[-1]:,} in"
        return Check("COUNT", same, f"{counts[-1]:,} passages, {others} the live version"), sample

    async def _find_themselves(self, version: str, sample: Sample, fingerprint: str, deadline: float) -> Check:
        async def found(sampled: Sampled) -> bool:
            candidates = (
                await self._versions.search(
                    version,
                    [SearchVariant("", sampled.vector, 1.0)],
                    filter=b"",
                    limit=_FIRST,
                    dense_weight=1.0,
                    lexical_weight=0.0,
                    model_fingerprint=fingerprint,
                    deadline=deadline,
                )
            ).candidates
            own = [candidate.score for candidate in candidates if candidate.passage.id == sampled.passage.id]
            ties = bool(candidates) and candidates[-1].score >= 1 - _TIE
            return ties or bool(own and own[0] >= candidates[0].score - _TIE)

        hits = await _few_at_once(found(sampled) for sampled in sample.passages)
        missed = [sampled.passage for sampled, hit in zip(sample.passages, hits, strict=True) if not hit]
        if missed:  # those that were written or deleted meanwhile prove nothing
            now = await self._versions.get(version, [passage.id for passage in missed], deadline=deadline)
            missed = [passage for passage in missed if passage in now]
        asked = sum(hits) + len(missed)
        return Check(
            "SELF_RETRIEVAL",
            sum(hits) >= _LEAST_FOUND * asked,
            f"{sum(hits)} of {asked} passages are found first by their own vector",
        )

    async def _overlap(self, collection: str, version: str, sample: Sample, deadline: float) -> Check:
        queries = [query for query in (_query(sampled.passage) for sampled in sample.passages) if query]
        queries = queries[:_MOST_QUERIES]

        async def words(name: str, query: str) -> Retrieved:
            return await self._versions.search(
                name,
                [SearchVariant(query, b"", 1.0)],
                filter=b"",
                limit=_FIRST,
                dense_weight=0.0,
                lexical_weight=1.0,
                model_fingerprint="",
                deadline=deadline,
            )

        async def vectors(name: str) -> list[Retrieved]:
            embedded = await self._embedders.embed_queries(queries, collection=name, deadline=deadline)
            return await _few_at_once(
                self._versions.search(
                    name,
                    [SearchVariant("", vector, 1.0)],
                    filter=b"",
                    limit=_FIRST,
                    dense_weight=1.0,
                    lexical_weight=0.0,
                    model_fingerprint=embedded.fingerprint,
                    deadline=deadline,
                )
                for vector in embedded.vectors
            )

        if not queries:
            return Check("OVERLAP", True, "the sampled passages have no words to ask for")
        by_words = _mean_overlap(
            await _few_at_once(words(collection, query) for query in queries),
            await _few_at_once(words(version, query) for query in queries),
        )
        try:
            by_vectors = f"{_mean_overlap(await vectors(collection), await vectors(version)):.0%}"
        except SluiceError as failed:
            by_vectors = f"not compared ({failed.reason})"
        return Check(
            "OVERLAP",
            by_words >= _LEAST_OVERLAP,
            f"of the first {_FIRST} results of {len(queries)} questions the live version gives the same: by words "
            f"{by_words:.0%}, by vectors {by_vectors}",
        )


def _query(passage: Passage) -> str:
    """Some words of a passage that follow one another."""
    words = passage.reading.split()
    start = random.randrange(max(1, len(words) - _QUERY_WORDS))  # noqa: S311  no secret
    query = " ".join(words[start : start + _QUERY_WORDS])
    return query if any(character.isalnum() for character in query) else ""


def _mean_overlap(some: Sequence[Retrieved], others: Sequence[Retrieved]) -> float:
    """How much of what the one finds the other finds, too; nothing in both is the same."""
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
