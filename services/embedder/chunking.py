"""Split a text that is longer than the model's window into chunks that overlap.

A chunk takes as many words as fit; then its end moves back to the last place where a reader would pause, if half of
the chunk is left. The next chunk begins a little earlier, so that a sentence across the cut is whole in one of them.

A part of a text can have other tokens than it has within the text, so each chunk is counted by itself, and made
shorter until it fits.
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.inference.models.tokenization import Word
from sluice.embedder.v1 import embedder_pb2

# Marks that end a sentence: before blanks, perhaps after closing ones, or with nothing after them.
_ENDS, _CLOSING, _FULL_WIDTH_ENDS = ".!?…", "\"'”’»)]", "。！？"  # noqa: RUF001
_MOST_CLOSING = 8
# A character becomes at most as many tokens as its UTF-8 has bytes.
_TOKENS_A_CHARACTER = 4


class Pause(enum.IntEnum):
    """Places where a reader would pause, the best to cut at first."""

    PARAGRAPH = 0
    SENTENCE = 1
    LINE = 2
    BLANK = 3
    """Between words as written; the tokenizer's are shorter."""
    NONE = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: the characters from `start` up to `end`."""

    start: int
    end: int
    token_count: int

    def to_proto(self) -> embedder_pb2.TextChunk:
        """Write the message."""
        return embedder_pb2.TextChunk(start=self.start, end=self.end, token_count=self.token_count)


def cut(
    text: str, words: Iterable[Word], *, room: int, overlap: int, count: Callable[[str], int], lead: str = ""
) -> list[Chunk]:
    """Split a text into chunks of at most `room` tokens that share at most `overlap` tokens with the one before.

    They cover the text, blanks included, and each begins and ends after the one before. `words` are all words of the
    text in order; a word that is longer than `room` is cut at any character. `count` counts the tokens of a part, and
    `lead` is what stands before each chunk when it is read.
    """
    pieces = (piece for word in words for piece in _pieces(word, room))
    return _Cutter(text, pieces, room, overlap, count, lead).chunks() or [Chunk(0, len(text), 0)]


class _Cutter:
    """A text that is being cut.

    It keeps numbers and no words: a pass of the garbage collector over millions of objects holds the whole process.
    """

    def __init__(
        self, text: str, words: Iterable[Word], room: int, overlap: int, count: Callable[[str], int], lead: str
    ) -> None:
        self._text = text
        self._room = room
        self._overlap = overlap
        self._count = count
        self._lead = lead
        self._starts, self._before = array("q"), array("q", [0])
        for word in words:
            self._starts.append(_visible_start(text, word))
            self._before.append(self._before[-1] + word.token_count)
        self._pauses = _pauses(text, self._starts)

    def chunks(self) -> list[Chunk]:
        """Return all chunks in order."""
        chunks: list[Chunk] = []
        first = end = 0
        while end < len(self._starts):
            first, end, token_count = self._next(first, end)
            chunks.append(Chunk(self._character(first), self._character(end), token_count))
            if end < len(self._starts):
                first = self._shared_from(first, end)
        return chunks

    def _next(self, first: int, done: int) -> tuple[int, int, int]:
        """Return the words of a chunk that begins with `first` and passes `done`, and its tokens."""
        before, budget = self._before, self._room
        while True:
            most = max(done + 1, bisect_right(before, before[first] + budget) - 1)
            least = max(done + 1, bisect_left(before, before[first] + budget / 2))
            end = _last_pause(self._pauses, least, most) if most < len(self._starts) else most
            token_count = self._count(self._lead + self._part(first, end))
            if token_count <= self._room or (end == done + 1 and first == done):
                return first, end, token_count
            if end == done + 1:
                first, budget = done, self._room
            else:
                budget = min(budget, before[end] - before[first]) - (token_count - self._room)

    def _shared_from(self, first: int, end: int) -> int:
        """Return the first word of the chunk after the one of these words."""
        shared = min(self._overlap, self._room // 2, self._room - (self._before[end + 1] - self._before[end]))
        while shared > 0:
            least = max(first + 1, bisect_left(self._before, self._before[end] - shared))
            begin = _first_pause(self._pauses, least, end)
            excess = self._count(self._part(begin, end)) - self._overlap
            if begin == end or excess <= 0:
                return begin
            shared = min(shared, self._before[end] - self._before[begin]) - excess
        return end

    def _part(self, first: int, end: int) -> str:
        return self._text[self._character(first) : self._character(end)]

    def _character(self, word: int) -> int:
        if word == 0:
            return 0
        return self._starts[word] if word < len(self._starts) else len(self._text)


def _visible_start(text: str, word: Word) -> int:
    """Return where a word begins without the blanks before it, which some tokenizers count to it."""
    part = text[word.start : word.end]
    return word.start + (len(part) - len(part.lstrip()) if not part.isspace() else 0)


def _pieces(word: Word, room: int) -> Sequence[Word]:
    if word.token_count <= room:
        return (word,)
    size = max(1, (room - 1) // _TOKENS_A_CHARACTER)
    return [Word(start, min(start + size, word.end), room) for start in range(word.start, word.end, size)]


def _pauses(text: str, starts: Sequence[int]) -> bytearray:
    """Return the `Pause` right before each word, in time that grows with the length of the text."""
    pauses = bytearray([Pause.NONE])
    for last, here in pairwise(starts):
        before = text[last:here]
        end = last + len(before.rstrip())
        blanks = text[end:here]
        if blanks.count("\n") > 1:
            pauses.append(Pause.PARAGRAPH)
        elif _ends_a_sentence(text, end, bool(blanks)):
            pauses.append(Pause.SENTENCE)
        elif blanks:
            pauses.append(Pause.LINE if "\n" in blanks else Pause.BLANK)
        else:
            pauses.append(Pause.NONE)
    return pauses


def _ends_a_sentence(text: str, end: int, blank: bool) -> bool:
    """True if the text up to `end` ends a sentence; `blank` if a blank follows it."""
    place = end - 1
    if place < 0 or text[place] in _FULL_WIDTH_ENDS or not blank:
        return place >= 0 and text[place] in _FULL_WIDTH_ENDS
    least = max(0, place - _MOST_CLOSING)
    while place > least and text[place] in _CLOSING:
        place -= 1
    return text[place] in _ENDS


def _last_pause(pauses: bytearray, least: int, most: int) -> int:
    """Return the word to cut before, from `least` to `most`: the last after the best kind of pause."""
    return min(range(most, least - 1, -1), key=pauses.__getitem__, default=most)


def _first_pause(pauses: bytearray, least: int, most: int) -> int:
    """Return the word to begin with, from `least` up to `most`: the first after the best kind of pause."""
    return min(range(least, most), key=pauses.__getitem__, default=most)
