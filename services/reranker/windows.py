"""The part of a long passage that the cross-encoder reads: its title, and the sentences that have most of the query.

A window depends on the query and its passage alone, so that a score does, too: whatever else is asked with it. Words
are the model's own tokens, which serves every language that the model knows.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence

from services.language.sentences import LONGEST, sentences

READ_CHARACTERS = 16_384
"""Characters of a passage in which its best sentences are looked for."""
# Largest share of a window for the title, which is the first line.
_TITLE_SHARE = 1 / 3
# Worth of a word that the window has already, next to a new one; and of being the first sentence, next to all words.
_COVERED, _FIRST = 0.3, 0.15
# Tokens that a sentence counts more than it has: otherwise a sentence of one word would often be the densest.
_LENGTH_OFFSET = 16

Tokens = Sequence[int]


def parts_of(passage: str) -> list[str]:
    """Cut a passage into its first line and its sentences, each with the white space before it.

    Together they are the passage, as far as it is read. A first line that is longer than a sentence counts as text:
    then the first part is empty, as it is where there is only one line.
    """
    text = passage[:READ_CHARACTERS]
    first = start = text.find("\n", 0, LONGEST) + 1
    parts = [text[:first]]
    for _, end in sentences(text[first:]):
        parts.append(text[start : first + end])
        start = first + end
    return parts


def best_window(query: Tokens, parts: Sequence[Tokens], room: int) -> list[int]:
    """Choose tokens from the parts of a passage, see `parts_of`: as many as there is room for, in their order.

    A rare word counts more than one that many sentences have.
    """
    keeps_title = len(parts[0]) <= room * _TITLE_SHARE
    title = parts[0] if keeps_title else ()
    rest = [part for part in parts[keeps_title:] if part]
    wanted = set(query)
    words = [wanted.intersection(sentence) for sentence in rest]
    counts = Counter(word for own in words for word in own)
    worth = {word: math.log(1 + len(rest) / count) for word, count in counts.items()}
    first = _FIRST * sum(worth.values())
    covered = wanted.intersection(title)

    def gain(place: int) -> float:
        new = sum(worth[word] * (_COVERED if word in covered else 1) for word in words[place])
        return (new + (first if place == 0 else 0)) / math.sqrt(len(rest[place]) + _LENGTH_OFFSET)

    # Sorted, so that the earlier of equals is taken; more than `room` of them are never needed.
    places = sorted(heapq.nlargest(room, range(len(rest)), key=gain))
    left = room - len(title)
    chosen: dict[int, Tokens] = {}
    while left > 0 and places:
        best = max(places, key=gain)
        places.remove(best)
        chosen[best] = rest[best][:left]
        covered |= words[best]
        left -= len(chosen[best])
    return [*title, *(token for place in sorted(chosen) for token in chosen[place])]
