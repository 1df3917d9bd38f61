"""A rebuild of a shard, from the side of the child that goes on serving it: when it is due, and its steps."""

from __future__ import annotations

import enum
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import qdrant_edge as edge

from services.retriever.engines.edge.building import Builder, Indexes, store
from services.retriever.engines.edge.generations import State
from services.retriever.engines.edge.points import portable
from services.retriever.store import PointId

GRAPH_FROM = 50_000
"""Passages from which a graph is built: below, comparing all vectors costs about as much."""

PAUSE_SECONDS = 5.0
"""Time without writes after which a build is worth its while: one that is overtaken is done again."""

# Passages beside the graph, and their share of those in it, for which it is built: while others are written, after a
# pause, and after a quiet minute.
_LEAST_BUSY_REST, _BUSY_REST = 200_000, 1.0
_LEAST_REST, _REST = 20_000, 0.5
_LEAST_QUIET_REST, _QUIET_REST = 5_000, 0.1
_QUIET_SECONDS = 60.0
_LEAST_GARBAGE, _GARBAGE = 10_000, 0.5

_RECORDS_AT_ONCE = 64
# Orders that wait in memory for the other process.
_MOST_UNDER_WAY = 64
_MOST_ROUNDS = 5
# So few changes, and those of the last moment, are repeated when the new data is loaded.
_FEW = 512
_WHOLE = (True, True)


class Sizes(NamedTuple):
    """Points of a shard."""

    passages: int
    rest: int
    """Those beside the graph, about."""
    garbage: int
    """Removed or replaced ones that still take room, about."""

    @classmethod
    def of(cls, shard: edge.EdgeShard, indexed: int, *, tokens: bool) -> Sizes:
        """Count without looking at points: Edge says how many vectors are in indexes, garbage included.

        Of a passage beside the graph, only words are; of one in it, the vector too, and the token vectors though there
        is no graph of those. Passages without words are missing, so that both numbers are too small for them.
        """
        info = shard.info()
        rest = info.indexed_vectors_count - (3 if tokens else 2) * indexed
        return cls(info.points_count, max(0, rest), max(0, rest + indexed - info.points_count))


class Progress(enum.Enum):
    """Outcome of a step."""

    MORE = "more"
    WAITING = "waiting"
    DONE = "done"


class _Phase(enum.Enum):
    COPYING = "copying"
    BUILDING = "building"
    CATCHING_UP = "catching up"
    FLUSHING = "flushing"
    CLOSING = "closing"


def due(
    sizes: Sizes,
    indexed: int,
    quiet_seconds: float,
    graph_from: int = GRAPH_FROM,
    pause_seconds: float = PAUSE_SECONDS,
) -> bool:
    """True if a rebuild makes the shard faster, or smaller, by enough; `quiet_seconds` passed since the last write."""
    if sizes.garbage > max(_LEAST_GARBAGE, _GARBAGE * sizes.passages):
        return True
    if sizes.passages < graph_from:
        return False
    if not indexed:
        return quiet_seconds >= pause_seconds or sizes.passages > _LEAST_BUSY_REST
    if quiet_seconds >= _QUIET_SECONDS:
        least, share = _LEAST_QUIET_REST, _QUIET_REST
    elif quiet_seconds >= pause_seconds:
        least, share = _LEAST_REST, _REST
    else:
        least, share = _LEAST_BUSY_REST, _BUSY_REST
    return sizes.rest > max(least, share * indexed)


class Rebuild:
    """Copies a shard into the process that builds, in steps, and lets that catch up with what changes meanwhile."""

    def __init__(self, source: edge.EdgeShard, path: Path, state: State, indexes: Indexes, *, graph: bool) -> None:
        """`state` is what the new generation is built by; it has a graph only where that is wanted."""
        self.path = path
        self.changed: set[PointId] = set()
        """Passages written or removed since they were copied."""
        self._source = source
        self._state = state
        self._graph = graph
        self._phase = _Phase.COPYING
        self._rounds = _MOST_ROUNDS
        self._start: str | None = None
        self._copied = 0
        self._builder = Builder(path, state, indexes)

    @property
    def overtaken(self) -> bool:
        """True if more has changed than the graph is being made of: what is built would be built again at once."""
        return self._phase is _Phase.BUILDING and len(self.changed) > self._copied

    def state(self) -> State:
        """Return the state of the finished generation."""
        return replace(self._state, indexed=self._builder.indexed)

    def step(self) -> Progress:
        """Do the next step, if the other process is ready for it. Raises BuildFailed."""
        under_way = self._builder.under_way()
        match self._phase:
            case _Phase.COPYING if under_way < _MOST_UNDER_WAY:
                payload, vectors = _WHOLE
                request = edge.ScrollRequest(self._start, _RECORDS_AT_ONCE, None, payload, vectors)
                records, following = self._source.scroll(request)
                self._builder.store((), records)
                self._copied += len(records)
                self._start = None if following is None else str(following)
                if following is None:
                    if self._graph:
                        self._builder.build()
                    self._phase = _Phase.BUILDING
            case _Phase.BUILDING if not under_way:
                self._phase = _Phase.CATCHING_UP
            case _Phase.CATCHING_UP if under_way < _MOST_UNDER_WAY:
                if len(self.changed) > _FEW:
                    self._builder.store(*self._some_changed())
                else:
                    self._builder.flush()
                    self._phase = _Phase.FLUSHING
            case _Phase.FLUSHING if not under_way:
                self._rounds -= 1
                if self._rounds and len(self.changed) > _FEW:
                    self._phase = _Phase.CATCHING_UP
                else:
                    self._builder.close()
                    self._phase = _Phase.CLOSING
            case _Phase.CLOSING if not under_way:
                return Progress.DONE
            case _:
                return Progress.WAITING
        return Progress.MORE

    def catch_up(self, target: edge.EdgeShard) -> None:
        """Repeat the last changes in the finished generation."""
        while self.changed:
            gone, records = self._some_changed()
            store(target, gone, map(portable, records))

    def stop(self) -> None:
        """End the other process."""
        self._builder.stop()

    def _some_changed(self) -> tuple[set[PointId], list[edge.Record]]:
        """Return some of the changed passages that are gone, and those that are there."""
        some = [self.changed.pop() for _ in range(min(_RECORDS_AT_ONCE, len(self.changed)))]
        records = self._source.retrieve([*some], *_WHOLE)
        return set(some) - {str(record.id) for record in records}, records
