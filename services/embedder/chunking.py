"""Split a text that is longer than the model's window into chunks that overlap.

A chunk takes as many words as fit; then its end moves back to the last place where a reader would pause, if half of
the chunk is left. The next chunk begins a little earlier, so that a sentence across the cut is whole in one of them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from services.inference.models.tokenization import Word
from sluice.embedder.v1 import embedder_pb2

# Pauses to cut after, the best first: paragraphs, sentences, lines, words as written (the tokenizer's are shorter).
# The matched text belongs to the chunk before the cut.
_PAUSES = (
    re.compile(r"\n\s*\n\s*"),
    re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？]\s*"),  # noqa: RUF001  full-width
    re.compile(r"\s*\n\s*"),
    re.compile(r"\s+"),
)
_LONGEST_PUNCTUATION = 8
# A character becomes at most as many tokens as its UTF-8 has bytes.
_TOKENS_A_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: the characters from `start` up to `end`."""

    start: int
    end: int
    token_count: int

    def to_proto(self) -> embedder_pb2.TextChunk:
        """Write the message."""
        return embedder_pb2.TextChunk(start=self.start, end=self.end, token_count=self.token_count)


def cut(text: str, words: Sequence[Word], *, room: int, overlap: int) -> list[Chunk]:
    """Split a text into chunks of at most `room` tokens that share at most `overlap` tokens with the one before.

    They cover the text, blanks included, and each begins and ends after the one before. `words` are all words of the
    text in order; a word that is longer than `room` is cut at any character.
    """
    words = [piece for word in words for piece in _pieces(word, room)]
    if not words:
        return [Chunk(0, len(text), 0)]
    starts = [word.start for word in words]
    before = [0, *accumulate(word.token_count for word in words)]

    def characters(word: int) -> int:
        if word == 0:
            return 0
        return starts[word] if word < len(words) else len(text)

    chunks: list[Chunk] = []
    first = end = 0
    while end < len(words):
        most = bisect_right(before, before[first] + room) - 1
        least = max(end + 1, bisect_left(before, before[first] + room / 2))
        end = _last_pause(text, starts, least, most) if most < len(words) else most
        chunks.append(Chunk(characters(first), characters(end), before[end] - before[first]))
        if end < len(words):
            shared = min(overlap, room // 2, room - words[end].token_count)
            first = _first_pause(text, starts, max(first + 1, bisect_left(before, before[end] - shared)), end)
    return chunks


def _pieces(word: Word, room: int) -> Sequence[Word]:
    if word.token_count <= room:
        return (word,)
    size = max(1, (room - 1) // _TOKENS_A_CHARACTER)
    return [Word(start, min(start + size, word.end), room) for start in range(word.start, word.end, size)]


def _last_pause(text: str, starts: Sequence[int], least: int, most: int) -> int:
    """The word to cut before, from `least` to `most`: the last after the best kind of pause."""
    for pause in _PAUSES:
        for place in range(most, least - 1, -1):
            if _follows(pause, text, starts, place):
                return place
    return most


def _first_pause(text: str, starts: Sequence[int], least: int, most: int) -> int:
    """The word to begin with, from `least` to `most`: the first after the best kind of pause."""
    for pause in _PAUSES:
        for place in range(least, most):
            if _follows(pause, text, starts, place):
                return place
    return most


def _follows(pause: re.Pattern[str], text: str, starts: Sequence[int], word: int) -> bool:
    """True if this pause lies right before a word."""
    if word == 0:
        return False
    here = starts[word]
    nearby = max(0, min(starts[word - 1], here - _LONGEST_PUNCTUATION))
    return any(found.end() == here for found in pause.finditer(text, nearby, here))
