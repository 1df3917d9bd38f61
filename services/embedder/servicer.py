"""EmbedderService: validate, translate, delegate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.interceptors import caller
from services.chassis.timing import deadline_of, duration
from services.chassis.validation import MAX_TEXT_BYTES, check_count, check_text
from services.embedder.backends import TextKind
from services.embedder.encoder import Encoder, TitledText
from services.embedder.metrics import EmbedderMetrics
from services.embedder.token_encoder import TokenEncoder
from services.inference.scheduling import Lane
from services.inference.served_model import Computed, Row
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.type.v1 import tokens_pb2

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TEXTS = 1024
MIN_CHUNK_TOKENS = 32
OVERLAP_SHARE = 8
"""Default overlap of two chunks, as a divisor of their size."""


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """Embeds and splits texts, and makes vectors of their tokens."""

    def __init__(self, encoder: Encoder, token_encoder: TokenEncoder | None, metrics: EmbedderMetrics) -> None:
        self._encoder = encoder
        self._token_encoder = token_encoder
        self._metrics = metrics
        self._model = encoder.model.to_proto()
        self._token_model = token_encoder.model.to_proto() if token_encoder else None

    async def EmbedTexts(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.EmbedTextsRequest, context: Context
    ) -> embedder_pb2.EmbedTextsResponse:
        """Embed a batch of texts."""
        texts = _texts_of(request)
        lane = Lane.from_proto(request.priority, "priority")
        encoded = await self._encoder.encode(
            texts,
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
            texts=_embedded(encoded.rows),
            model=self._model,
            timings=_timings(encoded),
        )

    async def EmbedTokens(  # noqa: N802  # gRPC's name
        self, request: embedder_pb2.EmbedTokensRequest, context: Context
    ) -> embedder_pb2.EmbedTokensResponse:
        """Make the token vectors of a batch of texts."""
        if self._token_encoder is None or self._token_model is None:
            raise FailedPrecondition(
                "this embedder has no token model; set its TOKEN_MODEL and start it again", reason="NO_TOKEN_MODEL"
            )
        texts = _texts_of(request)
        lane = Lane.from_proto(request.priority, "priority")
        encoded = await self._token_encoder.encode(
            texts,
            TextKind.from_proto(request.kind, "kind"),
            lane=lane,
            caller=caller.get(),
            deadline=deadline_of(context),
        )
        self._metrics.observe_tokens(lane, encoded.seconds)
        dimension = self._token_model.dimension
        return embedder_pb2.EmbedTokensResponse(
            vectors=[
                tokens_pb2.TokenVectors(values=values, row_count=len(values) // dimension) for values in encoded.results
            ],
            texts=_embedded(encoded.rows),
            model=self._token_model,
            timings=_timings(encoded),
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
        """Describe the models that serve."""
        return embedder_pb2.GetModelResponse(model=self._model, token_model=self._token_model)


def _texts_of(request: embedder_pb2.EmbedTextsRequest | embedder_pb2.EmbedTokensRequest) -> list[str]:
    """Read the texts of a request. Raises InvalidArgument."""
    check_count("texts", len(request.texts), MAX_TEXTS)
    for position, text in enumerate(request.texts):
        check_text(f"texts[{position}]", text, MAX_TEXT_BYTES)
    return list(request.texts)


def _embedded(rows: Sequence[Row]) -> list[embedder_pb2.EmbeddedText]:
    return [embedder_pb2.EmbeddedText(token_count=row.token_count, truncated=row.truncated) for row in rows]


def _timings(encoded: Computed[Any, bytes]) -> embedder_pb2.EmbedTimings:
    return embedder_pb2.EmbedTimings(
        tokenize_duration=duration(encoded.tokenize_seconds), compute_duration=duration(encoded.compute_seconds)
    )
