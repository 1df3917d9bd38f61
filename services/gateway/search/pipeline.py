"""The graph of stages from a question to ranked passages.

    query ─┬─▶ embed ──────────────┬─▶ retrieve ─▶ hop ─▶ rerank ─▶ blend
           ├─▶ embed tokens ───────┤
           └─▶ expand ─▶ embed ────┘

The query is embedded while it is being expanded; its variants join when they are made; all of them go to the
retriever in one call, with the vectors of the query's tokens where it is to compare them. A stage that is BEST_EFFORT
and fails is left out, and its report says so.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.chassis.errors import FailedPrecondition, InvalidArgument, SluiceError
from services.chassis.timing import both
from services.gateway.search.budgets import Budgets, last_moment
from services.gateway.search.candidates import Candidates
from services.gateway.search.flags import Features
from services.gateway.search.hopping import Hopping
from services.gateway.search.order.enrichment import FIRST, enrichment_score
from services.gateway.search.order.ranking import Ranked, Weights
from services.gateway.search.question import Course, Policy, Question
from services.gateway.search.reports import (
    AS_BEFORE,
    CALLER_VECTOR,
    NO_QUERY,
    Attempts,
    Done,
    changed,
    embedding_report,
    failed,
    ran,
    without_highlights,
)
from services.gateway.search.reranking import Reranking
from services.gateway.search.results import Entry, Reader
from services.gateway.search.stages import (
    Answer,
    Candidate,
    Embedded,
    Embedder,
    Expander,
    Outcome,
    QueryTokens,
    Reranker,
    Retrieved,
    Retriever,
    SearchVariant,
    Stage,
    StageReport,
    Variant,
    digest_of,
)

WorkT = TypeVar("WorkT")
StageObserver = Callable[[Features, Sequence[StageReport]], None]

# Most tries of a search that switches to another model overtake.
_MOST_TRIES = 6
# Bytes of results on a page of more than one, by default: messages have a limit.
PAGE_BYTES = 12 * 2**20


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages behind the gateway."""

    expander: Expander
    embedder: Embedder
    retriever: Retriever
    reranker: Reranker


class Pipeline:
    """Answers questions with the stages; it keeps their pace between requests."""

    def __init__(
        self,
        stages: Stages,
        weights: Weights,
        budgets: Budgets,
        observe: StageObserver = lambda _features, _reports: None,
        *,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        """`observe` takes the reports of all searches, failed and cancelled ones too."""
        self._page_bytes = page_bytes
        self._stages = stages
        self._weights = weights
        self._budgets = budgets
        self._observe = observe

    async def search(self, question: Question, *, deadline: float) -> Answer:
        """Answer one question by a deadline on the monotonic clock.

        Raises the error of a required stage; failures of the others are in the answer's reports.
        """
        return await self._tried(_Run.answer, question, self._stages, deadline)

    async def rank(self, question: Question, stages: Stages, *, deadline: float) -> Ranking:
        """Order the results as `search` does, by other stages, and read none of them."""
        return await self._tried(_Run.rank, question, stages, deadline)

    @property
    def stages(self) -> Stages:
        """The stages behind it."""
        return self._stages

    async def _tried(
        self, work: Callable[[_Run], Awaitable[WorkT]], question: Question, stages: Stages, deadline: float
    ) -> WorkT:
        for tries_left in reversed(range(_MOST_TRIES)):
            run = _Run(stages, self._weights, self._budgets, question, deadline, self._page_bytes)
            try:
                return await work(run)
            except FailedPrecondition as error:
                overtaken = error.reason in ("MODEL_MISMATCH", "TOKEN_MODEL_MISMATCH")
                # No other try makes a caller's vector one of another model.
                of_caller = error.reason == "MODEL_MISMATCH" and question.vector is not None
                if not overtaken or not tries_left or of_caller:
                    raise
            finally:
                self._observe(question.features, list(run.attempts.reports.values()))
            # The collection was switched to another model between the embedding and the search.
            stages.embedder.forget(question.collection)
        raise AssertionError("the last try answers or raises")


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of the results of one question, as deep as its page, and all that is needed to read them."""

    question: Question
    retriever: Retriever
    candidates: Candidates
    kept: Sequence[Ranked]
    """Results, best first."""
    duplicates: Sequence[int]
    """Number of near-duplicates that each of them stands for."""
    logits: Mapping[int, float]
    course: Course
    attempts: Attempts
    page_bytes: int

    def entry(self, place: int, team: int = 0) -> Entry:
        """Return a place of the order."""
        position, score = self.kept[place]
        found = self.candidates.items[position]
        return Entry(found, score, position + 1, self.logits.get(position), self.duplicates[place], team)

    async def answer(self, last_moment: float) -> Answer:
        """Read the question's page."""
        last = self.question.offset + self.question.limit
        entries = [self.entry(place) for place in range(self.question.offset, min(last, len(self.kept)))]
        first = [self.candidates.items[item.position] for item in self.kept[:FIRST]]
        return await self.page(entries, last_moment, more=len(self.kept) > last, score=self.score(first))

    def score(self, first: Sequence[Candidate]) -> float | None:
        """Return the enrichment score of an answer that begins with these."""
        return enrichment_score(self.candidates.items, first) if self.course.hops else None

    async def page(self, entries: Sequence[Entry], last_moment: float, *, more: bool, score: float | None) -> Answer:
        """Read the entries of the question's page."""
        reader = Reader(self.question, self.retriever, self.course.index_version, last_moment)
        results, following = await reader.page(entries, more=more, most_bytes=self.page_bytes)
        try:
            results = await reader.highlighted(results)
        except SluiceError as failure:  # the answer is no worse
            self.attempts.report(without_highlights(self.attempts.reports[Stage.RETRIEVE], failure))
        return Answer(results, list(self.attempts.reports.values()), self.course, following, score)


class _Run:
    """One question on its way through the stages."""

    def __init__(
        self,
        stages: Stages,
        weights: Weights,
        budgets: Budgets,
        question: Question,
        deadline: float,
        page_bytes: int,
    ) -> None:
        self._stages = stages
        self._weights = weights
        self._budgets = budgets
        self._question = question
        self._features = question.features
        self._course = question.course
        self._page_bytes = page_bytes
        self.attempts = Attempts(question.course, last_moment(time.monotonic(), deadline))

    async def answer(self) -> Answer:
        return await (await self.rank()).answer(self.attempts.last_moment)

    async def rank(self) -> Ranking:
        stages = self._stages
        reranking = Reranking(
            self._question, stages.embedder, stages.reranker, self._weights, self._budgets, self.attempts
        )
        if reranking.compares:
            (variants, fingerprint), _ = await both(self._variants(), reranking.prepare())
        else:
            variants, fingerprint = await self._variants()

        async def search(limit: int, whole: int) -> Retrieved:
            # What was compared stays as it is while the search goes deeper.
            tokens = None if candidates.items else reranking.tokens
            return await self._search(
                variants, fingerprint, limit, whole, tokens, late_count=reranking.wanted if tokens else 0
            )

        candidates = Candidates(self._question, self._stages.retriever, self.attempts.last_moment)
        hopping = Hopping(self._question, stages.retriever, self._budgets, self.attempts)
        await self._retrieve(candidates, search, variants, reranking.wanted, followed=hopping.follows)
        await hopping.follow(candidates, reranking.tokens if candidates.late_scores else None)
        await reranking.look(candidates)
        last = self._question.offset + self._question.limit
        while True:
            ranked = await candidates.diversified(reranking.ranked(candidates))
            kept, duplicates = await candidates.reduced(ranked)
            if len(kept) > last or not await candidates.deepen(search):
                break
        course = Course(
            candidates.index_version,
            digest_of(variants),
            len(variants) > 1,
            sum(bool(variant.vector) for variant in variants),
            len(reranking.logits),
            reranking.read.model,
            reranking.compared,
            hopping.hops,
        )
        return Ranking(
            self._question,
            stages.retriever,
            candidates,
            kept,
            duplicates,
            reranking.logits,
            course,
            self.attempts,
            self._page_bytes,
        )

    async def _variants(self) -> tuple[list[SearchVariant], str]:
        """Expand and embed; return variants with vectors, and the model's fingerprint."""
        if self._question.vector is not None or not self._question.query:
            return await self._given(), ""
        if self._features.expansion:
            variants, own = await both(self._expand(), self._embed([self._question.query]))
        else:
            variants, own = await self._expand(), await self._embed([self._question.query])
        others = [variant.text for variant in variants[1:]]
        wanted = self._course is None or self._course.embedded > 1
        rest = await self._embed(others) if others and wanted and isinstance(own, Done) else None
        self.attempts.report(embedding_report(own, rest))
        embedded = [attempt.result for attempt in (own, rest) if isinstance(attempt, Done)]
        fingerprints = {result.model.fingerprint for result in embedded}
        if len(fingerprints) > 1:
            raise FailedPrecondition("the collection was switched to another model", reason="MODEL_MISMATCH")
        vectors = [vector for result in embedded for vector in result.vectors]
        vectors += [b""] * (len(variants) - len(vectors))
        search = [
            SearchVariant(variant.text, vector, variant.weight)
            for variant, vector in zip(variants, vectors, strict=True)
        ]
        if self._course is not None and digest_of(search) != self._course.variants:
            raise changed("the question is expanded otherwise now")
        return search, fingerprints.pop() if fingerprints else ""

    async def _given(self) -> list[SearchVariant]:
        """Return the variants of a question that is not embedded: with the caller's vector, without text, or both."""
        question, own = self._question, b""
        if question.vector is None:
            self.attempts.skip(Stage.EMBED, *NO_QUERY)
        elif self._features.dense:
            self.attempts.skip(Stage.EMBED, *CALLER_VECTOR)
            own = question.vector.values
        else:
            self.attempts.skip(Stage.EMBED, "FEATURE_OFF", "the dense search is off for this request")
        texts = await self._expand()
        found = [SearchVariant(one.text, b"" if place else own, one.weight) for place, one in enumerate(texts)]
        variants = [variant for variant in found if variant.text or variant.vector]
        if not variants and not question.like_document_id:
            raise InvalidArgument(
                "vector", "is all there is of the question, and the dense search is off; set features.dense, or query"
            )
        if self._course is not None and digest_of(variants) != self._course.variants:
            raise changed("the question is expanded otherwise now")
        return variants

    async def _expand(self) -> list[Variant]:
        query = Variant(self._question.query, 1.0)
        if not query.text:
            self.attempts.skip(Stage.EXPAND, *NO_QUERY)
            return [query]
        if not self._features.expansion:
            self.attempts.skip(Stage.EXPAND, "FEATURE_OFF", "expansion is off for this request")
            return [query]
        if self._course is not None and not self._course.expanded:
            self.attempts.skip(Stage.EXPAND, *AS_BEFORE)
            return [query]
        attempt = await self.attempts.call(
            Stage.EXPAND,
            lambda until: self._stages.expander.expand(query.text, self._features, deadline=until),
            self.attempts.policy(self._question.policies.expansion, Policy.BEST_EFFORT),
            self._budgets.expansion,
            self._budgets.expansion_until(time.monotonic(), self.attempts.last_moment),
        )
        if isinstance(attempt, StageReport):
            self.attempts.report(attempt)
            return [query]
        expanded = attempt.result
        reason = "OTHER_STRATEGY_SERVED" if expanded.degraded_reason else ""
        self.attempts.report(
            ran(Stage.EXPAND, attempt.seconds, len(expanded.variants), reason=reason, detail=expanded.degraded_reason)
        )
        return list(expanded.variants)

    async def _embed(self, texts: Sequence[str]) -> Done[Embedded] | StageReport:
        if not self._features.dense:
            return StageReport(Stage.EMBED, Outcome.SKIPPED, "FEATURE_OFF", "the dense search is off for this request")
        if self._course is not None and not self._course.embedded:
            return StageReport(Stage.EMBED, Outcome.SKIPPED, *AS_BEFORE)
        default = Policy.BEST_EFFORT if self._features.lexical else Policy.REQUIRED
        return await self.attempts.call(
            Stage.EMBED,
            lambda until: self._stages.embedder.embed_queries(
                texts, collection=self._question.collection, deadline=until
            ),
            self.attempts.policy(self._question.policies.embedding, default),
            self._budgets.embedding,
            self._budgets.embedding_until(time.monotonic(), self.attempts.last_moment),
        )

    async def _retrieve(
        self,
        candidates: Candidates,
        search: Callable[[int, int], Awaitable[Retrieved]],
        variants: Sequence[SearchVariant],
        reranked: int,
        *,
        followed: bool,
    ) -> None:
        started = time.perf_counter()
        try:
            await candidates.find(search, reranked, followed=followed)
        except SluiceError as failure:
            self.attempts.report(failed(Stage.RETRIEVE, failure, time.perf_counter() - started))
            raise
        seconds = time.perf_counter() - started
        self._budgets.retrieval.observe(time.monotonic(), seconds)
        if not candidates.search_count and not candidates.items:
            self.attempts.skip(Stage.RETRIEVE, "NO_WORDS", "the query has no words, and is not searched by vectors")
            return
        reason = detail = ""
        by_vector = any(variant.vector for variant in variants) or self._question.like_document_id
        if self._features.dense and not by_vector:
            reason, detail = "LEXICAL_ONLY", "no vectors; searched by words alone"
        self.attempts.report(ran(Stage.RETRIEVE, seconds, len(candidates.items), reason=reason, detail=detail))

    async def _search(
        self,
        variants: Sequence[SearchVariant],
        fingerprint: str,
        limit: int,
        whole: int,
        tokens: QueryTokens | None,
        *,
        late_count: int,
    ) -> Retrieved:
        features, question = self._features, self._question
        found = await self._stages.retriever.search(
            question.collection,
            variants,
            filter=question.filter,
            limit=limit,
            whole=whole,
            dense_weight=self._weights.dense if features.dense else 0.0,
            lexical_weight=self._weights.lexical if features.lexical else 0.0,
            model_fingerprint=fingerprint,
            model=question.vector.model if question.vector is not None and features.dense else "",
            like=question.like_document_id,
            tokens=tokens,
            late_count=late_count,
            deadline=self.attempts.last_moment,
        )
        if self._course is not None and found.index_version != self._course.index_version:
            raise FailedPrecondition(
                f"the collection was switched from {self._course.index_version!r} to {found.index_version!r} after the "
                "first page; begin again without page_token",
                reason="INDEX_SWITCHED",
            )
        return found
