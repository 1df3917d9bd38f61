"""Stages of one request whose equal calls run once, for two pipelines side by side.

Two arms of an experiment ask for much of the same: vectors of the query, its variants, perhaps the same search. Who is
first starts the call, and all others wait for it, or take its result or error. Calls that differ in their deadlines
alone are equal. A call is cancelled when nobody waits for it any more. Results are shared: nobody may change one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from services.chassis.errors import DeadlineExceeded
from services.experiment.flags import FLAGS
from services.gateway.search.flags import Features
from services.gateway.search.pipeline import Stages
from services.gateway.search.stages import (
    Candidate,
    Embedded,
    Embedder,
    Expanded,
    Expander,
    QueryTokens,
    Reached,
    Reranked,
    Reranker,
    Retrieved,
    Retriever,
    SearchVariant,
)
from sluice.type.v1 import filter_pb2, passage_pb2

ResultT = TypeVar("ResultT")

# Two arms that begin together have the same deadline but for this.
_SAME_SECONDS = 0.002
_EXPANDED_BY = tuple(flag.name for flag in FLAGS.values() if flag.stage == "expand")


def shared(stages: Stages) -> Stages:
    """Wrap stages for one request."""
    calls = _Calls()
    return replace(
        stages,
        expander=_Expander(stages.expander, calls),
        embedder=_Embedder(stages.embedder, calls),
        retriever=_Retriever(stages.retriever.together(), calls),
        reranker=_Reranker(stages.reranker, calls),
    )


class _Call:
    """A call under way, or its end."""

    def __init__(self, call: Coroutine[Any, Any, Any], deadline: float) -> None:
        self.deadline = deadline
        self._task = asyncio.create_task(call)
        self._waiting = 0

    def serves(self, deadline: float) -> bool:
        """True unless it was given up: for want of waiters, or of time that somebody with this deadline has."""
        if not self._task.done():
            return not self._task.cancelling()
        if self._task.cancelled():
            return False
        in_time = not isinstance(self._task.exception(), DeadlineExceeded)
        return in_time or self.deadline >= deadline - _SAME_SECONDS

    async def result(self, deadline: float) -> Any:
        """Wait for its result."""
        self._waiting += 1
        try:
            if deadline >= self.deadline - _SAME_SECONDS:
                return await asyncio.shield(self._task)
            # Who has less time than the call waits no longer for it; it goes on for the others.
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.shield(self._task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the work was done") from None
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._task.cancel()


class _Calls:
    """The calls of one request, by their meaning."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _Call] = {}

    async def once(
        self, meaning: Hashable, deadline: float, call: Callable[[], Coroutine[Any, Any, ResultT]]
    ) -> ResultT:
        """Return the result of a call, which is made for the first who asks."""
        while True:
            known = self._calls.get(meaning)
            if known is None or not known.serves(deadline):
                known = self._calls[meaning] = _Call(call(), deadline)
            try:
                return cast("ResultT", await known.result(deadline))
            except DeadlineExceeded:
                # A call that was made for somebody with less time is made again.
                if known.serves(deadline) or time.monotonic() >= deadline:
                    raise

    def forget(self) -> None:
        """Make all calls anew from now on."""
        self._calls.clear()


class _Expander:
    def __init__(self, expander: Expander, calls: _Calls) -> None:
        self._expander = expander
        self._calls = calls

    async def expand(self, query: str, features: Features, *, deadline: float) -> Expanded:
        """See Expander."""
        flags = tuple(getattr(features, name) for name in _EXPANDED_BY)
        return await self._calls.once(
            ("expand", query, flags), deadline, lambda: self._expander.expand(query, features, deadline=deadline)
        )


class _Embedder:
    def __init__(self, embedder: Embedder, calls: _Calls) -> None:
        self._embedder = embedder
        self._calls = calls

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        """See Embedder."""
        return await self._calls.once(
            ("embed", collection, tuple(texts)),
            deadline,
            lambda: self._embedder.embed_queries(texts, collection=collection, deadline=deadline),
        )

    async def embed_query_tokens(self, query: str, *, collection: str, deadline: float) -> QueryTokens:
        """See Embedder."""
        return await self._calls.once(
            ("tokens", collection, query),
            deadline,
            lambda: self._embedder.embed_query_tokens(query, collection=collection, deadline=deadline),
        )

    def forget(self, collection: str) -> None:
        """Drop the cached model of a collection, and what was called with it."""
        self._calls.forget()
        self._embedder.forget(collection)


class _Retriever:
    def __init__(self, retriever: Retriever, calls: _Calls) -> None:
        self._retriever = retriever
        self._calls = calls

    def together(self) -> Retriever:
        """See Retriever. It does so by itself."""
        return self

    async def search(  # noqa: PLR0913  all that a request holds
        self,
        collection: str,
        variants: Sequence[SearchVariant],
        *,
        filter: filter_pb2.Filter,  # noqa: A002  # the field's word
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
        """See Retriever."""
        weights = (dense_weight, lexical_weight)
        made_by = (model_fingerprint, model)
        meaning = (
            *("search", collection, tuple(variants), _written(filter), limit, whole, weights, made_by, like),
            *(_meaning_of(tokens), late_count),
        )
        return await self._calls.once(
            meaning,
            deadline,
            lambda: self._retriever.search(
                collection,
                variants,
                filter=filter,
                limit=limit,
                whole=whole,
                dense_weight=dense_weight,
                lexical_weight=lexical_weight,
                model_fingerprint=model_fingerprint,
                model=model,
                like=like,
                tokens=tokens,
                late_count=late_count,
                deadline=deadline,
            ),
        )

    async def expand_relations(
        self,
        collection: str,
        query: str,
        candidates: Sequence[Candidate],
        *,
        filter: filter_pb2.Filter,  # noqa: A002  # the field's word
        hops: int,
        limit: int,
        tokens: QueryTokens | None = None,
        deadline: float,
    ) -> Reached:
        """See Retriever."""
        known = tuple((one.passage.id, one.score, one.late_score) for one in candidates)
        return await self._calls.once(
            ("hop", collection, query, known, _written(filter), hops, limit, _meaning_of(tokens)),
            deadline,
            lambda: self._retriever.expand_relations(
                collection, query, candidates, filter=filter, hops=hops, limit=limit, tokens=tokens, deadline=deadline
            ),
        )

    async def diversify(
        self, collection: str, ids: Sequence[str], scores: Sequence[float], diversity: float, *, deadline: float
    ) -> Sequence[int]:
        """See Retriever."""
        return await self._calls.once(
            ("diversify", collection, tuple(ids), tuple(scores), diversity),
            deadline,
            lambda: self._retriever.diversify(collection, ids, scores, diversity, deadline=deadline),
        )

    async def highlight(
        self, collection: str, query: str, texts: Sequence[str], *, deadline: float
    ) -> Sequence[Sequence[passage_pb2.Highlight]]:
        """See Retriever. Made for a page, and so once."""
        return await self._retriever.highlight(collection, query, texts, deadline=deadline)

    def passages(self, collection: str, ids: Sequence[str], *, deadline: float) -> AsyncIterator[passage_pb2.Passage]:
        """See Retriever. They are read as they are taken, and not kept for others."""
        return self._retriever.passages(collection, ids, deadline=deadline)


class _Reranker:
    def __init__(self, reranker: Reranker, calls: _Calls) -> None:
        self._reranker = reranker
        self._calls = calls

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        """See Reranker."""
        return await self._calls.once(
            ("rerank", query, tuple(passages), partial),
            deadline,
            lambda: self._reranker.rerank(query, passages, partial=partial, deadline=deadline),
        )


def _written(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _meaning_of(tokens: QueryTokens | None) -> Hashable:
    return tokens and (tokens.model.fingerprint, _written(tokens.vectors))
