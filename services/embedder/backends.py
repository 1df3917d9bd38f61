"""Engines that turn texts into vectors: a model on one of the runtimes, or hashes where no model is configured."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference.models.info import ModelInfo, ModelKind
from services.inference.models.runtime import ModelOptions, Runtime, load_runtime
from services.inference.models.tokenization import TokenizedText, Word


class TextKind(StrEnum):
    """What a text is in a search. Some models want a prompt of their own in front of each."""

    QUERY = "query"
    DOCUMENT = "document"


class EmbeddingBackend(Protocol):
    """What the encoder needs of an engine. All calls block and are thread safe."""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[TokenizedText]:
        """Tokens of each text, with the model's prompt for this kind, cut to the model's limit."""

    def width(self, token_count: int) -> int:
        """Tokens that a text of so many costs, padding included."""

    def warm_up(self, batch_tokens: int) -> None:
        """Makes batches of up to so many padded tokens quick. Seconds."""

    def words(self, text: str) -> list[Word]:
        """All words of a text of any length; their tokens add up to those of the text, less what is around it."""

    def embed(self, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        """Vectors [texts, dimension] by one forward pass, padded to the longest text. At least one text."""


class ModelBackend:
    """A sentence-transformers model, pooled and normalized as its own files say."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.model = runtime.info

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> list[TokenizedText]:
        """See `EmbeddingBackend.tokenize`."""
        prompt = self._runtime.spec.prompts[kind]
        return self._runtime.tokenizer.texts([prompt + text for text in texts] if prompt else texts)

    def width(self, token_count: int) -> int:
        """See `EmbeddingBackend.width`."""
        return self._runtime.width(token_count)

    def warm_up(self, batch_tokens: int) -> None:
        """See `EmbeddingBackend.warm_up`."""
        self._runtime.warm_up(batch_tokens)

    def words(self, text: str) -> list[Word]:
        """See `EmbeddingBackend.words`."""
        return self._runtime.tokenizer.words(text)

    def embed(self, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        """See `EmbeddingBackend.embed`."""
        return self._runtime.run([text.ids for text in texts])


class PseudoBackend:
    """Unit vectors from hashed words: the same everywhere and for ever, near one another where texts share words.

    For development without a model. They know nothing of meaning, which `model.pseudo` says.
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
        """Words as 32-bit hashes; a text without any has one, so that its vector has a length."""
        tokenized = []
        for text in texts:
            words = self._WORDS.findall(text.casefold()) or [""]
            kept = words[: self._MAX_TOKEN_COUNT]
            ids = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) for word in kept]
            tokenized.append(TokenizedText(ids, truncated=len(kept) < len(words)))
        return tokenized

    def width(self, token_count: int) -> int:
        """Words cost what they are."""
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        """Nothing is slower the first time."""

    def words(self, text: str) -> list[Word]:
        """See `EmbeddingBackend.words`."""
        return [Word(found.start(), found.end(), 1) for found in self._WORDS.finditer(text)]

    def embed(self, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        """The sum of the words' vectors, brought to length 1."""
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
