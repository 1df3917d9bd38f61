"""Results of one page: read whole, as many as a message holds, and their sentences named.

An order of results comes first, as `Entry`s whose passages may not be read yet. Only those of the page are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from services.gateway.search.order.calibration import relevance
from services.gateway.search.question import Question
from services.gateway.search.stages import Candidate, Result, Retriever
from sluice.type.v1 import passage_pb2

HIGHLIGHTED_CHARACTERS = 16_384
"""Characters of a result in which highlights are looked for."""


class Entry(NamedTuple):
    """A place in the final order."""

    found: Candidate
    score: float
    """Final score."""
    retrieval_rank: int
    logit: float | None
    """The cross-encoder's score."""
    duplicate_count: int = 0
    team: int = 0

    def result(self, passage: passage_pb2.Passage, rank: int) -> Result:
        """Make the result of its passage."""
        return Result(
            passage=passage,
            score=self.score,
            rank=rank,
            retrieval_score=self.found.score,
            retrieval_rank=self.retrieval_rank,
            rerank_score=self.logit,
            duplicate_count=self.duplicate_count,
            late_score=self.found.late_score,
            relevance=relevance(self.found.late_score, self.logit),
            path=self.found.path,
            team=self.team,
        )


class Reader:
    """Reads passages of one version of a collection for one question."""

    def __init__(self, question: Question, retriever: Retriever, index_version: str, deadline: float) -> None:
        self._question = question
        self._retriever = retriever
        self._index_version = index_version
        self._deadline = deadline

    async def passages(self, candidates: Sequence[Candidate]) -> AsyncIterator[tuple[int, passage_pb2.Passage]]:
        """Yield the passages of candidates, whole, with their places; one that was deleted meanwhile is left out."""
        lacking = [candidate.passage.id for candidate in candidates if not candidate.whole]
        reading_on = self._retriever.passages(self._index_version, lacking, deadline=self._deadline)
        following = await anext(reading_on, None) if lacking else None
        for place, candidate in enumerate(candidates):
            if candidate.whole:
                yield place, candidate.passage
            elif following is not None and following.id == candidate.passage.id:
                yield place, following
                following = await anext(reading_on, None)

    async def page(self, entries: Sequence[Entry], *, more: bool, most_bytes: int) -> tuple[list[Result], int | None]:
        """Read the entries of the question's page; return the results, and the offset of the next page if there is one.

        At least one is read, and then as many as there is room for.
        """
        offset = self._question.offset
        results: list[Result] = []
        size = 0
        async for place, passage in self.passages([entry.found for entry in entries]):
            size += passage.ByteSize()
            if results and size > most_bytes:
                return results, offset + place
            results.append(entries[place].result(passage, offset + place + 1))
        return results, offset + len(entries) if more else None

    async def highlighted(self, results: list[Result]) -> list[Result]:
        """Name the sentences of results that have most of the query's words, where the question asks for them."""
        if not (self._question.highlights and self._question.query and results):
            return results
        texts = [result.passage.text[:HIGHLIGHTED_CHARACTERS] for result in results]
        found = await self._retriever.highlight(
            self._index_version, self._question.query, texts, deadline=self._deadline
        )
        return [result._replace(highlights=highlights) for result, highlights in zip(results, found, strict=True)]
