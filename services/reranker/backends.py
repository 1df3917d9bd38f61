"""Backends that score a passage against a query: a cross-encoder on one of the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference.engine import Engine, RuntimeEngine
from services.inference.models.info import ModelKind
from services.inference.models.runtime import ModelOptions, load_runtime
from services.inference.models.tokenization import TokenizedPair


class CrossEncoderBackend(Engine, Protocol):
    """A loaded cross-encoder."""

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """Tokens of the query with each passage, cut to the model's limit; the query is tokenized once."""

    def score(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float32]:
        """Raw logits [pairs], higher for more relevant, by one forward pass. At least one pair."""


class ModelBackend(RuntimeEngine):
    """A sentence-transformers CrossEncoder with one output."""

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """See `CrossEncoderBackend.tokenize`."""
        return self._runtime.tokenizer.pairs(query, passages)

    def score(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float32]:
        """See `CrossEncoderBackend.score`."""
        return self._runtime.run([pair.ids for pair in pairs], [pair.type_ids for pair in pairs])[:, 0]


def load_cross_encoder_backend(name: str, options: ModelOptions) -> CrossEncoderBackend:
    """Load a model by its name, see `load_runtime`."""
    return ModelBackend(load_runtime(name, ModelKind.CROSS_ENCODER, options))
