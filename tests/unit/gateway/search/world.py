"""Stages that answer from memory, so that each can be made to fail at will."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from services.chassis.errors import FailedPrecondition, SluiceError
from services.gateway.search.budgets import Budgets
from services.gateway.search.flags import Features
from services.gateway.search.order.ranking import Weights
from services.gateway.search.pipeline import Pipeline, StageObserver, Stages
from services.gateway.search.question import Question
from services.gateway.search.stages import (
    Answer,
    Candidate,
    Embedded,
    Expanded,
    QueryTokens,
    Reached,
    Reranked,
    Retrieved,
    SearchVariant,
    Stage,
    StageReport,
    Variant,
)
from sluice.type.v1 import filter_pb2, passage_pb2, relation_pb2, tokens_pb2
from tests.unit.gateway.samples import embedded, model, passage

QUESTION = Question(
    query="how do pools work",
    collection="docs",
    features=Features(expansion=True, rerank=True, rerank_method="cross_encoder", rerank_candidate_count=20),
    limit=3,
)
PASSAGES = [passage(str(number), f"title {number}", f"text {number}") for number in range(8)]


def keys(found: passage_pb2.Passage) -> passage_pb2.Passage:
    """A passage as the retriever names it without reading it."""
    return passage_pb2.Passage(id=found.id, document_id=found.document_id)


@dataclass
class World:
    """Four stages in memory, and a note of what they were asked."""

    expand_error: SluiceError | None = None
    embed_error: SluiceError | None = None
    variant_embed_error: SluiceError | None = None
    retrieve_error: SluiceError | None = None
    rerank_error: SluiceError | None = None
    pseudo: bool = False
    found: Sequence[passage_pb2.Passage] = field(default_factory=lambda: PASSAGES)
    searched: list[SearchVariant] = field(default_factory=list)
    fingerprint: str | None = None
    weights: tuple[float, float] | None = None
    reranked: list[str] = field(default_factory=list)
    time_for: int = 1000
    """Number of passages that the reranker scores by its deadline."""
    embedding: asyncio.Event = field(default_factory=asyncio.Event)
    expanding: asyncio.Event = field(default_factory=asyncio.Event)
    expand_waits_for: asyncio.Event | None = None
    """Instead of the embedding of the query."""
    embedding_tokens: asyncio.Event = field(default_factory=asyncio.Event)
    budgets: Budgets = field(default_factory=Budgets)
    deadline_seconds: float = 30.0
    model: str = "f00d"
    index_model: str = "f00d"
    switched_while_expanding: bool = False
    switches: int = 0
    """Number of switches of the collection just before it is searched."""
    index_version: str = "docs-v1"
    limits: list[int] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    variants: Sequence[str] = ("another way",)
    reranker: str = "cross"
    model_asked: str = ""
    like: str = ""
    diversified: list[tuple[list[str], float]] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    mark_error: SluiceError | None = None
    token_error: SluiceError | None = None
    late: Sequence[float] = ()
    """Scores of the first candidates by token vectors; the others have none."""
    compared: list[int] = field(default_factory=list)
    """Number of candidates to compare, for each search."""
    token_mismatches: int = 0
    related: Sequence[tuple[passage_pb2.Passage, float, float | None]] = ()
    """Passages that relations lead to, each with its score and that by token vectors."""
    hop_error: SluiceError | None = None
    hopped: list[tuple[int, list[str], bool]] = field(default_factory=list)
    """Hops, candidates, and true with tokens, for each following of relations."""

    async def expand(self, query: str, features: Features, *, deadline: float) -> Expanded:
        self.expanding.set()
        await asyncio.wait_for((self.expand_waits_for or self.embedding).wait(), 5)
        if self.expand_error:
            raise self.expand_error
        return Expanded([Variant(query, 1.0), *(Variant(text, 0.3) for text in self.variants)])

    def forget(self, collection: str) -> None:
        self.model = self.index_model

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        self.embedding.set()
        if self.embed_error:
            raise self.embed_error
        if self.variant_embed_error and QUESTION.query not in texts:
            raise self.variant_embed_error
        vectors = [text.encode() for text in texts]
        if QUESTION.query not in texts and self.switched_while_expanding:
            self.switched_while_expanding = False
            self.model = self.index_model = "beef"
        return embedded(vectors, model(self.model, pseudo=self.pseudo))

    async def embed_query_tokens(self, query: str, *, collection: str, deadline: float) -> QueryTokens:
        self.embedding_tokens.set()
        if self.token_error:
            raise self.token_error
        return QueryTokens(tokens_pb2.TokenVectors(values=query.encode(), row_count=1), model("70ce", "tokens"))

    def together(self) -> World:
        return self

    async def search(
        self,
        collection: str,
        variants: Sequence[SearchVariant],
        *,
        filter: filter_pb2.Filter,
        limit: int,
        whole: int,
        dense_weight: float,
        lexical_weight: float,
        model_fingerprint: str,
        model: str = "",
        like: str = "",
        tokens: QueryTokens | None = None,
        late_count: int = 0,
        deadline: float,
    ) -> Retrieved:
        if self.retrieve_error:
            raise self.retrieve_error
        self.model_asked, self.like = model, like
        if self.switches:
            self.switches -= 1
            self.index_model = f"model {self.switches}"
        if model_fingerprint and model_fingerprint != self.index_model:
            raise FailedPrecondition("other model", reason="MODEL_MISMATCH")
        if tokens is not None and self.token_mismatches:
            self.token_mismatches -= 1
            raise FailedPrecondition("other token model", reason="TOKEN_MODEL_MISMATCH")
        self.compared.append(late_count)
        self.searched = list(variants)
        self.fingerprint = model_fingerprint
        self.weights = (dense_weight, lexical_weight)
        self.limits.append(limit)
        candidates = [
            Candidate(
                one if rank < whole else keys(one),
                1.0 / (rank + 1),
                rank < whole,
                self.late[rank] if rank < min(late_count, len(self.late)) else None,
            )
            for rank, one in enumerate(self.found[:limit])
        ]
        return Retrieved(candidates, self.index_version)

    async def expand_relations(
        self,
        collection: str,
        query: str,
        candidates: Sequence[Candidate],
        *,
        filter: filter_pb2.Filter,
        hops: int,
        limit: int,
        tokens: QueryTokens | None = None,
        deadline: float,
    ) -> Reached:
        assert collection == self.index_version
        self.hopped.append((hops, [one.passage.id for one in candidates], tokens is not None))
        if self.hop_error:
            raise self.hop_error
        bridge = self.found[0]
        step = relation_pb2.RelationStep(kind=relation_pb2.RELATION_KIND_LINK, passage_id=bridge.id, key="x", weight=1)
        known = {one.passage.id for one in candidates}
        reached = [
            Candidate(keys(one) if one.id in known else one, score, True, late, (step,))
            for one, score, late in self.related
        ]
        return Reached(reached, {bridge.id: bridge}, followed_count=2, frequent_count=1)

    async def diversify(
        self, collection: str, ids: Sequence[str], scores: Sequence[float], diversity: float, *, deadline: float
    ) -> Sequence[int]:
        assert collection == self.index_version
        assert list(scores) == sorted(scores, reverse=True)
        self.diversified.append((list(ids), diversity))
        return list(range(len(ids)))[::-1]

    async def highlight(
        self, collection: str, query: str, texts: Sequence[str], *, deadline: float
    ) -> Sequence[Sequence[passage_pb2.Highlight]]:
        assert collection == self.index_version
        if self.mark_error:
            raise self.mark_error
        self.marked = [query, *texts]
        return [[passage_pb2.Highlight(start=0, end=len(text))] for text in texts]

    async def passages(
        self, collection: str, ids: Sequence[str], *, deadline: float
    ) -> AsyncIterator[passage_pb2.Passage]:
        known = {one.id: one for one in self.found}
        for identity in ids:
            if identity in known and identity not in self.deleted:
                self.read.append(identity)
                yield known[identity]

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        if self.rerank_error:
            raise self.rerank_error
        self.reranked = list(passages)[: self.time_for if partial else None]
        return Reranked([float(number) * 10 for number in range(len(self.reranked))], self.reranker, 3)

    async def answer(self, question: Question = QUESTION) -> Answer:
        return await self.pipeline().search(question, deadline=time.monotonic() + self.deadline_seconds)

    def pipeline(self, observe: StageObserver = lambda _features, _reports: None) -> Pipeline:
        weights = Weights(dense=1.0, lexical=0.67, late=1.0, rerank=1.0)
        return Pipeline(Stages(self, self, self, self), weights, self.budgets, observe)


def reports(answer: Answer) -> dict[Stage, StageReport]:
    return {report.stage: report for report in answer.reports}


def with_features(**features: object) -> Question:
    return replace(QUESTION, features=replace(QUESTION.features, **features))


def ids(answer: Answer) -> list[str]:
    return [result.passage.id for result in answer.results]
