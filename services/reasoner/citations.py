"""Checks of citations: the quoted words have to stand in the passage.

Quote and passage are compared after compatibility normalisation (NFKC), case folding and with one blank for all white
space between words. A quote begins and ends where words do, in scripts that separate them.
"""

from __future__ import annotations

import unicodedata

import regex

_PIECE = regex.compile(r"(?P<white>\s+)|[!-~]+(?!\p{M})|\X")
_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}]")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


class Folded:
    """A text as it is compared, with the place of each character in the original."""

    def __init__(self, text: str) -> None:
        parts: list[str] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        for match in _PIECE.finditer(text):
            piece = " " if match["white"] else fold(match.group())
            start, end = match.span()
            parts.append(piece)
            if len(piece) == end - start:  # each character stands for itself
                self._starts += range(start, end)
                self._ends += range(start + 1, end + 1)
            else:
                self._starts += [start] * len(piece)
                self._ends += [end] * len(piece)
        self.text = "".join(parts)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Return start and end of a quote in the original; None where it does not stand there."""
        wanted = Folded(quote).text.strip()
        if not _LETTER.search(wanted):
            return None
        place = self.text.find(wanted)
        while place >= 0:
            end = place + len(wanted)
            if not self._cuts(place) and not self._cuts(end):
                return self._starts[place], self._ends[end - 1]
            place = self.text.find(wanted, place + 1)
        return None

    def _cuts(self, place: int) -> bool:
        """True if a place is within a word."""
        around = self.text[max(0, place - 1) : place + 1]
        return place > 0 and len(around) == 2 and len(_LETTER.findall(around)) == 2 and not _UNSPACED.search(around)


def fold(text: str) -> str:
    """Fold the differences that do not count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
