"""English texts of known lengths, all different, so that no cache answers for the model.

Pieces of Python's own language documentation, cut at words, with the lengths that the model's tokenizer counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pydoc_data.topics import topics

import tokenizers

from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model

MODEL = "all-MiniLM-L6-v2"
LENGTHS = (4, 256)
SHORT_LENGTHS = (4, 16)
PASSAGES = 50

_SPECIAL_TOKENS = 2
# As many texts in a row have the same spread of lengths, so that every round gets the same work.
_STRATUM = 32
_MARKUP = re.compile(r"[^\w\s.,;:()-]|[.:-]{2,}")


@dataclass(frozen=True, slots=True)
class Text:
    """A text and its length as the model counts it, special tokens included."""

    text: str
    token_count: int


@dataclass(frozen=True, slots=True)
class Question:
    """A query with the passages to rerank."""

    query: str
    passages: tuple[str, ...]


class Workload:
    """The texts of one seed, in the same order every time. No text comes twice, whichever method gives it."""

    def __init__(self, seed: int) -> None:
        self._source = _source()
        self._random = random.Random(seed)
        self._given: set[str] = set()

    def mixed(self, count: int) -> list[Text]:
        """Texts of 4 to 256 tokens, evenly spread over the logarithm of the length."""
        shortest, longest = LENGTHS
        return [self.text(round(shortest * (longest / shortest) ** spread)) for spread in self._spread(count)]

    def short(self, count: int) -> list[Text]:
        """Queries of 4 to 16 tokens, evenly spread."""
        shortest, longest = SHORT_LENGTHS
        return [self.text(round(shortest + (longest - shortest) * spread)) for spread in self._spread(count)]

    def questions(self, count: int, passages: int = PASSAGES) -> list[Question]:
        """Short queries, each with mixed passages."""
        return [
            Question(query.text, tuple(passage.text for passage in self.mixed(passages))) for query in self.short(count)
        ]

    def text(self, token_count: int) -> Text:
        """A text of exactly this number of tokens, at least 3."""
        while True:
            text = self._source.cut(self._random, token_count - _SPECIAL_TOKENS)
            if text not in self._given:
                self._given.add(text)
                return Text(text, token_count)

    def _spread(self, count: int) -> Iterator[float]:
        """Numbers from 0 to 1, evenly spread within every _STRATUM of them, in random order."""
        for start in range(0, count, _STRATUM):
            places = list(range(_STRATUM))
            self._random.shuffle(places)
            for place in places[: count - start]:
                yield (place + self._random.random()) / _STRATUM


class _Source:
    """The documentation and where its tokens begin and end."""

    def __init__(self) -> None:
        self._documentation = " ".join(_MARKUP.sub(" ", " ".join(topics.values())).split())
        encoding = tokenizer().encode(self._documentation, add_special_tokens=False)
        self._offsets = encoding.offsets
        words = encoding.word_ids
        # A text that begins and ends with whole words has the same tokens alone as it has here.
        self._begins_word = [before != word for before, word in zip([None, *words], words, strict=False)]

    def cut(self, chance: random.Random, tokens: int) -> str:
        """So many tokens from anywhere."""
        while True:
            start = chance.randrange(len(self._offsets) - tokens)
            if self._begins_word[start] and self._begins_word[start + tokens]:
                return self._documentation[self._offsets[start][0] : self._offsets[start + tokens - 1][1]]


@lru_cache(maxsize=1)
def _source() -> _Source:
    return _Source()


@lru_cache(maxsize=1)
def tokenizer() -> tokenizers.Tokenizer:
    """The model's tokenizer, which neither truncates nor pads."""
    model = resolve_model(MODEL, ModelKind.ENCODER, model_dir=None, cache_dir=default_cache_dir())
    loaded = tokenizers.Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded
