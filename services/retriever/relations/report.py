"""Report of the keys of a version, made in one pass and in bounded memory.

Names are counted by a hash of 22 bits, whatever the number of passages: 48 MB. Only names that many passages have are
kept as text. Of two names with the same hash both counts are too high, which matters for rare names alone: by chance
some lead to a title that is not there. The share of the hashes that titles have tells how many these are.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest

import numpy as np

from services.retriever.documents import Passage
from services.retriever.relations.keys import MAX_KEYS, Keys
from sluice.type.v1 import relation_pb2

COMMON_SHARE = 0.05
"""Share of all passages that may mention a name before it is suspicious."""
LONGEST_USUAL = 60
"""Characters of a name before it is suspicious."""
MOST_SHOWN = 20
_CELLS = 2**22
_MOST_NAMES = 4096


class Concern(enum.Enum):
    """Reason to look at a name."""

    COMMON = "common"
    """Very many passages mention it."""
    LONG = "long"
    TITLE = "title"
    """More documents have it as a title than a key may have to lead somewhere."""


@dataclass(frozen=True, slots=True)
class KeyCount:
    """A name, and where it stands."""

    key: str
    mentions: int
    """Passages that mention it."""
    titles: int
    """Documents that are about it."""
    concern: Concern | None = None

    def to_proto(self) -> relation_pb2.KeyCount:
        """Write the name."""
        concern = f"KEY_CONCERN_{self.concern.name if self.concern else 'UNSPECIFIED'}"
        return relation_pb2.KeyCount(
            key=self.key,
            mention_count=self.mentions,
            title_count=self.titles,
            concern=relation_pb2.KeyConcern.Value(concern),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Findings about the keys of a version; the proto says what each is."""

    passages: int
    keys_per_passage: float
    nameless: int
    capped: int
    leading_share: float
    frequent: int
    frequent_share: float
    most_holders: int
    frequent_keys: Sequence[KeyCount]
    suspicious: Sequence[KeyCount]

    def to_proto(self) -> relation_pb2.EnrichmentReport:
        """Write the report."""
        return relation_pb2.EnrichmentReport(
            passage_count=self.passages,
            keys_per_passage=self.keys_per_passage,
            nameless_count=self.nameless,
            capped_count=self.capped,
            leading_share=self.leading_share,
            frequent_key_count=self.frequent,
            frequent_share=self.frequent_share,
            most_holders=self.most_holders,
            frequent_keys=[one.to_proto() for one in self.frequent_keys],
            suspicious_keys=[one.to_proto() for one in self.suspicious],
        )


class KeyCounts:
    """Counts of the names of passages, one batch after the other."""

    def __init__(self, most_holders: int) -> None:
        """A name that more than `most_holders` passages have leads nowhere."""
        self._most_holders = most_holders
        self._passages = self._keys = self._nameless = self._capped = 0
        self._mentions, self._foreign, self._titles = (np.zeros(_CELLS, np.uint32) for _ in range(3))
        self._names: dict[str, int] = {}
        self._long: dict[str, int] = {}

    def add(self, passages: Sequence[Passage], keys: Sequence[Keys]) -> None:
        """Count the keys of passages."""
        self._passages += len(passages)
        self._keys += sum(len(own.about) + len(own.mentions) + len(own.refers) for own in keys)
        self._nameless += sum(not own.mentions for own in keys)
        self._capped += sum(len(own.mentions) >= MAX_KEYS for own in keys)
        mentions = [key for own in keys for key in own.mentions]
        titles = [
            key
            for passage, own in zip(passages, keys, strict=True)
            if passage.document_id == passage.id
            for key in own.about
        ]
        cells = _cells(mentions)
        np.add.at(self._mentions, cells, 1)
        np.add.at(self._foreign, _cells(key for own in keys for key in own.mentions if key not in own.about), 1)
        titled = _cells(titles)
        np.add.at(self._titles, titled, 1)
        self._keep(mentions, cells, self._mentions)
        self._keep(titles, titled, self._titles)
        for key in mentions:
            if len(key) > LONGEST_USUAL and len(self._long) < _MOST_NAMES:
                self._long.setdefault(key, _cell(key))

    def report(self) -> Report:
        """Return the findings so far."""
        foreign = max(1, int(self._foreign.sum(dtype=np.int64)))
        found = int(self._foreign[self._titles > 0].sum(dtype=np.int64)) / foreign
        by_chance = np.count_nonzero(self._titles) / _CELLS
        frequent = self._mentions > self._most_holders
        common = max(self._most_holders, int(COMMON_SHARE * self._passages))
        counted = [self._counted(key, cell) for key, cell in self._names.items()]
        suspicious = (
            [replace(one, concern=Concern.COMMON) for one in counted if one.mentions > common],
            [replace(one, concern=Concern.TITLE) for one in counted if one.titles > self._most_holders],
            [self._counted(key, cell, Concern.LONG) for key, cell in self._long.items()],
        )
        return Report(
            passages=self._passages,
            keys_per_passage=self._keys / max(1, self._passages),
            nameless=self._nameless,
            capped=self._capped,
            leading_share=max(0.0, (found - by_chance) / (1 - by_chance)),
            frequent=int(np.count_nonzero(frequent)),
            frequent_share=int(self._foreign[frequent].sum(dtype=np.int64)) / foreign,
            most_holders=self._most_holders,
            frequent_keys=_most([one for one in counted if one.mentions > self._most_holders]),
            suspicious=[one for kind in suspicious for one in _most(kind)],
        )

    def _keep(self, names: Sequence[str], cells: np.ndarray[tuple[int], np.dtype[np.int64]], counts: _Counts) -> None:
        """Keep the names that many have, or of too many of them the half that most have."""
        for place in np.flatnonzero(counts[cells] > self._most_holders).tolist():
            self._names[names[place]] = int(cells[place])
        if len(self._names) > _MOST_NAMES:
            kept = nlargest(_MOST_NAMES // 2, self._names, key=lambda key: self._most_of(self._names[key]))
            self._names = {key: self._names[key] for key in kept}

    def _most_of(self, cell: int) -> int:
        return max(int(self._mentions[cell]), int(self._titles[cell]))

    def _counted(self, key: str, cell: int, concern: Concern | None = None) -> KeyCount:
        return KeyCount(key, int(self._mentions[cell]), int(self._titles[cell]), concern)


_Counts = np.ndarray[tuple[int], np.dtype[np.uint32]]


def _most(keys: Iterable[KeyCount]) -> list[KeyCount]:
    return nlargest(MOST_SHOWN, keys, key=lambda one: (one.mentions, one.titles, one.key))


def _cell(key: str) -> int:
    return hash(key) & (_CELLS - 1)


def _cells(keys: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.fromiter((hash(key) for key in keys), np.int64) & (_CELLS - 1)
