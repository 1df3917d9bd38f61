"""EmbedderService: validate, translate, delegate."""

from __future__ import annotations

from typing import Any

import grpc

from services.chassis.errors import InvalidArgument
from services.chassis.interceptors import caller
from services.chassis.timing import deadline_of, duration
from services.chassis.validation import MAX_TEXT_BYTES, check_count, check_text
from services.embedder.backends import TextKind
from services.embedder.encoder import Encoder, TitledText
from services.embedder.metrics import EmbedderMetrics
from services.inference.scheduling import Lane
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TEXTS = 1024
MIN_CHUNK_TOKENS = 32
OVERLAP_SHARE = 8
"""Default overlap of two chunks, as a divisor of their size."""


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """Embeds and splits texts."""

    def __init__(self, encoder: Encoder, metrics: EmbedderMetrics) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._model = encoder.model.to_proto()

    async def EmbedTexts(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.EmbedTextsRequest, context: Context
    ) -> embedder_pb2.EmbedTextsResponse:
        """Embed a batch of texts."""
        check_count("texts", len(request.texts), MAX_TEXTS)
        for position, text in enumerate(request.texts):
            check_text(f"texts[{position}]", text, MAX_TEXT_BYTES)
        lane = Lane.from_proto(request.priority, "priority")
        encoded = await self._encoder.encode(
            list(request.texts),
            TextKind.from_proto(request.kind, "kind"),
            lane=lane,
            caller=caller.get(),
            deadline=deadline_of(context),
        )
        self._metrics.observe(lane, encoded.seconds)
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
        """Cut texts into chunks."""
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
            texts=[embedder_pb2.TextChunks(chunks=[chunk.to_proto() for chunk in chunks]) for chunks in split],
            model=self._model,
        )

    async def GetModel(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.GetModelRequest, context: Context
    ) -> embedder_pb2.GetModelResponse:
        """Describe the model that serves."""
        return embedder_pb2.GetModelResponse(model=self._model)
