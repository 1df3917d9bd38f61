"""The graph of stages from a question to ranked passages.

    query ─┬─▶ embed ──────────────┬─▶ retrieve ─▶ rerank ─▶ blend
           └─▶ expand ─▶ embed ────┘

The query is embedded while it is being expanded; its variants join when they are made; all of them go to the
retriever in one call. A stage that is BEST_EFFORT and fails is left out, and its report says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, SluiceError
from services.gateway.search.budgets import Budgets, Pace, last_moment
from services.gateway.search.duplicates import collapse
from services.gateway.search.flags import Features
from services.gateway.search.grouping import best_of_each
from services.gateway.search.ranking import Ranked, blend
from services.gateway.search.stages import (
    Answer,
    Candidate,
    Embedded,
    Embedder,
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
    reading,
)

ResultT = TypeVar("ResultT")
StageObserver = Callable[[Features, Sequence[StageReport]], None]

# Most candidates that paging and reranking reach.
MAX_CANDIDATES = 1000
# Factor on the reach where near-duplicates are collapsed, so that a page is full unless most are duplicates.
_COLLAPSED_REACH = 3
# Factor on the limit where only the best chunk of a document counts; applied again while too few are found.
CHUNKS_A_DOCUMENT = 4
# Most tries of a search that switches to another model overtake.
_MOST_TRIES = 6
_FEWEST_TO_RERANK = 2


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each kind of evidence. `GatewaySettings` has the defaults, tuned on train splits."""

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
    """Answers questions with the stages; it keeps their pace between requests."""

    def __init__(
        self,
        stages: Stages,
        weights: Weights,
        budgets: Budgets,
        observe: StageObserver = lambda _features, _reports: None,
    ) -> None:
        """`observe` takes the reports of all searches, failed and cancelled ones too."""
        self._stages = stages
        self._weights = weights
        self._budgets = budgets
        self._observe = observe

    async def search(self, question: Question, *, deadline: float) -> Answer:
        """Answer one question by a deadline on the monotonic clock.

        Raises the error of a required stage; failures of the others are in the answer's reports.
        """
        for tries_left in reversed(range(_MOST_TRIES)):
            run = _Run(self._stages, self._weights, self._budgets, question, deadline)
            try:
                return await run.answer()
            except FailedPrecondition as error:
                if error.reason != "MODEL_MISMATCH" or not tries_left:
                    raise
            finally:
                self._observe(question.features, list(run.reports.values()))
            # The collection was switched to another model between the embedding and the search.
            self._stages.embedder.forget(question.collection)
        raise AssertionError("the last try answers or raises")


@dataclass(frozen=True, slots=True)
class _Done(Generic[ResultT]):
    """The result of a stage that answered."""

    result: ResultT
    seconds: float


class _Run:
    """One question on its way through the stages."""

    def __init__(self, stages: Stages, weights: Weights, budgets: Budgets, question: Question, deadline: float) -> None:
        self._stages = stages
        self._weights = weights
        self._budgets = budgets
        self._question = question
        self._features = question.features
        self._last_moment = last_moment(time.monotonic(), deadline)
        # Complete from the start: a stage that the search does not come to has a report as well.
        self.reports = {
            stage: StageReport(stage, Outcome.SKIPPED, "NOT_REACHED", "the search ended before it") for stage in Stage
        }

    async def answer(self) -> Answer:
        variants, fingerprint = await self._variants()
        retrieved = await self._retrieve(variants, fingerprint)
        candidates = retrieved.candidates
        scores = await self._rerank(candidates)
        first, last = self._question.offset, self._question.offset + self._question.limit
        ranked = blend([candidate.score for candidate in candidates], scores, self._weights.rerank)
        if self._question.group_by_document:
            documents = [candidate.passage.document_id for candidate in candidates]
            ranked = best_of_each(ranked, lambda item: documents[item.position])
        duplicates = [0] * len(ranked)
        if self._question.collapse_duplicates:
            ranked, duplicates = await self._collapsed(ranked, candidates)
        results = [
            Result(
                passage=candidates[item.position].passage,
                score=item.score,
                rank=rank,
                retrieval_score=candidates[item.position].score,
                retrieval_rank=item.position + 1,
                rerank_score=item.rerank_score,
                duplicate_count=duplicates[rank - 1],
            )
            for rank, item in enumerate(ranked[first:last], start=first + 1)
        ]
        return Answer(results, list(self.reports.values()), retrieved.index_version, more=len(ranked) > last)

    @staticmethod
    async def _collapsed(ranked: Sequence[Ranked], candidates: Sequence[Candidate]) -> tuple[list[Ranked], list[int]]:
        """Keep the best of each kind, with its number of near-duplicates."""
        texts = [reading(candidates[item.position].passage) for item in ranked]
        # Hundreds of long passages would block the event loop.
        kept = await asyncio.to_thread(collapse, texts)
        return [ranked[place] for place in kept], list(kept.values())

    async def _variants(self) -> tuple[list[SearchVariant], str]:
        """Expand and embed; return variants with vectors, and the model's fingerprint."""
        try:
            async with asyncio.TaskGroup() as group:
                expanding = group.create_task(self._expand())
                embedding = group.create_task(self._embed([self._question.query]))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        variants, own = expanding.result(), embedding.result()
        others = [variant.text for variant in variants[1:]]
        rest = await self._embed(others) if others and isinstance(own, _Done) else None
        self._report(_embedding_report(own, rest))
        embedded = [attempt.result for attempt in (own, rest) if isinstance(attempt, _Done)]
        fingerprints = {result.model.fingerprint for result in embedded}
        if len(fingerprints) > 1:
            raise FailedPrecondition("the collection was switched to another model", reason="MODEL_MISMATCH")
        vectors = [vector for result in embedded for vector in result.vectors]
        vectors += [b""] * (len(variants) - len(vectors))
        search = [
            SearchVariant(variant.text, vector, variant.weight)
            for variant, vector in zip(variants, vectors, strict=True)
        ]
        return search, fingerprints.pop() if fingerprints else ""

    async def _expand(self) -> list[Variant]:
        query = Variant(self._question.query, 1.0)
        if not self._features.expansion:
            self._skip(Stage.EXPAND, "FEATURE_OFF", "expansion is off for this request")
            return [query]
        attempt = await self._attempt(
            Stage.EXPAND,
            lambda until: self._stages.expander.expand(query.text, self._features, deadline=until),
            self._question.policies.expansion or Policy.BEST_EFFORT,
            self._budgets.expansion,
            self._budgets.expansion_until(time.monotonic(), self._last_moment),
        )
        if isinstance(attempt, StageReport):
            self._report(attempt)
            return [query]
        expanded = attempt.result
        reason = "OTHER_STRATEGY_SERVED" if expanded.degraded_reason else ""
        self._report(
            _ran(Stage.EXPAND, attempt.seconds, len(expanded.variants), reason=reason, detail=expanded.degraded_reason)
        )
        return list(expanded.variants)

    async def _embed(self, texts: Sequence[str]) -> _Done[Embedded] | StageReport:
        if not self._features.dense:
            return StageReport(Stage.EMBED, Outcome.SKIPPED, "FEATURE_OFF", "the dense search is off for this request")
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
            retrieved = await self._search(variants, fingerprint)
        except SluiceError as failure:
            self._report(_failed(Stage.RETRIEVE, failure, time.perf_counter() - started))
            raise
        seconds = time.perf_counter() - started
        self._budgets.retrieval.observe(time.monotonic(), seconds)
        reason = detail = ""
        if self._features.dense and not any(variant.vector for variant in variants):
            reason, detail = "LEXICAL_ONLY", "no vectors; searched by words alone"
        self._report(_ran(Stage.RETRIEVE, seconds, len(retrieved.candidates), reason=reason, detail=detail))
        return retrieved

    async def _search(self, variants: Sequence[SearchVariant], fingerprint: str) -> Retrieved:
        """Search until there are enough candidates for the page, or no more."""
        features, question = self._features, self._question
        reach = question.offset + question.limit
        if question.collapse_duplicates:
            reach *= _COLLAPSED_REACH
        # One more than the page needs tells whether there is another page.
        limit = min(MAX_CANDIDATES, max(reach + 1, features.rerank_candidate_count if features.rerank else 0))
        while True:
            if question.group_by_document:
                limit = min(MAX_CANDIDATES, limit * CHUNKS_A_DOCUMENT)
            retrieved = await self._stages.retriever.search(
                question.collection,
                variants,
                filter=question.filter,
                limit=limit,
                dense_weight=self._weights.dense if features.dense else 0.0,
                lexical_weight=self._weights.lexical if features.lexical else 0.0,
                model_fingerprint=fingerprint,
                deadline=self._last_moment,
            )
            if not question.group_by_document or len(retrieved.candidates) < limit or limit == MAX_CANDIDATES:
                return retrieved
            if len({candidate.passage.document_id for candidate in retrieved.candidates}) > reach:
                return retrieved

    async def _rerank(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """Score the best candidates with the cross-encoder; empty where that is not done."""
        if not self._features.rerank:
            self._skip(Stage.RERANK, "FEATURE_OFF", "reranking is off for this request")
            return []
        if not candidates:
            self._skip(Stage.RERANK, "NO_CANDIDATES", "nothing was found to rerank")
            return []
        policy = self._question.policies.rerank or Policy.BEST_EFFORT
        passages = [reading(candidate.passage) for candidate in candidates[: self._features.rerank_candidate_count]]
        wanted = count = len(passages)
        if policy is Policy.BEST_EFFORT:
            lengths = [len(passage) for passage in passages]
            count = self._budgets.rerank_count(time.monotonic(), self._last_moment, lengths)
        if count < min(wanted, _FEWEST_TO_RERANK):
            self._report(_no_time(Stage.RERANK))
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
        if isinstance(attempt, StageReport):
            self._report(attempt)
            return []
        reason = detail = ""
        if count < wanted:
            reason, detail = "FEWER_CANDIDATES", f"the deadline left time for {count} of {wanted} candidates"
        model = attempt.result.model
        self._report(_ran(Stage.RERANK, attempt.seconds, count, model=model, reason=reason, detail=detail))
        return attempt.result.scores

    async def _attempt(
        self,
        stage: Stage,
        call: Callable[[float], Awaitable[ResultT]],
        policy: Policy,
        pace: Pace,
        until: float | None,
        parts: int = 1,
    ) -> _Done[ResultT] | StageReport:
        """Call a stage if there is time, and a required one always.

        Returns the report instead where a best-effort stage was not called or failed.
        """
        if policy is Policy.REQUIRED:
            until = self._last_moment
        if until is None:
            return _no_time(stage)
        started = time.perf_counter()
        try:
            result = await call(until)
        except SluiceError as failure:
            seconds = time.perf_counter() - started
            if isinstance(failure, DeadlineExceeded):
                pace.observe(time.monotonic(), seconds / parts)
            report = _failed(stage, failure, seconds)
            if policy is Policy.REQUIRED:
                self._report(report)
                raise
            return report
        seconds = time.perf_counter() - started
        pace.observe(time.monotonic(), seconds / parts)
        return _Done(result, seconds)

    def _report(self, report: StageReport) -> None:
        self.reports[report.stage] = report

    def _skip(self, stage: Stage, reason: str, detail: str) -> None:
        self._report(StageReport(stage, Outcome.SKIPPED, reason, detail))


def _ran(
    stage: Stage, seconds: float, item_count: int, *, model: str = "", reason: str = "", detail: str = ""
) -> StageReport:
    """Report a stage that answered; a reason means that it was degraded."""
    outcome = Outcome.DEGRADED if reason else Outcome.RAN
    return StageReport(stage, outcome, reason, detail, seconds, model, item_count)


def _no_time(stage: Stage) -> StageReport:
    return StageReport(stage, Outcome.SKIPPED, "NO_TIME", "the deadline leaves no time for it")


def _failed(stage: Stage, failure: SluiceError, seconds: float) -> StageReport:
    return StageReport(stage, Outcome.FAILED, failure.reason, failure.message, seconds)


def _embedding_report(own: _Done[Embedded] | StageReport, rest: _Done[Embedded] | StageReport | None) -> StageReport:
    """Combine the embedding of the query and that of its variants."""
    if isinstance(own, StageReport):
        return own
    model = own.result.model
    reason = detail = ""
    seconds, vectors = own.seconds, len(own.result.vectors)
    if model.pseudo:
        reason, detail = "PSEUDO_EMBEDDINGS", "no embedding model is configured; vectors carry no meaning"
    if rest is not None:
        seconds += rest.seconds
    if isinstance(rest, _Done):
        vectors += len(rest.result.vectors)
    elif rest is not None:
        reason, detail = "VARIANTS_NOT_EMBEDDED", f"variants are searched by words alone: {rest.detail}"
    return _ran(Stage.EMBED, seconds, vectors, model=model.name, reason=reason, detail=detail)
