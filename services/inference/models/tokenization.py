"""Convert texts to token ids by the model's own tokenizer, from any number of threads.

Only the pieces between the special tokens come from the tokenizer; putting the special tokens around them and cutting
to length is done here. So a query is tokenized once for all its passages, and a cut is known exactly.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

# The tokenizers' own thread pool is sized by the host and would compete with inference for our processors.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Tokens that tell a late interaction model which side a text is on.
QUERY_MARKER, PASSAGE_MARKER = "[unused0]", "[unused1]"
# Of a query for it: most pieces, and the tokens that it is filled up to.
_QUERY_PIECES, _QUERY_TOKENS = 61, 32
# Most tokens of a piece of a word.
_PIECE_TOKENS = 4
# A long text is tokenized in blocks, cut at a blank if there is one: an encoding takes a hundred times its text.
_BLOCK = re.compile(r".{1,65536}(?!\S)|.{1,65536}", re.DOTALL)


# Characters of a text that are read first for each token of room; and tokens beyond the room that show that enough was
# read: the last ones before a cut may be others than in the whole text.
_CHARACTERS_A_TOKEN, _MARGIN = 8, 64


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as the model reads it: ids with special tokens, without padding."""

    ids: list[int]
    truncated: bool

    @property
    def token_count(self) -> int:
        """Number of tokens after truncation, with special tokens."""
        return len(self.ids)

    @property
    def key(self) -> bytes:
        """Key of its result: the model sees nothing but the ids."""
        return hashlib.blake2b(array("I", self.ids).tobytes(), digest_size=16).digest()


class Word(NamedTuple):
    """A word as a tokenizer sees it: characters from `start` up to `end`, and the number of its tokens."""

    start: int
    end: int
    token_count: int


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A query and a passage as the model reads them together; `type_ids` tells them apart."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool

    @property
    def token_count(self) -> int:
        """Number of tokens after truncation, with special tokens."""
        return len(self.ids)

    @property
    def key(self) -> bytes:
        """Key of its result: the model sees nothing but ids and types."""
        digest = hashlib.blake2b(array("I", self.ids).tobytes(), digest_size=16)
        digest.update(bytes(self.type_ids))
        return digest.digest()


@dataclass(frozen=True, slots=True)
class LateText:
    """A text as a late interaction model reads it: its role marked after the first token; a query filled with masks."""

    ids: list[int]
    attended: int
    """Tokens that all tokens attend to; the masks after them attend, and are not attended to."""
    is_query: bool
    truncated: bool

    @property
    def token_count(self) -> int:
        """Number of tokens after truncation, with special tokens and masks."""
        return len(self.ids)

    @property
    def key(self) -> bytes:
        """Key of its result: the model sees nothing but ids and attention, and the role decides what is made of it."""
        seen = array("I", [self.is_query, self.attended, *self.ids])
        return hashlib.blake2b(seen.tobytes(), digest_size=16).digest()


class Tokenizer:
    """A model's tokenizer with its limit. `definition` is the content of a tokenizer.json. Thread safe."""

    def __init__(self, definition: str, max_token_count: int) -> None:
        self._definition = definition
        self._local = threading.local()
        tokenizer = self._clone()
        self._single = _Template(tokenizer.encode("a"))
        self._pair = _Template(tokenizer.encode("a", "a"))
        self._text_room = max_token_count - self._single.special_count
        self._pair_room = max_token_count - self._pair.special_count

    def texts(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Tokenize each text by itself, cut at the end to the model's limit."""
        room, before, after = self._text_room, self._single.before, self._single.after
        return [
            TokenizedText([*before, *pieces[:room], *after], truncated=len(pieces) > room)
            for pieces in self.pieces(texts, room)
        ]

    def late_queries(self, texts: Sequence[str]) -> list[LateText]:
        """Tokenize queries for late interaction, cut to 61 pieces, filled with masks up to 32 tokens.

        So ColBERT expands queries (Khattab and Zaharia, SIGIR 2020). Raises ValueError if a token for it is missing.
        """
        mask = self._special("[MASK]")
        rows = self._marked(texts, QUERY_MARKER, _QUERY_PIECES)
        return [
            LateText([*ids, *[mask] * (_QUERY_TOKENS - len(ids))], len(ids), is_query=True, truncated=truncated)
            for ids, truncated in rows
        ]

    def late_passages(self, texts: Sequence[str], most_tokens: int) -> list[LateText]:
        """Tokenize passages for late interaction, cut to `most_tokens`; raise ValueError as above."""
        room = most_tokens - self._single.special_count - 1
        rows = self._marked(texts, PASSAGE_MARKER, room)
        return [LateText(ids, len(ids), is_query=False, truncated=truncated) for ids, truncated in rows]

    def _marked(self, texts: Sequence[str], marker: str, room: int) -> list[tuple[list[int], bool]]:
        before, after = [*self._single.before, self._special(marker)], self._single.after
        return [([*before, *pieces[:room], *after], len(pieces) > room) for pieces in self.pieces(texts, room)]

    def _special(self, token: str) -> int:
        number = self._tokenizer().token_to_id(token)
        if number is None:
            raise ValueError(f"its tokenizer has no token {token}")
        return int(number)

    def words(self, text: str) -> Iterator[Word]:
        """Split a text of any length into words, whose tokens add up to those of the text without special tokens.

        A word of many tokens comes in pieces: where a script has no blanks, a word can be a whole text.
        """
        last: Word | None = None
        for block in _BLOCK.finditer(text):
            (encoding,) = self._tokenizer().encode_batch([block[0]], add_special_tokens=False)
            number = None
            for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
                if last and word is not None and word == number and _go_on(last, block.start() + start):
                    last = Word(last.start, max(last.end, block.start() + end), last.token_count + 1)
                else:
                    if last:
                        yield last
                    last = Word(block.start() + start, block.start() + end, 1)
                number = word
        if last:
            yield last

    def count(self, text: str) -> int:
        """Count the tokens of a text of any length, without special tokens."""
        blocks = [block[0] for block in _BLOCK.finditer(text)]
        return sum(map(len, self._tokenizer().encode_batch_fast(blocks, add_special_tokens=False)))

    def pairs(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        """Tokenize the query with each passage; if both are too long together, the longer is cut first."""
        [query_pieces] = self.pieces([query], len(query))
        # Which of the two is cut depends on which is longer.
        passages_pieces = self.pieces(passages, max(self._pair_room, len(query_pieces)))
        return [self.pair(query_pieces, pieces) for pieces in passages_pieces]

    def pair(self, query: list[int], passage: list[int], *, truncated: bool = False) -> TokenizedPair:
        """Put a query and a passage together, see `pieces`; `truncated` says that this is a part of the passage."""
        template = self._pair
        query_length, passage_length = _longest_first(len(query), len(passage), self._pair_room)
        kept_query, kept_passage = query[:query_length], passage[:passage_length]
        ids = [*template.before, *kept_query, *template.between, *kept_passage, *template.after]
        passage_start = len(template.before) + query_length + len(template.between)
        type_ids = [template.query_type] * passage_start + [template.passage_type] * (len(ids) - passage_start)
        truncated = truncated or query_length + passage_length < len(query) + len(passage)
        return TokenizedPair(ids, type_ids, truncated)

    def pieces(self, texts: Sequence[str], room: int) -> list[list[int]]:
        """Tokens of each text without special ones; of one that has more than `room`, at least one more than that."""
        reach = [(room + _MARGIN) * _CHARACTERS_A_TOKEN] * len(texts)
        pieces: list[list[int]] = [[]] * len(texts)
        waiting = list(range(len(texts)))
        while waiting:
            # The batch call releases the GIL, unlike `encode`; `_fast` leaves out the character offsets.
            beginnings = [texts[place][: reach[place]] for place in waiting]
            encodings = self._tokenizer().encode_batch_fast(beginnings, add_special_tokens=False)
            for place, encoding in zip(waiting, encodings, strict=True):
                pieces[place] = encoding.ids
            waiting = [
                place for place in waiting if reach[place] < len(texts[place]) and len(pieces[place]) < room + _MARGIN
            ]
            for place in waiting:
                reach[place] *= 4
        return pieces

    def _tokenizer(self) -> tokenizers.Tokenizer:
        """Return the tokenizer of this thread."""
        tokenizer: tokenizers.Tokenizer | None = getattr(self._local, "tokenizer", None)
        if tokenizer is None:
            tokenizer = self._local.tokenizer = self._clone()
        return tokenizer

    def _clone(self) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer.from_str(self._definition)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def _go_on(word: Word, start: int) -> bool:
    """True if the token at `start` goes into this word, which it must if it is of the same character."""
    return word.token_count < _PIECE_TOKENS or start < word.end


class _Template:
    """Special tokens around one or two sequences, taken from an encoding that the tokenizer made."""

    def __init__(self, encoding: tokenizers.Encoding) -> None:
        ids, owners = encoding.ids, encoding.sequence_ids
        owned = [position for position, owner in enumerate(owners) if owner is not None]
        first, last = owned[0], owned[-1]
        self.before = ids[:first]
        self.between = [ids[position] for position in range(first, last) if owners[position] is None]
        self.after = ids[last + 1 :]
        self.special_count = len(self.before) + len(self.between) + len(self.after)
        self.query_type = encoding.type_ids[first]
        self.passage_type = encoding.type_ids[last]


def _longest_first(query: int, passage: int, room: int) -> tuple[int, int]:
    """Compute the tokens of each that fit into `room`, as `longest_first` of Hugging Face's tokenizers does."""
    shorter, longer = sorted((query, passage))
    if shorter + longer > room:
        longer = max(shorter, room - shorter)
        if shorter + longer > room:
            shorter, longer = room // 2, room - room // 2
    return (shorter, longer) if query <= passage else (longer, shorter)


def feed_for(
    ids: Sequence[list[int]],
    type_ids: Sequence[list[int]] | None,
    pad_token_id: int,
    width: int | None = None,
    attended: Sequence[int] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Make all inputs of a transformer, each [rows, width]; by default as wide as the longest row.

    `attended` is the number of tokens from the start of each row that the mask shows; by default all.
    """
    width = width or max(map(len, ids))
    input_ids = _padded(ids, width, pad_token_id)
    return {
        "input_ids": input_ids,
        "attention_mask": _padded([[1] * length for length in attended or map(len, ids)], width, 0),
        "token_type_ids": np.zeros_like(input_ids) if type_ids is None else _padded(type_ids, width, 0),
    }


def _padded(rows: Sequence[list[int]], width: int, value: int) -> NDArray[np.int64]:
    """Put rows of different length into one array [rows, width], filled up at the end with `value`."""
    block = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(block, rows, strict=True):
        line[: len(row)] = row
    return block
