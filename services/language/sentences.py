"""Sentences of a text, in time that grows with its length alone."""

from __future__ import annotations

from collections.abc import Iterator

import regex

LONGEST = 400
"""Most characters of a sentence; what is longer is cut between words, if it has any."""

# Always matches as much as it can, so that no character is looked at twice. Whether it ends a sentence is seen then.
_STOP = regex.compile(
    r"""(?P<stop>[\p{Sentence_Terminal}\u2026]++)[\p{Pe}\p{Pf}\p{Pi}"'*_]*+(?P<space>\s*+)|\n\s*+""", regex.VERBOSE
)
_WHITE = regex.compile(r"\s++")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Iterate over the sentences, each from its first character to the one after its last, without white space around.

    A sentence ends with a full stop, question or exclamation mark before white space (not before a small letter where
    it is a full stop), with such a mark of a script that writes no space after it, or with an empty line.
    """
    start = 0
    for found in _STOP.finditer(text):
        if _ends(text, found):
            yield from _pieces(text, start, found.start("space") if found["stop"] else found.start())
            start = found.end()
    yield from _pieces(text, start, len(text))


def _ends(text: str, found: regex.Match[str]) -> bool:
    if not found["stop"]:
        return bool(found[0].count("\n") > 1)
    if found["stop"][-1] not in ".!?\u2026":
        return True
    following = text[found.end() : found.end() + 1]
    if not found["space"]:
        return not following
    return found["space"].count("\n") > 1 or not (found["stop"][-1] in ".\u2026" and following.islower())


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Trim a sentence, and cut it where it is too long."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > LONGEST:
        cut = start + LONGEST
        for white in _WHITE.finditer(text, start, cut):
            cut = white.start()
        yield start, cut
        start = cut
        while text[start].isspace():
            start += 1
    if start < end:
        yield start, end
