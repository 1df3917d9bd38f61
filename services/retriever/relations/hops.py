"""Hops: from the best passages of a search along relations to further ones.

    question ─▶ titles that it names ─▶ bridges ─▶ keys of each ─▶ passages that have them

A *bridge* is one of the best passages so far. Each of its keys is looked for by itself: passages that are about what
the bridge mentions (a link), that mention the same (shared), and documents that it links to. The fewer passages have a
key, the more it tells: its share is its IDF over that of a key that one passage has, and a key that many have leads
nowhere. A bridge's own names and those of the question are left out: the search has looked for these already.

Two rules keep questions from harm that one passage answers. No passage passes the bridge that leads to it. And a
shared key tells the more, the more of the question's words the passage has of those that the bridge lacks: of two that
mention the same, the one that goes on with the question is meant.

Nothing is stored and nothing is learned. The idea of following names instead of a trained model is from HippoRAG
(Gutierrez and others, 2024), whose graph is not needed for it.
"""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, NamedTuple, Protocol

from services.chassis.timing import both
from services.retriever.documents import Passage
from services.retriever.relations.keys import keys_of, runs_of, term
from services.retriever.store import PointId
from sluice.type.v1 import relation_pb2


class Holders(Protocol):
    """Finds the passages that have each term, at most so many of each, among those that the request's filter admits."""

    def __call__(
        self, terms: Sequence[int], most: int, among: Sequence[PointId] = ()
    ) -> Awaitable[Sequence[Sequence[PointId]]]:
        """Look for them among all passages, or among these."""


Read = Callable[[Sequence[PointId]], Coroutine[Any, Any, dict[PointId, Passage]]]
"""Reads passages, if any are asked for."""


class PathKind(enum.Enum):
    """Reason why a passage was reached."""

    NAMED = "named"
    """The question names its title."""
    LINK = "link"
    """It is about what the bridge mentions."""
    SHARED = "shared"
    """It mentions what the bridge mentions."""
    REFERENCE = "reference"
    """The bridge links to it."""
    NEIGHBOUR = "neighbour"
    """It is the chunk before or after the bridge."""

    def to_proto(self) -> relation_pb2.RelationKind.ValueType:
        """Write the kind."""
        return relation_pb2.RelationKind.Value(f"RELATION_KIND_{self.name}")


class Path(NamedTuple):
    """The way to a passage."""

    kind: PathKind
    bridge: PointId
    """Empty where the question itself leads to it."""
    key: str
    """The name, or the id of a passage, that both have."""
    weight: float
    """Share that it brings, 0 to 1."""
    hop: int
    """From 1; 0 where the question itself leads to it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Numbers of a hop; docs/quality.md says how they were found."""

    bridges: int = 5
    fan_out: int = 40
    """Most passages that one bridge leads to."""
    keys: int = 24
    """Most keys of one bridge that are followed, those that stand first in it."""
    most_holders: int = 20
    """Passages that may have a key; one that more have leads nowhere."""
    shared: float = 0.6
    """Weight of a shared key; a link has 1."""
    coverage: float = 0.25
    """Exponent of the share of the question's words, of those that the bridge lacks, which a passage has that mentions
    the same as the bridge."""
    reference: float = 1.0
    neighbour: float = 0.2
    named: float = 0.3
    """Weight of a title that the question names."""
    weight: float = 0.5
    """Weight of the best path in a passage's score."""
    ceiling: float = 0.95
    """Greatest score that a path gives, as a share of the bridge's."""
    decay: float = 0.7
    """Factor of a path for each hop before it."""


RULES = Rules()


@dataclass(slots=True)
class Reached:
    """Outcome of hops."""

    scores: dict[PointId, float]
    """Of all candidates and all that was reached."""
    paths: dict[PointId, Path] = field(default_factory=dict)
    """The best way to each passage that a path led to."""
    bridges: dict[PointId, Passage] = field(default_factory=dict)
    followed: int = 0
    """Number of keys that led somewhere."""
    frequent: int = 0
    """Number of keys that too many passages have."""
    left_out: int = 0
    """Number of keys of bridges beyond the most that are followed."""


async def follow(
    question: str,
    words: Sequence[int],
    candidates: Sequence[tuple[PointId, float]],
    total: int,
    hops: int,
    holders: Holders,
    read: Read,
    rules: Rules = RULES,
) -> Reached:
    """Follow relations from the best of these candidates, of `total` passages in all, so many times in a row.

    `words` are the terms of the question's words.
    """
    reached = Reached(dict(candidates))
    if not candidates or not hops:
        return reached
    walk = _Walk(question, words, reached, total, holders, read, rules)
    # What the question names moves few candidates, so that the best of them are mostly the first bridges.
    likely = best_of(reached.scores, rules.bridges)
    reached.bridges, _ = await both(read(likely), walk.find_named())
    for hop in range(1, hops + 1):
        await walk.hop(hop)
    return reached


def best_of(scores: Mapping[PointId, float], count: int) -> list[PointId]:
    """Return the passages with the best scores, best first; equal ones in one order."""
    return nlargest(count, scores, key=lambda point: (scores[point], point))


class _Walk:
    """The state of one question."""

    def __init__(
        self,
        question: str,
        words: Sequence[int],
        reached: Reached,
        total: int,
        holders: Holders,
        read: Read,
        rules: Rules,
    ) -> None:
        self._asked = runs_of(question)
        self._words = list(dict.fromkeys(words))
        self._reached = reached
        self._rules = rules
        self._holders, self._read = holders, read
        self._base = reached.scores.copy()
        self._floor = min(self._base.values())
        self._total = max(total, 2)
        self._top = self._idf(1)

    async def find_named(self) -> None:
        """Raise passages whose titles the question names."""
        rules, shares = self._rules, defaultdict[PointId, float](float)
        keys: dict[PointId, str] = {}
        for (_, key), points in (await self._look_up(("about", key) for key in self._asked)).items():
            for point in points:
                shares[point] += self._share(points)
                keys[point] = max(keys.get(point, ""), key, key=len)
        for point, share in shares.items():
            weight = min(1.0, share)
            self._base[point] = self._base.get(point, self._floor) + rules.named * weight
            self._reached.paths[point] = Path(PathKind.NAMED, "", keys[point], weight, 0)
        self._reached.scores = self._base.copy()

    async def hop(self, number: int) -> None:
        """Follow the keys of the best passages so far, and score what they lead to."""
        rules, reached = self._rules, self._reached
        scores = reached.scores
        bridges = best_of(scores, rules.bridges)
        reached.bridges |= await self._read([point for point in bridges if point not in reached.bridges])
        bridges = [point for point in bridges if point in reached.bridges]
        wanted = {point: self._wanted(reached.bridges[point]) for point in bridges}
        found = await self._look_up(key for keys in wanted.values() for key in keys)
        shared = {
            point
            for keys in wanted.values()
            for key, kind in keys.items()
            if kind is PathKind.SHARED
            for point in found.get(key, ())
        }
        covered = await self._cover(shared, bridges)
        gained = scores.copy()
        for bridge, keys in wanted.items():
            scale = scores[bridge] / (scores[bridges[0]] or 1.0) * rules.decay ** (number - 1)
            paths = self._paths(bridge, keys, found, covered, number, scale)
            for point in nlargest(rules.fan_out, paths, key=lambda point: (paths[point].weight, point)):
                base = self._base.get(point, self._floor)
                score = min(base + rules.weight * paths[point].weight, rules.ceiling * scores[bridge])
                if score > gained.get(point, base) or point not in gained:
                    gained[point] = max(base, score)
                    reached.paths[point] = paths[point]
        reached.scores = gained

    def _wanted(self, passage: Passage) -> Mapping[tuple[str, str], PathKind]:
        """Return the keys by which a bridge leads on, each with what it makes of a passage that has it."""
        keys = keys_of(passage)
        known = {*self._asked, *keys.about}
        names = [key for key in keys.mentions if key not in known]
        self._reached.left_out += max(0, len(names) - self._rules.keys)
        names = names[: self._rules.keys]
        return (
            {("passage", key): PathKind.NEIGHBOUR for key in keys.neighbours}
            | {("passage", key): PathKind.REFERENCE for key in keys.refers[: self._rules.keys]}
            | {("mention", key): PathKind.SHARED for key in names}
            | {("about", key): PathKind.LINK for key in names}
        )

    def _paths(
        self,
        bridge: PointId,
        keys: Mapping[tuple[str, str], PathKind],
        found: Mapping[tuple[str, str], Sequence[PointId]],
        covered: Mapping[PointId, set[int]],
        number: int,
        scale: float,
    ) -> dict[PointId, Path]:
        """Return the best path from a bridge to each passage; keys that both share add up."""
        rules, shared = self._rules, defaultdict[PointId, float](float)
        weights = {PathKind.LINK: 1.0, PathKind.REFERENCE: rules.reference, PathKind.NEIGHBOUR: rules.neighbour}
        paths: dict[PointId, Path] = {}
        rarest: dict[PointId, tuple[float, str]] = {}
        for (kind, name), means in keys.items():
            points = found.get((kind, name), ())
            share = self._share(points)
            for point in points:
                if point == bridge:
                    continue
                if means is PathKind.SHARED:
                    shared[point] += share
                    rarest[point] = max(rarest.get(point, (0.0, "")), (share, name))
                elif (weight := weights[means] * share * scale) > (paths[point].weight if point in paths else 0.0):
                    paths[point] = Path(means, bridge, name, weight, number)
        lacking = set(self._words) - covered.get(bridge, set())
        for point, total in shared.items():
            coverage = len(lacking & covered.get(point, set())) / len(lacking) if lacking else 0.0
            weight = rules.shared * min(1.0, total) * coverage**rules.coverage * scale
            if weight > (paths[point].weight if point in paths else 0.0):
                paths[point] = Path(PathKind.SHARED, bridge, rarest[point][1], weight, number)
        return paths

    async def _cover(self, points: Iterable[PointId], bridges: Sequence[PointId]) -> dict[PointId, set[int]]:
        """Return the question's words that each of these passages has."""
        wanted = list(dict.fromkeys((*points, *bridges)))
        covered: dict[PointId, set[int]] = {}
        if self._words and len(wanted) > len(bridges):
            found = await self._holders(self._words, len(wanted), wanted)
            for word, holders in zip(self._words, found, strict=True):
                for point in holders:
                    covered.setdefault(point, set()).add(word)
        return covered

    async def _look_up(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Sequence[PointId]]:
        """Return the passages that have each key, of those keys that some have and not too many."""
        most, wanted = self._rules.most_holders, list(dict.fromkeys(keys))
        if not wanted:
            return {}
        found = await self._holders([term(kind, name) for kind, name in wanted], most + 1)
        self._reached.frequent += sum(len(points) > most for points in found)
        held = {key: points for key, points in zip(wanted, found, strict=True) if 0 < len(points) <= most}
        self._reached.followed += len(held)
        return held

    def _share(self, points: Sequence[PointId]) -> float:
        return self._idf(len(points)) / self._top

    def _idf(self, holders: int) -> float:
        return math.log1p((self._total - holders + 0.5) / (holders + 0.5))
