"""Engines that score a passage against a query: a cross-encoder on one of the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference.models.info import ModelInfo, ModelKind
from services.inference.models.runtime import ModelOptions, Runtime, load_runtime
from services.inference.models.tokenization import TokenizedPair


class CrossEncoderBackend(Protocol):
    """What the scorer needs of an engine. Both calls block and are thread safe."""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """The query with each passage, cut to the model's limit; the query is tokenized once."""

    def width(self, token_count: int) -> int:
        """Tokens that a pair of so many costs, padding included."""

    def warm_up(self, batch_tokens: int) -> None:
        """Makes batches of up to so many padded tokens quick. Seconds."""

    def score(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float32]:
        """Raw logits [pairs], higher for more relevant, by one forward pass. At least one pair."""


class ModelBackend:
    """A sentence-transformers CrossEncoder with one output."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.model = runtime.info

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """See `CrossEncoderBackend.tokenize`."""
        return self._runtime.tokenizer.pairs(query, passages)

    def width(self, token_count: int) -> int:
        """See `CrossEncoderBackend.width`."""
        return self._runtime.width(token_count)

    def warm_up(self, batch_tokens: int) -> None:
        """See `CrossEncoderBackend.warm_up`."""
        self._runtime.warm_up(batch_tokens)

    def score(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float32]:
        """See `CrossEncoderBackend.score`."""
        return self._runtime.run([pair.ids for pair in pairs], [pair.type_ids for pair in pairs])[:, 0]


def load_cross_encoder_backend(name: str, options: ModelOptions) -> CrossEncoderBackend:
    """Load a model by its name, see `load_runtime`."""
    return ModelBackend(load_runtime(name, ModelKind.CROSS_ENCODER, options))
