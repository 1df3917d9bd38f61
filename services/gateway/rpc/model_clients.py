"""Clients of the expander, the embedder and the reranker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.chassis.client import StageChannel
from services.chassis.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.chassis.validation import MAX_TEXT_BYTES
from services.gateway.collections.documents import Chunking
from services.gateway.quotas.spending import spend
from services.gateway.search.flags import Features
from services.gateway.search.stages import Embedded, EmbeddedTokens, Expanded, QueryTokens, Reranked, Variant
from services.gateway.slices import fitted, room_of, slices
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc
from sluice.type.v1 import model_pb2, passage_pb2

PartT = TypeVar("PartT")
Embed = Callable[
    [Sequence[str], embedder_pb2.TextKind.ValueType, model_pb2.Priority.ValueType, float], Awaitable[PartT]
]
"""Embeds texts of a kind with a priority by a deadline."""

# Documents are embedded in slices, so that a call stays far below the message limit and a slice can be retried.
EMBED_SLICE = 128
SPLIT_SLICE = 512
RERANK_SLICE = 1000
# Texts of this many bytes are sent as they are, whatever the window.
_SHORT_BYTES = 4096


class _Window:
    """The window of the model behind a client, as its last reply said. It may be given another model at any time."""

    def __init__(self) -> None:
        self.tokens = 0

    async def fit(
        self, texts: Sequence[str], model: Callable[[], Awaitable[model_pb2.ModelInfo]]
    ) -> tuple[list[str], list[bool]]:
        """Cut texts that no window of this size can hold; return them, and True for each that was cut."""
        if not self.tokens and any(len(text) * 4 > _SHORT_BYTES for text in texts):
            self.tokens = (await model()).max_token_count
        cut = [fitted(text, room_of(self.tokens) if self.tokens else MAX_TEXT_BYTES) for text in texts]
        return cut, [len(one) < len(text.lstrip()) for one, text in zip(cut, texts, strict=True)]

    def seen(self, model: model_pb2.ModelInfo) -> bool:
        """Note the model of a reply; True if its window is larger than was known."""
        grown = 0 < self.tokens < model.max_token_count
        self.tokens = model.max_token_count
        return grown


class ExpanderClient:
    """Calls the expander."""

    service = "sluice.expander.v1.ExpanderService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)

    async def expand(self, query: str, features: Features, *, deadline: float) -> Expanded:
        """Make variants as the features say."""
        flags = features.to_proto()
        request = expander_pb2.ExpandQueryRequest(
            query=query, strategy=flags.expansion_strategy, max_variant_count=flags.max_variant_count
        )
        reply = await self.channel.call(self._stub.ExpandQuery, request, deadline=deadline)
        variants = [Variant(variant.text, variant.weight) for variant in reply.variants]
        return Expanded(variants, reply.degraded_reason)


class EmbedderClient:
    """Calls one embedder."""

    service = "sluice.embedder.v1.EmbedderService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(channel.channel)
        self._window = _Window()
        self._token_window = _Window()

    async def embed_queries(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Embed queries, with the priority of a person who waits."""
        try:
            return await self._embed(texts, embedder_pb2.TEXT_KIND_QUERY, model_pb2.PRIORITY_INTERACTIVE, deadline)
        except InvalidArgument as error:
            raise InvalidArgument("query", error.problem, reason=error.reason) from None

    async def embed_query_tokens(self, query: str, *, deadline: float) -> QueryTokens:
        """Make vectors of the tokens of a query, with the priority of a person who waits."""
        try:
            made = await self._embed_tokens(
                [query], embedder_pb2.TEXT_KIND_QUERY, model_pb2.PRIORITY_INTERACTIVE, deadline
            )
        except InvalidArgument as error:
            raise InvalidArgument("query", error.problem, reason=error.reason) from None
        return QueryTokens(made.vectors[0], made.model)

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Embed documents, with the priority of a job."""
        cut, lost = await self._window.fit(texts, lambda: self.model(deadline=deadline))
        parts = await _in_slices(self._embed, cut, deadline)
        if self._window.seen(parts[0].model) and any(lost):
            return await self.embed_documents(texts, deadline=deadline)
        truncated = [by_model for part in parts for by_model in part.truncated]
        return Embedded(
            vectors=[vector for part in parts for vector in part.vectors],
            model=parts[0].model,
            truncated=[by_model or by_us for by_model, by_us in zip(truncated, lost, strict=True)],
        )

    async def embed_document_tokens(self, texts: Sequence[str], *, deadline: float) -> EmbeddedTokens:
        """Make vectors of the tokens of documents, with the priority of a job."""
        cut, lost = await self._token_window.fit(texts, lambda: self.token_model(deadline=deadline))
        parts = await _in_slices(self._embed_tokens, cut, deadline)
        model = parts[-1].model
        if self._token_window.seen(model) and any(lost):
            return await self.embed_document_tokens(texts, deadline=deadline)
        return EmbeddedTokens([vector for part in parts for vector in part.vectors], model)

    async def split_documents(
        self, documents: Sequence[passage_pb2.Passage], chunking: Chunking, *, deadline: float
    ) -> list[list[tuple[int, int]]]:
        """Cut documents into chunks by the tokens of the model."""
        texts = [embedder_pb2.TitledText(title=document.title, text=document.text) for document in documents]
        ranges: list[list[tuple[int, int]]] = []
        for part in slices([text.ByteSize() for text in texts], most=SPLIT_SLICE):
            request = embedder_pb2.SplitTextsRequest(
                texts=texts[part], chunk_tokens=chunking.chunk_tokens, overlap_tokens=chunking.overlap_tokens
            )
            try:
                reply = await self.channel.call(self._stub.SplitTexts, request, deadline=deadline)
            except InvalidArgument as error:
                raise InvalidArgument(f"chunking.{error.field}", error.problem) from None
            ranges += [[(chunk.start, chunk.end) for chunk in text.chunks] for text in reply.texts]
        return ranges

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model."""
        request = embedder_pb2.GetModelRequest()
        return (await self.channel.call(self._stub.GetModel, request, deadline=deadline)).model

    async def token_model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model of token vectors; without a fingerprint where there is none."""
        request = embedder_pb2.GetModelRequest()
        return (await self.channel.call(self._stub.GetModel, request, deadline=deadline)).token_model

    async def _embed(
        self,
        texts: Sequence[str],
        kind: embedder_pb2.TextKind.ValueType,
        priority: model_pb2.Priority.ValueType,
        deadline: float,
    ) -> Embedded:
        request = embedder_pb2.EmbedTextsRequest(texts=texts, kind=kind, priority=priority)
        reply = await self.channel.call(self._stub.EmbedTexts, request, deadline=deadline)
        spend(sum(text.token_count for text in reply.texts))
        stride = reply.dimension * 4
        block = reply.vectors
        return Embedded(
            vectors=[block[start : start + stride] for start in range(0, len(block), stride)],
            model=reply.model,
            truncated=[text.truncated for text in reply.texts],
        )

    async def _embed_tokens(
        self,
        texts: Sequence[str],
        kind: embedder_pb2.TextKind.ValueType,
        priority: model_pb2.Priority.ValueType,
        deadline: float,
    ) -> EmbeddedTokens:
        request = embedder_pb2.EmbedTokensRequest(texts=texts, kind=kind, priority=priority)
        reply = await self.channel.call(self._stub.EmbedTokens, request, deadline=deadline)
        spend(sum(text.token_count for text in reply.texts))
        return EmbeddedTokens(reply.vectors, reply.model)


async def _in_slices(embed: Embed[PartT], texts: Sequence[str], deadline: float) -> list[PartT]:
    """Embed documents slice after slice, so that one call cannot fill the embedder's queue."""
    parts = []
    for part in slices([len(text.encode()) for text in texts], most=EMBED_SLICE):
        try:
            kind, priority = embedder_pb2.TEXT_KIND_DOCUMENT, model_pb2.PRIORITY_BULK
            parts.append(await embed(texts[part], kind, priority, deadline))
        except InvalidArgument as error:
            raise error.moved(part.start) from None
    return parts


class RerankerClient:
    """Calls the reranker."""

    service = "sluice.reranker.v1.RerankerService"

    def __init__(
        self, channel: StageChannel, priority: model_pb2.Priority.ValueType = model_pb2.PRIORITY_INTERACTIVE
    ) -> None:
        self.channel = channel
        self._priority = priority
        self._stub = reranker_pb2_grpc.RerankerServiceStub(channel.channel)
        self._window = _Window()

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        """Score each passage for a query; if partial, only the first ones where the deadline leaves no time for all."""
        cut, lost = await self._window.fit(passages, lambda: self.model(deadline=deadline))
        scores: list[float] = []
        truncated = tokens = passage_tokens = 0
        model = model_pb2.ModelInfo()
        for part in slices([len(text.encode()) for text in cut], most=RERANK_SLICE):
            request = reranker_pb2.RerankPassagesRequest(
                query=query, passages=cut[part], priority=self._priority, partial=partial
            )
            try:
                reply = await self.channel.call(self._stub.RerankPassages, request, deadline=deadline)
            except (DeadlineExceeded, ResourceExhausted):
                if partial and scores:
                    break
                raise
            spend(reply.token_count)
            scores += reply.scores
            # A passage that was cut here would have been cut there.
            truncated += max(reply.truncated_count, sum(lost[part][: len(reply.scores)]))
            tokens += reply.token_count
            model = reply.model
            passage_tokens = reply.max_passage_token_count or model.max_token_count
            if len(scores) < part.stop:
                break
        if self._window.seen(model) and any(lost):
            return await self.rerank(query, passages, partial=partial, deadline=deadline)
        return Reranked(scores, model.name, truncated, tokens, passage_tokens)

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model."""
        request = reranker_pb2.GetModelRequest()
        return (await self.channel.call(self._stub.GetModel, request, deadline=deadline)).model
