"""Clients of the expander, the embedder and the reranker."""

from __future__ import annotations

from collections.abc import Sequence

from services.chassis.client import StageChannel
from services.chassis.errors import InvalidArgument
from services.gateway.collections.documents import Chunking
from services.gateway.search.flags import Features
from services.gateway.search.stages import Embedded, Expanded, Reranked, Variant
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc
from sluice.type.v1 import model_pb2, passage_pb2

# Documents are embedded in slices, so that a call stays far below the message limit and a slice can be retried.
EMBED_SLICE = 128


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

    async def embed_queries(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Embed queries, with the priority of a person who waits."""
        return await self._embed(texts, embedder_pb2.TEXT_KIND_QUERY, model_pb2.PRIORITY_INTERACTIVE, deadline)

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Embed documents, with the priority of a job."""
        # One slice after the other, so that one call cannot fill the embedder's queue.
        parts = [
            await self._embed(
                texts[start : start + EMBED_SLICE],
                embedder_pb2.TEXT_KIND_DOCUMENT,
                model_pb2.PRIORITY_BULK,
                deadline,
            )
            for start in range(0, len(texts), EMBED_SLICE)
        ]
        return Embedded(
            vectors=[vector for part in parts for vector in part.vectors],
            model=parts[0].model,
            truncated=[cut for part in parts for cut in part.truncated],
        )

    async def split_documents(
        self, documents: Sequence[passage_pb2.Passage], chunking: Chunking, *, deadline: float
    ) -> list[list[tuple[int, int]]]:
        """Cut documents into chunks by the tokens of the model."""
        request = embedder_pb2.SplitTextsRequest(
            texts=[embedder_pb2.TitledText(title=document.title, text=document.text) for document in documents],
            chunk_tokens=chunking.chunk_tokens,
            overlap_tokens=chunking.overlap_tokens,
        )
        try:
            reply = await self.channel.call(self._stub.SplitTexts, request, deadline=deadline)
        except InvalidArgument as error:
            raise InvalidArgument(f"chunking.{error.field}", error.problem) from None
        return [[(chunk.start, chunk.end) for chunk in text.chunks] for text in reply.texts]

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model."""
        request = embedder_pb2.GetModelRequest()
        return (await self.channel.call(self._stub.GetModel, request, deadline=deadline)).model

    async def _embed(
        self,
        texts: Sequence[str],
        kind: embedder_pb2.TextKind.ValueType,
        priority: model_pb2.Priority.ValueType,
        deadline: float,
    ) -> Embedded:
        request = embedder_pb2.EmbedTextsRequest(texts=texts, kind=kind, priority=priority)
        reply = await self.channel.call(self._stub.EmbedTexts, request, deadline=deadline)
        stride = reply.dimension * 4
        block = reply.vectors
        return Embedded(
            vectors=[block[start : start + stride] for start in range(0, len(block), stride)],
            model=reply.model,
            truncated=[text.truncated for text in reply.texts],
        )


class RerankerClient:
    """Calls the reranker."""

    service = "sluice.reranker.v1.RerankerService"

    def __init__(
        self, channel: StageChannel, priority: model_pb2.Priority.ValueType = model_pb2.PRIORITY_INTERACTIVE
    ) -> None:
        self.channel = channel
        self._priority = priority
        self._stub = reranker_pb2_grpc.RerankerServiceStub(channel.channel)

    async def rerank(self, query: str, passages: Sequence[str], *, deadline: float) -> Reranked:
        """Score each passage for a query."""
        request = reranker_pb2.RerankPassagesRequest(query=query, passages=passages, priority=self._priority)
        reply = await self.channel.call(self._stub.RerankPassages, request, deadline=deadline)
        return Reranked(list(reply.scores), reply.model.name)

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        """Describe the model."""
        request = reranker_pb2.GetModelRequest()
        return (await self.channel.call(self._stub.GetModel, request, deadline=deadline)).model
