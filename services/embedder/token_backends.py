"""Backends that turn texts into vectors of their tokens: a late interaction model, or hashed words without a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.chassis.errors import StartupError
from services.embedder.backends import TextKind
from services.inference.engine import Engine, RuntimeEngine
from services.inference.models.info import ModelInfo, ModelKind
from services.inference.models.runtime import ModelOptions, Runtime, load_runtime
from services.inference.models.tokenization import LateText
from services.late.codes import Codes, encode
from services.late.pooling import pool

MOST_ROWS = 76
"""Most rows of a passage: of 129 bytes each they stay below 10 KB."""
_POOLING = 2
_PSEUDO_DIMENSION = 64


class TokenBackend(Engine, Protocol):
    """A loaded late interaction model."""

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[LateText]:
        """Tokens of each text as the model reads them, cut to its window."""

    def embed(self, texts: Sequence[LateText]) -> list[Codes]:
        """Rows of bytes of each text, see `services.late.codes`, by one forward pass. At least one text."""


class ModelTokenBackend(RuntimeEngine):
    """A late interaction model. Of a passage, vectors that are alike are pooled: half of them remain, 76 at most."""

    def __init__(self, runtime: Runtime, passage_tokens: int) -> None:
        super().__init__(runtime)
        info = runtime.info
        self._passage_tokens = min(passage_tokens, info.max_token_count)
        self.model = replace(info, dimension=info.dimension + 1, max_token_count=self._passage_tokens)

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[LateText]:
        """See `TokenBackend.tokenize`."""
        tokenizer = self._runtime.tokenizer
        if kind is TextKind.QUERY:
            return tokenizer.late_queries(texts)
        return tokenizer.late_passages(texts, self._passage_tokens)

    def embed(self, texts: Sequence[LateText]) -> list[Codes]:
        """See `TokenBackend.embed`."""
        states = self._runtime.run([text.ids for text in texts], attended=[text.attended for text in texts])
        return [_codes(text, rows[: text.token_count]) for text, rows in zip(texts, states, strict=True)]


def _codes(text: LateText, states: NDArray[np.float32]) -> Codes:
    if text.is_query:
        return encode(states)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    return encode(pool(unit, min(len(unit) // _POOLING, MOST_ROWS)))


class PseudoTokenBackend:
    """Hashed unit vectors of words: the score of a passage is the share of the query's words in it, and some noise.

    For development without a model. They carry no meaning, which `model.pseudo` tells.
    """

    _WORDS = re.compile(r"\w+")

    def __init__(self, passage_tokens: int) -> None:
        name = f"pseudo-tokens-{_PSEUDO_DIMENSION}"
        self.model = ModelInfo(
            name=name,
            fingerprint=hashlib.sha256(name.encode()).hexdigest(),
            dimension=_PSEUDO_DIMENSION + 1,
            max_token_count=passage_tokens,
            backend="pseudo",
            precision="fp32",
            device="cpu",
            pseudo=True,
        )
        self._word_codes = lru_cache(maxsize=8192)(_hashed)

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[LateText]:
        """Different words as 32-bit hashes; a text without words has one, so that it has a row."""
        tokenized = []
        for text in texts:
            words = list(dict.fromkeys(self._WORDS.findall(text.casefold()))) or [""]
            kept = words[: min(MOST_ROWS, self.model.max_token_count)]
            ids = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) for word in kept]
            is_query = kind is TextKind.QUERY
            tokenized.append(LateText(ids, len(ids), is_query=is_query, truncated=len(kept) < len(words)))
        return tokenized

    def width(self, token_count: int) -> int:
        """The token count: nothing is padded."""
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        """Do nothing: no pass is slower the first time."""

    def embed(self, texts: Sequence[LateText]) -> list[Codes]:
        """See `TokenBackend.embed`."""
        return [np.concatenate([self._word_codes(word) for word in text.ids]) for text in texts]


def _hashed(word: int) -> Codes:
    noise = hashlib.shake_256(word.to_bytes(4)).digest(2 * _PSEUDO_DIMENSION)
    return encode(np.frombuffer(noise, dtype="<i2").astype(np.float32)[np.newaxis])


def load_token_backend(name: str, options: ModelOptions, passage_tokens: int, *, pseudo: bool) -> TokenBackend | None:
    """Load a model by its name, see `load_runtime`; no backend without a name. `pseudo` serves hashes instead."""
    if not name:
        return None
    if pseudo:
        return PseudoTokenBackend(passage_tokens)
    try:
        return ModelTokenBackend(load_runtime(name, ModelKind.TOKENS, options), passage_tokens)
    except StartupError as error:
        remedy = f"{error.remedy} Or set TOKEN_MODEL to nothing: then the cross-encoder alone reranks."
        raise StartupError(error.message, remedy=remedy) from error
