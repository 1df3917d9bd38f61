"""EmbedderService: validate, translate, delegate."""

from __future__ import annotations

import time
from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.interceptors import caller
from services.chassis.timing import deadline_of, duration
from services.chassis.validation import check_count, check_text
from services.embedder import metrics
from services.embedder.backends import TextKind
from services.embedder.encoder import Encoder, TitledText
from services.inference.models.info import ModelInfo
from services.inference.scheduling import Lane
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TEXTS = 1024
MAX_TEXT_BYTES = 65_536
MIN_CHUNK_TOKENS = 32
OVERLAP_SHARE = 8
"""The part of a chunk that it shares with the one before, where the caller leaves that to us."""

_KINDS = {
    embedder_pb2.TEXT_KIND_QUERY: TextKind.QUERY,
    embedder_pb2.TEXT_KIND_DOCUMENT: TextKind.DOCUMENT,
}
_LANES = {
    embedder_pb2.PRIORITY_UNSPECIFIED: Lane.INTERACTIVE,
    embedder_pb2.PRIORITY_INTERACTIVE: Lane.INTERACTIVE,
    embedder_pb2.PRIORITY_BULK: Lane.BULK,
}


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """Embeds."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._model = _model(encoder.model)

    async def EmbedTexts(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.EmbedTextsRequest, context: Context
    ) -> embedder_pb2.EmbedTextsResponse:
        """Embeds a batch of texts."""
        check_count("texts", len(request.texts), MAX_TEXTS)
        for position, text in enumerate(request.texts):
            check_text(f"texts[{position}]", text, MAX_TEXT_BYTES)
        kind, lane = _KINDS.get(request.kind), _LANES.get(request.priority)
        if kind is None:
            raise InvalidArgument("kind", f"must be TEXT_KIND_QUERY or TEXT_KIND_DOCUMENT, not {request.kind}")
        if lane is None:
            raise InvalidArgument("priority", f"is unknown ({request.priority})")
        started = time.perf_counter()
        encoded = await self._encoder.encode(
            list(request.texts), kind, lane=lane, caller=caller.get(), deadline=deadline_of(context)
        )
        metrics.observe_embedding(lane, time.perf_counter() - started)
        if (span := tracing.recorded()) is not None:
            span.set_attributes(
                {
                    "sluice.model": self._model.name,
                    "sluice.lane": lane.value,
                    "sluice.texts": len(encoded.rows),
                    "sluice.tokens": sum(text.token_count for text in encoded.rows),
                    "sluice.truncated": sum(text.truncated for text in encoded.rows),
                }
            )
        return embedder_pb2.EmbedTextsResponse(
            vectors=b"".join(encoded.results),
            row_count=len(encoded.rows),
            dimension=self._model.dimension,
            texts=[
                embedder_pb2.EmbeddedText(token_count=text.token_count, truncated=text.truncated)
                for text in encoded.rows
            ],
            model=self._model,
            timings=embedder_pb2.EmbedTimings(
                tokenize_duration=duration(encoded.tokenize_seconds),
                compute_duration=duration(encoded.compute_seconds),
            ),
        )

    async def SplitTexts(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.SplitTextsRequest, context: Context
    ) -> embedder_pb2.SplitTextsResponse:
        """Says where to cut texts."""
        check_count("texts", len(request.texts), MAX_TEXTS)
        window = self._model.max_token_count
        chunk_tokens = request.chunk_tokens or window
        if not min(MIN_CHUNK_TOKENS, window) <= chunk_tokens <= window:
            raise InvalidArgument(
                "chunk_tokens",
                f"is {chunk_tokens}; send {MIN_CHUNK_TOKENS} to {window}, the window of {self._model.name}, or 0",
            )
        overlap_tokens = request.overlap_tokens if request.HasField("overlap_tokens") else chunk_tokens // OVERLAP_SHARE
        if not 0 <= overlap_tokens < chunk_tokens / 2:
            raise InvalidArgument(
                "overlap_tokens", f"is {overlap_tokens}; send less than half of a chunk of {chunk_tokens}"
            )
        split = await self._encoder.split(
            [TitledText(text.title, text.text) for text in request.texts],
            chunk_tokens=chunk_tokens,
            overlap_tokens=overlap_tokens,
        )
        return embedder_pb2.SplitTextsResponse(
            texts=[
                embedder_pb2.TextChunks(
                    chunks=[
                        embedder_pb2.TextChunk(start=chunk.start, end=chunk.end, token_count=chunk.token_count)
                        for chunk in chunks
                    ]
                )
                for chunks in split
            ],
            model=self._model,
        )

    async def GetModel(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.GetModelRequest, context: Context
    ) -> embedder_pb2.GetModelResponse:
        """Describes the model that serves."""
        return embedder_pb2.GetModelResponse(model=self._model)


def _model(model: ModelInfo) -> embedder_pb2.EmbeddingModel:
    return embedder_pb2.EmbeddingModel(
        name=model.name,
        fingerprint=model.fingerprint,
        dimension=model.dimension,
        max_token_count=model.max_token_count,
        backend=model.backend,
        precision=model.precision,
        device=model.device,
        pseudo=model.pseudo,
    )
