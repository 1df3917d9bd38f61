"""Backends that turn texts into vectors: a model on one of the runtimes, or hashes if no model is configured."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.chassis.errors import InvalidArgument
from services.inference.engine import Engine, RuntimeEngine
from services.inference.models.info import ModelInfo, ModelKind
from services.inference.models.runtime import ModelOptions, load_runtime
from services.inference.models.tokenization import TokenizedText, Word
from sluice.embedder.v1 import embedder_pb2


class TextKind(StrEnum):
    """The role of a text in a search. Some models want a prompt of their own in front of each."""

    QUERY = "query"
    DOCUMENT = "document"

    @classmethod
    def from_proto(cls, number: int, field: str) -> TextKind:
        """Read a kind. Raises InvalidArgument, naming the field, if there is none."""
        kinds: dict[int, TextKind] = {
            embedder_pb2.TEXT_KIND_QUERY: cls.QUERY,
            embedder_pb2.TEXT_KIND_DOCUMENT: cls.DOCUMENT,
        }
        if (kind := kinds.get(number)) is None:
            raise InvalidArgument(field, f"must be TEXT_KIND_QUERY or TEXT_KIND_DOCUMENT, not {number}")
        return kind


class EmbeddingBackend(Engine, Protocol):
    """A loaded embedding model."""

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[TokenizedText]:
        """Tokens of each text, with the model's prompt for this kind, cut to the model's limit."""

    def words(self, text: str) -> Iterator[Word]:
        """All words of a text of any length; their tokens add up to those of the text without special tokens."""

    def count(self, text: str) -> int:
        """Number of tokens of a text of any length, without special tokens."""

    def embed(self, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        """Vectors [texts, dimension] by one forward pass, padded to the longest text. At least one text."""


class ModelBackend(RuntimeEngine):
    """A sentence-transformers model, pooled and normalized as its own files say."""

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[TokenizedText]:
        """See `EmbeddingBackend.tokenize`."""
        prompt = self._runtime.spec.prompts[kind]
        return self._runtime.tokenizer.texts([prompt + text for text in texts] if prompt else texts)

    def words(self, text: str) -> Iterator[Word]:
        """See `EmbeddingBackend.words`."""
        return self._runtime.tokenizer.words(text)

    def count(self, text: str) -> int:
        """See `EmbeddingBackend.count`."""
        return self._runtime.tokenizer.count(text)

    def embed(self, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        """See `EmbeddingBackend.embed`."""
        return self._runtime.run([text.ids for text in texts])


class PseudoBackend:
    """Unit vectors from hashed words: always the same, and near each other if texts share words.

    For development without a model. They carry no meaning, which `model.pseudo` tells.
    """

    _WORDS = re.compile(r"\w+")
    _MAX_TOKEN_COUNT = 512

    def __init__(self, dimension: int) -> None:
        name = f"pseudo-{dimension}"
        self.model = ModelInfo(
            name=name,
            fingerprint=hashlib.sha256(name.encode()).hexdigest(),
            dimension=dimension,
            max_token_count=self._MAX_TOKEN_COUNT,
            backend="pseudo",
            precision="fp32",
            device="cpu",
            pseudo=True,
        )
        self._word_vector = lru_cache(maxsize=8192)(self._hashed)

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[TokenizedText]:
        """Words as 32-bit hashes; a text without words has one, so that its vector has a length."""
        tokenized = []
        for text in texts:
            words = self._WORDS.findall(text.casefold()) or [""]
            kept = words[: self._MAX_TOKEN_COUNT]
            ids = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) for word in kept]
            tokenized.append(TokenizedText(ids, truncated=len(kept) < len(words)))
        return tokenized

    def width(self, token_count: int) -> int:
        """The token count: nothing is padded."""
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        """Do nothing: no pass is slower the first time."""

    def words(self, text: str) -> Iterator[Word]:
        """See `EmbeddingBackend.words`."""
        return (Word(found.start(), found.end(), 1) for found in self._WORDS.finditer(text))

    def count(self, text: str) -> int:
        """See `EmbeddingBackend.count`."""
        return len(self._WORDS.findall(text))

    def embed(self, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        """Sums of the words' vectors, scaled to length 1."""
        sums = np.stack([np.sum([self._word_vector(word) for word in text.ids], axis=0) for text in texts])
        unit: NDArray[np.float32] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    def _hashed(self, word: int) -> NDArray[np.float32]:
        noise = hashlib.shake_256(word.to_bytes(4)).digest(2 * self.model.dimension)
        vector: NDArray[np.float32] = np.frombuffer(noise, dtype="<i2").astype(np.float32)
        return vector


def load_embedding_backend(name: str, options: ModelOptions, *, pseudo_dimension: int = 384) -> EmbeddingBackend:
    """Load a model by its name, see `load_runtime`; without a name, make pseudo-embeddings."""
    return ModelBackend(load_runtime(name, ModelKind.ENCODER, options)) if name else PseudoBackend(pseudo_dimension)
