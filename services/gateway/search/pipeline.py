"""From a question to ranked passages: the graph of stages, and what happens when one of them fails.

    query ─┬─▶ embed ──────────────┬─▶ retrieve ─▶ rerank ─▶ blend
           └─▶ expand ─▶ embed ────┘

The query is embedded while it is being expanded; its variants join when they are there; all of them go to the
retriever in one call. A stage that is BEST_EFFORT and fails is left out, and the report says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, SluiceError
from services.gateway.rollout.table import Features
from services.gateway.search.budgets import Budgets, Pace, last_moment
from services.gateway.search.duplicates import collapse
from services.gateway.search.grouping import best_of_each
from services.gateway.search.ranking import Ranked, blend
from services.gateway.search.stages import (
    Answer,
    Candidate,
    Embedded,
    Embedder,
    Expanded,
    Expander,
    Outcome,
    Policy,
    Question,
    Reranker,
    Result,
    Retrieved,
    Retriever,
    SearchVariant,
    Stage,
    StageReport,
    Variant,
)

ResultT = TypeVar("ResultT")
StageObserver = Callable[[Features, Sequence[StageReport]], None]

# The deepest that pages and reranking reach into the candidates.
MAX_CANDIDATES = 1000
# How much further to reach where near-duplicates are collapsed, so that a page is full unless most are duplicates.
_COLLAPSED_REACH = 3
# Where only the best chunk of a document is wanted, so many times the candidates are asked for, and again if that is
# too few.
CHUNKS_A_DOCUMENT = 4
# A search that a switch to another model overtakes is made again, so often.
_MOST_SWITCHES = 5


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each kind of evidence counts. `GatewaySettings` has the defaults, tuned on train splits."""

    dense: float
    lexical: float
    rerank: float


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages behind the gateway."""

    expander: Expander
    embedder: Embedder
    retriever: Retriever
    reranker: Reranker


class Pipeline:
    """Answers questions with the stages. Between requests it keeps nothing but how long the stages take of late."""

    def __init__(
        self,
        stages: Stages,
        weights: Weights,
        budgets: Budgets,
        observe: StageObserver = lambda _features, _reports: None,
    ) -> None:
        """`observe` is told how the stages fared, of failed and cancelled searches too."""
        self._stages = stages
        self._weights = weights
        self._budgets = budgets
        self._observe = observe

    async def search(self, question: Question, *, deadline: float) -> Answer:
        """Answers one question by a moment on the monotonic clock.

        Raises the error of a required stage; what went wrong in the others is in the answer's reports.
        """
        for _ in range(_MOST_SWITCHES):
            try:
                return await self._run(question, deadline)
            except FailedPrecondition as mismatch:
                if mismatch.reason != "MODEL_MISMATCH":
                    raise
            # The collection was switched to another model between the look at it and the search.
            self._stages.embedder.forget(question.collection)
        return await self._run(question, deadline)

    async def _run(self, question: Question, deadline: float) -> Answer:
        run = _Run(self._stages, self._weights, self._budgets, question, deadline)
        try:
            return await run.answer()
        finally:
            self._observe(question.features, list(run.reports.values()))


@dataclass(frozen=True, slots=True)
class _Done(Generic[ResultT]):
    """A stage that answered."""

    result: ResultT
    seconds: float


@dataclass(frozen=True, slots=True)
class _Missing:
    """A best-effort stage that did not answer, or was not asked."""

    outcome: Outcome
    reason: str
    detail: str
    seconds: float = 0.0

    def report(self, stage: Stage) -> StageReport:
        return StageReport(stage, self.outcome, self.reason, self.detail, self.seconds)


_NO_TIME = _Missing(Outcome.SKIPPED, "NO_TIME", "the deadline leaves no time for it")
_FEWEST_TO_RERANK = 2


class _Run:
    """One question on its way through the stages."""

    def __init__(self, stages: Stages, weights: Weights, budgets: Budgets, question: Question, deadline: float) -> None:
        self._stages = stages
        self._weights = weights
        self._budgets = budgets
        self._question = question
        self._features = question.features
        self._last_moment = last_moment(time.monotonic(), deadline)
        self.reports: dict[Stage, StageReport] = {}

    async def answer(self) -> Answer:
        variants, fingerprint = await self._variants()
        retrieved = await self._retrieve(variants, fingerprint)
        scores = await self._rerank(retrieved.candidates)
        first, last = self._question.offset, self._question.offset + self._question.limit
        ranked = blend([candidate.score for candidate in retrieved.candidates], scores, self._weights.rerank)
        if self._question.group_by_document:
            documents = [candidate.passage.document_id for candidate in retrieved.candidates]
            ranked = best_of_each(ranked, lambda item: documents[item.position])
        stands_for = [0] * len(ranked)
        if self._question.collapse_duplicates:
            ranked, stands_for = await self._collapsed(ranked, retrieved.candidates)
        results = [
            Result(
                passage=retrieved.candidates[item.position].passage,
                score=item.score,
                rank=rank,
                retrieval_score=retrieved.candidates[item.position].score,
                retrieval_rank=item.position + 1,
                rerank_score=item.rerank_score,
                duplicate_count=stands_for[rank - 1],
            )
            for rank, item in enumerate(ranked[first:last], start=first + 1)
        ]
        reports = [self.reports[stage] for stage in Stage]
        return Answer(results, reports, retrieved.index_version, more=len(ranked) > last)

    @staticmethod
    async def _collapsed(ranked: Sequence[Ranked], candidates: Sequence[Candidate]) -> tuple[list[Ranked], list[int]]:
        """The best of each kind, and how many others of its kind it stands for."""
        readings = [candidates[item.position].passage.reading for item in ranked]
        # Hundreds of long passages take long enough to hold up everybody else.
        stands_for = await asyncio.to_thread(collapse, readings)
        return [ranked[place] for place in stands_for], list(stands_for.values())

    async def _variants(self) -> tuple[list[SearchVariant], str]:
        """Expansion and embedding: the variants with their vectors, and the fingerprint of what made the vectors.

        The query's own vector is made while its variants are thought up.
        """
        try:
            async with asyncio.TaskGroup() as group:
                expanding = group.create_task(self._expand())
                embedding = group.create_task(self._embed([self._question.query]))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        variants, own = expanding.result(), embedding.result()
        others = [variant.text for variant in variants[1:]]
        rest = await self._embed(others) if others and isinstance(own, _Done) else None
        if own is not None:
            self._report_embedding(own, rest)
        embedded = [attempt.result for attempt in (own, rest) if isinstance(attempt, _Done)]
        if any(result.fingerprint != embedded[0].fingerprint for result in embedded):
            raise FailedPrecondition("the collection was switched to another model", reason="MODEL_MISMATCH")
        vectors = [vector for result in embedded for vector in result.vectors]
        vectors += [b""] * (len(variants) - len(vectors))
        search = [
            SearchVariant(variant.text, vector, variant.weight)
            for variant, vector in zip(variants, vectors, strict=True)
        ]
        return search, embedded[0].fingerprint if embedded else ""

    async def _expand(self) -> list[Variant]:
        query = Variant(self._question.query, 1.0)
        if not self._features.expansion:
            self._skip(Stage.EXPAND, "FEATURE_OFF", "expansion is off for this request")
            return [query]
        attempt = await self._attempt(
            Stage.EXPAND,
            lambda until: self._stages.expander.expand(
                query.text, self._features.expansion_strategy, self._features.max_variant_count, deadline=until
            ),
            self._question.policies.expansion or Policy.BEST_EFFORT,
            self._budgets.expansion,
            self._budgets.expansion_until(time.monotonic(), self._last_moment),
        )
        if isinstance(attempt, _Missing):
            self._report(attempt.report(Stage.EXPAND))
            return [query]
        expanded: Expanded = attempt.result
        self._report(
            StageReport(
                Stage.EXPAND,
                Outcome.DEGRADED if expanded.degraded_reason else Outcome.RAN,
                reason="OTHER_STRATEGY_SERVED" if expanded.degraded_reason else "",
                detail=expanded.degraded_reason,
                seconds=attempt.seconds,
                item_count=len(expanded.variants),
            )
        )
        return list(expanded.variants)

    async def _embed(self, texts: Sequence[str]) -> _Done[Embedded] | _Missing | None:
        """Vectors of texts; None where the dense search is off."""
        if not self._features.dense:
            self._skip(Stage.EMBED, "FEATURE_OFF", "the dense search is off for this request")
            return None
        default = Policy.BEST_EFFORT if self._features.lexical else Policy.REQUIRED
        return await self._attempt(
            Stage.EMBED,
            lambda until: self._stages.embedder.embed_queries(
                texts, collection=self._question.collection, deadline=until
            ),
            self._question.policies.embedding or default,
            self._budgets.embedding,
            self._budgets.embedding_until(time.monotonic(), self._last_moment),
        )

    async def _retrieve(self, variants: Sequence[SearchVariant], fingerprint: str) -> Retrieved:
        started = time.perf_counter()
        try:
            return await self._retrieved(variants, fingerprint, started)
        except SluiceError as failure:
            seconds = time.perf_counter() - started
            self._report(StageReport(Stage.RETRIEVE, Outcome.FAILED, failure.reason, failure.message, seconds))
            raise

    async def _retrieved(self, variants: Sequence[SearchVariant], fingerprint: str, started: float) -> Retrieved:
        features = self._features
        reach = self._question.offset + self._question.limit
        if self._question.collapse_duplicates:
            reach *= _COLLAPSED_REACH
        # One more than the page needs tells whether there is another page.
        limit = min(MAX_CANDIDATES, max(reach + 1, features.rerank_candidate_count if features.rerank else 0))
        while True:
            if self._question.group_by_document:
                limit = min(MAX_CANDIDATES, limit * CHUNKS_A_DOCUMENT)
            retrieved = await self._stages.retriever.search(
                self._question.collection,
                variants,
                filter=self._question.filter,
                limit=limit,
                dense_weight=self._weights.dense if features.dense else 0.0,
                lexical_weight=self._weights.lexical if features.lexical else 0.0,
                model_fingerprint=fingerprint,
                deadline=self._last_moment,
            )
            documents = {candidate.passage.document_id for candidate in retrieved.candidates}
            all_there = len(retrieved.candidates) < limit or limit == MAX_CANDIDATES
            if not self._question.group_by_document or len(documents) > reach or all_there:
                break
        seconds = time.perf_counter() - started
        self._budgets.retrieval.observe(time.monotonic(), seconds)
        blind = features.dense and not any(variant.vector for variant in variants)
        self._report(
            StageReport(
                Stage.RETRIEVE,
                Outcome.DEGRADED if blind else Outcome.RAN,
                reason="LEXICAL_ONLY" if blind else "",
                detail="no vectors; searched by words alone" if blind else "",
                seconds=seconds,
                item_count=len(retrieved.candidates),
            )
        )
        return retrieved

    async def _rerank(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """The cross-encoder's scores for the best candidates, possibly none."""
        if not self._features.rerank:
            self._skip(Stage.RERANK, "FEATURE_OFF", "reranking is off for this request")
            return []
        if not candidates:
            self._skip(Stage.RERANK, "NO_CANDIDATES", "nothing was found to rerank")
            return []
        policy = self._question.policies.rerank or Policy.BEST_EFFORT
        passages = [candidate.passage.reading for candidate in candidates[: self._features.rerank_candidate_count]]
        wanted = count = len(passages)
        if policy is Policy.BEST_EFFORT:
            lengths = [len(passage) for passage in passages]
            count = self._budgets.rerank_count(time.monotonic(), self._last_moment, lengths)
        if count < min(wanted, _FEWEST_TO_RERANK):
            self._report(_NO_TIME.report(Stage.RERANK))
            return []
        passages = passages[:count]
        attempt = await self._attempt(
            Stage.RERANK,
            lambda until: self._stages.reranker.rerank(self._question.query, passages, deadline=until),
            policy,
            self._budgets.rerank_character,
            self._last_moment,
            parts=max(1, sum(map(len, passages))),
        )
        if isinstance(attempt, _Missing):
            self._report(attempt.report(Stage.RERANK))
            return []
        self._report(
            StageReport(
                Stage.RERANK,
                Outcome.RAN if count == wanted else Outcome.DEGRADED,
                reason="" if count == wanted else "FEWER_CANDIDATES",
                detail="" if count == wanted else f"the deadline left time for {count} of {wanted} candidates",
                seconds=attempt.seconds,
                model=attempt.result.model,
                item_count=count,
            )
        )
        return attempt.result.scores

    async def _attempt(
        self,
        stage: Stage,
        call: Callable[[float], Awaitable[ResultT]],
        policy: Policy,
        pace: Pace,
        until: float | None,
        parts: int = 1,
    ) -> _Done[ResultT] | _Missing:
        """Calls a stage, if there is time; a required one always, and with all the time that is left."""
        if policy is Policy.REQUIRED:
            until = self._last_moment
        if until is None:
            return _NO_TIME
        started = time.perf_counter()
        try:
            result = await call(until)
        except SluiceError as failure:
            seconds = time.perf_counter() - started
            if isinstance(failure, DeadlineExceeded):
                pace.observe(time.monotonic(), seconds / parts)
            missing = _Missing(Outcome.FAILED, failure.reason, failure.message, seconds)
            if policy is Policy.REQUIRED:
                self._report(missing.report(stage))
                raise
            return missing
        seconds = time.perf_counter() - started
        pace.observe(time.monotonic(), seconds / parts)
        return _Done(result, seconds)

    def _report(self, report: StageReport) -> None:
        self.reports[report.stage] = report

    def _skip(self, stage: Stage, reason: str, detail: str) -> None:
        self._report(StageReport(stage, Outcome.SKIPPED, reason, detail))

    def _report_embedding(self, own: _Done[Embedded] | _Missing, rest: _Done[Embedded] | _Missing | None) -> None:
        if isinstance(own, _Missing):
            self._report(own.report(Stage.EMBED))
            return
        outcome, reason, detail = Outcome.RAN, "", ""
        seconds, vectors = own.seconds, len(own.result.vectors)
        if own.result.pseudo:
            outcome, reason = Outcome.DEGRADED, "PSEUDO_EMBEDDINGS"
            detail = "no embedding model is configured; vectors carry no meaning"
        if isinstance(rest, _Done):
            seconds, vectors = seconds + rest.seconds, vectors + len(rest.result.vectors)
        elif isinstance(rest, _Missing):
            seconds += rest.seconds
            outcome, reason = Outcome.DEGRADED, "VARIANTS_NOT_EMBEDDED"
            detail = f"variants are searched by words alone: {rest.detail}"
        self._report(StageReport(Stage.EMBED, outcome, reason, detail, seconds, own.result.model, vectors))
