"""Passages, models and versions for the gateway's tests."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.search.question import Course
from services.gateway.search.stages import Embedded, EmbeddedTokens
from sluice.type.v1 import collection_pb2, model_pb2, passage_pb2, tokens_pb2

COURSE = Course("docs-v1", "d1935", expanded=False, embedded=1, reranked=0, reranker="")
"""The way in which an answer was made."""


def passage(identity: str, title: str = "", text: str = "") -> passage_pb2.Passage:
    """A whole document."""
    return passage_pb2.Passage(id=identity, document_id=identity, title=title, text=text)


def model(fingerprint: str, name: str = "", *, pseudo: bool = False) -> model_pb2.ModelInfo:
    """A model, named like its fingerprint by default."""
    return model_pb2.ModelInfo(name=name or fingerprint, fingerprint=fingerprint, dimension=4, pseudo=pseudo)


def embedded(vectors: Sequence[bytes], made_by: model_pb2.ModelInfo, truncated: Sequence[bool] = ()) -> Embedded:
    """Vectors by a model; no text was truncated by default."""
    return Embedded(vectors, made_by, truncated or [False] * len(vectors))


def tokens_of(texts: Sequence[str], made_by: model_pb2.ModelInfo) -> EmbeddedTokens:
    """Token vectors of texts: one row that is the text itself."""
    return EmbeddedTokens([tokens_pb2.TokenVectors(values=text.encode(), row_count=1) for text in texts], made_by)


def version(
    name: str,
    made_by: model_pb2.ModelInfo,
    passage_count: int = 0,
    token_model: model_pb2.ModelInfo | None = None,
) -> collection_pb2.CollectionVersion:
    """A version by a model, and perhaps a token model."""
    return collection_pb2.CollectionVersion(
        version=name, model=made_by, passage_count=passage_count, token_model=token_model
    )
