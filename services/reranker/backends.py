"""Backends that score a passage against a query: a cross-encoder on one of the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference.engine import Engine, RuntimeEngine
from services.inference.models.info import ModelKind
from services.inference.models.runtime import ModelOptions, Runtime, load_runtime
from services.inference.models.tokenization import TokenizedPair
from services.language.sentences import LONGEST
from services.reranker.windows import READ_CHARACTERS, best_window, parts_of

# A passage that has more characters for each token of room is hardly ever read whole, and is not tokenized whole first.
_LIKELY_CHARACTERS_A_TOKEN = 8


class CrossEncoderBackend(Engine, Protocol):
    """A loaded cross-encoder."""

    @property
    def passage_tokens(self) -> int:
        """Most tokens of a passage that the model reads."""

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """Tokens of the query with each passage or the best part of it; the query is tokenized once."""

    def score(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float32]:
        """Raw logits [pairs], higher for more relevant, by one forward pass. At least one pair."""


class ModelBackend(RuntimeEngine):
    """A sentence-transformers CrossEncoder with one output.

    It reads the best part of a passage of more than `passage_tokens`; 0 for the beginning that its window holds.
    """

    def __init__(self, runtime: Runtime, passage_tokens: int = 0) -> None:
        super().__init__(runtime)
        self.passage_tokens = min(passage_tokens or self.model.max_token_count, self.model.max_token_count)
        self._chooses = passage_tokens > 0

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """See `CrossEncoderBackend.tokenize`."""
        tokenizer = self._runtime.tokenizer
        if not self._chooses:
            return tokenizer.pairs(query, passages)
        [query_tokens] = tokenizer.pieces([query], len(query))
        return [self._pair(query_tokens, passage) for passage in passages]

    def _pair(self, query: list[int], passage: str) -> TokenizedPair:
        tokenizer, room = self._runtime.tokenizer, self.passage_tokens
        if len(passage) <= room * _LIKELY_CHARACTERS_A_TOKEN:
            [tokens] = tokenizer.pieces([passage], room)
            if len(tokens) <= room:
                return tokenizer.pair(query, tokens)
        parts = tokenizer.pieces(parts_of(passage), LONGEST)
        truncated = len(passage) > READ_CHARACTERS or sum(map(len, parts)) > room
        return tokenizer.pair(query, best_window(query, parts, room), truncated=truncated)

    def score(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float32]:
        """See `CrossEncoderBackend.score`."""
        return self._runtime.run([pair.ids for pair in pairs], [pair.type_ids for pair in pairs])[:, 0]


def load_cross_encoder_backend(name: str, options: ModelOptions, passage_tokens: int = 0) -> CrossEncoderBackend:
    """Load a model by its name, see `load_runtime` and `ModelBackend`."""
    return ModelBackend(load_runtime(name, ModelKind.CROSS_ENCODER, options), passage_tokens)
