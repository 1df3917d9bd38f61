"""Candidates of one question: deepened while too few results come of them, and read where their texts are needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from services.chassis.validation import MAX_TEXT_BYTES
from services.gateway.search.order.duplicates import Signature, collapse
from services.gateway.search.order.grouping import best_of_each
from services.gateway.search.order.ranking import Ranked
from services.gateway.search.question import Question
from services.gateway.search.results import Reader
from services.gateway.search.stages import Candidate, Reached, Retrieved, Retriever, reading
from sluice.type.v1 import passage_pb2

# Most candidates that paging and reranking reach.
MAX_CANDIDATES = 1000
DIVERSIFIED = 100
"""Candidates among which diversity is looked for; fixed, so that all pages have one order."""
FOLLOWED = 100
"""Candidates that relations are followed from; fixed for the same reason."""
REACHED = 50
"""First places among which a passage that relations lead to is taken; fixed for the same reason."""
# Characters of a bridge that the cross-encoder reads before a passage to which it leads.
_BRIDGE_CHARACTERS = 700
# Factor on the number of candidates where near-duplicates are collapsed, so that a page is full unless most are.
_COLLAPSED_REACH = 3
# Factor on the number of candidates where only the best chunk of a document counts, and each time that it is too low.
_DEEPER = 4
# Characters of texts that are compared at once in a worker thread.
_CHARACTERS_AT_ONCE = 1_000_000

Search = Callable[[int, int], Awaitable[Retrieved]]
"""Finds this many candidates, the first of them whole."""


class Candidates:
    """Candidates in the order of the first stage, which stays the same however many there are."""

    def __init__(self, question: Question, retriever: Retriever, deadline: float) -> None:
        self.items: list[Candidate] = []
        self.index_version = ""
        self.search_count = 0
        self._question = question
        self._retriever = retriever
        self._deadline = deadline
        self._limit = 0
        self._ended = False
        self._signatures: dict[str, Signature] = {}
        self._head: Sequence[int] | None = None
        self._bridges: Mapping[str, passage_pb2.Passage] = {}

    @property
    def scores(self) -> list[float]:
        """Scores of the first stage."""
        return [candidate.score for candidate in self.items]

    @property
    def late_scores(self) -> dict[int, float]:
        """Scores of those that were compared by token vectors, by their places."""
        return {
            place: candidate.late_score
            for place, candidate in enumerate(self.items)
            if candidate.late_score is not None
        }

    @property
    def related(self) -> bool:
        """True if relations have brought or moved candidates."""
        return any(item.path for item in self.items)

    async def find(self, search: Search, reranked: int, *, followed: bool = False) -> None:
        """Search as deep as the page, the reranking of so many and the following of relations are likely to need."""
        question = self._question
        reach = question.offset + question.limit
        if question.collapse_duplicates:
            reach *= _COLLAPSED_REACH
        if question.group_by_document:
            reach *= _DEEPER
        # One more than the page needs tells whether there is another page. It comes whole like the others: the
        # retriever reads passages and mere ids in separate trips.
        least = max(DIVERSIFIED if question.diversity else 0, FOLLOWED if followed else 0)
        limit = min(MAX_CANDIDATES, max(reach + 1, reranked, least))
        whole = max(reranked, 0 if question.offset else question.limit + 1)
        await self._search(search, limit, limit if question.collapse_duplicates else min(whole, limit))

    def reach(self, reached: Reached) -> None:
        """Put passages that relations lead to among the first candidates, by their scores."""
        known = {item.passage.id: item for item in self.items}
        moved = {}
        for found in reached.candidates:
            before = known.get(found.passage.id)
            if before is not None:
                late = before.late_score if found.late_score is None else found.late_score
                found = before._replace(score=found.score, path=found.path, late_score=late)  # noqa: PLW2901
            moved[found.passage.id] = found
        first = [item for item in self.items[:FOLLOWED] if item.passage.id not in moved]
        rest = [item for item in self.items[FOLLOWED:] if item.passage.id not in moved]
        self.items = sorted([*first, *moved.values()], key=lambda item: -item.score) + rest
        self._bridges = reached.bridges

    async def deepen(self, search: Search) -> bool:
        """Search deeper; False if there is nothing more to find."""
        if self._ended or self._limit >= MAX_CANDIDATES:
            return False
        await self._search(search, min(MAX_CANDIDATES, self._limit * _DEEPER), 0)
        return True

    async def read(self, places: Sequence[int]) -> AsyncIterator[tuple[int, passage_pb2.Passage]]:
        """Yield the passages at these places, whole and in order; one that was deleted meanwhile is left out."""
        reader = Reader(self._question, self._retriever, self.index_version, self._deadline)
        async for number, passage in reader.passages([self.items[place] for place in places]):
            yield places[number], passage

    async def head(self, count: int) -> list[str]:
        """Return the texts of the first candidates, and drop those of them that were deleted meanwhile."""
        places = range(min(count, len(self.items)))
        texts = {
            place: (self._lead(place) + reading(passage))[: MAX_TEXT_BYTES + 1]
            async for place, passage in self.read(places)
        }
        self.items = [item for place, item in enumerate(self.items) if place in texts or place not in places]
        return list(texts.values())

    def _lead(self, place: int) -> str:
        """Return the beginning of the passage that leads to a candidate: neither answers the question alone."""
        path = self.items[place].path
        bridge = self._bridges.get(path[-1].passage_id) if path else None
        return f"{reading(bridge)[:_BRIDGE_CHARACTERS]}\n" if bridge is not None else ""

    async def diversified(self, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
        """Put the head of a ranking in the order of the question's diversity, if it has any; keep the scores."""
        if not self._question.diversity or not ranked:
            return ranked
        if self._head is None:
            head = ranked[:DIVERSIFIED]
            order = await self._retriever.diversify(
                self.index_version,
                [self.items[item.position].passage.id for item in head],
                [item.score for item in head],
                self._question.diversity,
                deadline=self._deadline,
            )
            self._head = [head[place].position for place in order]
        items = {item.position: item for item in ranked}
        return [items.pop(position) for position in self._head] + list(items.values())

    async def reduced(self, ranked: Sequence[Ranked]) -> tuple[list[Ranked], list[int]]:
        """Keep what the question wants of a ranking, each with the number of near-duplicates that it stands for."""
        kept = list(ranked)
        if self._question.group_by_document:
            kept = best_of_each(kept, lambda item: self.items[item.position].passage.document_id)
        if not self._question.collapse_duplicates:
            return kept, [0] * len(kept)
        await self._sign([item.position for item in kept])
        kept = [item for item in kept if self.items[item.position].passage.id in self._signatures]
        signatures = [self._signatures[self.items[item.position].passage.id] for item in kept]
        # Hundreds of long passages would block the event loop.
        stands_for = await asyncio.to_thread(collapse, signatures)
        return [kept[place] for place in stands_for], list(stands_for.values())

    def signature(self, place: int) -> Signature | None:
        """Return the signature of a candidate that was looked at for near-duplicates."""
        return self._signatures.get(self.items[place].passage.id)

    async def _search(self, search: Search, limit: int, whole: int) -> None:
        found = await search(limit, whole)
        known = {candidate.passage.id for candidate in self.items}
        self.items += [candidate for candidate in found.candidates if candidate.passage.id not in known]
        self.index_version = found.index_version
        self.search_count = found.search_count
        self._limit, self._ended = limit, len(found.candidates) < limit

    async def _sign(self, places: Sequence[int]) -> None:
        """Make the signatures of passages, and forget their texts."""
        ids: list[str] = []
        texts: list[str] = []

        async def sign() -> None:
            made = await asyncio.to_thread(lambda: [Signature.of(text) for text in texts])
            self._signatures |= zip(ids, made, strict=True)
            ids.clear()
            texts.clear()

        unsigned = [place for place in places if self.items[place].passage.id not in self._signatures]
        async for _, passage in self.read(unsigned):
            ids.append(passage.id)
            texts.append(reading(passage))
            if sum(map(len, texts)) > _CHARACTERS_AT_ONCE:
                await sign()
        await sign()
