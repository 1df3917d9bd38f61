"""A rebuild of a shard, from the side of the child that goes on serving it: when it is due, and its steps."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import NamedTuple

import qdrant_edge as edge

from services.retriever.engines.edge.building import Builder, Indexes, store
from services.retriever.engines.edge.generations import State
from services.retriever.engines.edge.points import DENSE, LEXICAL, portable
from services.retriever.store import PointId

GRAPH_FROM = 50_000
"""Passages from which a graph is built: below, comparing all vectors costs about as much."""

_LEAST_REST, _REST = 20_000, 0.5
# After a quiet minute the graph takes in less.
_LEAST_QUIET_REST, _QUIET_REST = 5_000, 0.1
_QUIET_SECONDS = 60.0
_LEAST_GARBAGE, _GARBAGE = 10_000, 0.5

_RECORDS_AT_ONCE = 128
# What changes while the new data is put on the disk is left to the child.
_FEW = 512
_WHOLE = (True, [DENSE, LEXICAL])


class Sizes(NamedTuple):
    """Points of a shard."""

    passages: int
    rest: int
    """Those beside the graph, about."""
    garbage: int
    """Removed or replaced ones that still take room, about."""

    @classmethod
    def of(cls, shard: edge.EdgeShard, indexed: int) -> Sizes:
        """Count without looking at points: Edge says how many vectors of both kinds are in indexes, garbage included.

        Passages without words are missing there, so that both numbers are too small for them.
        """
        info = shard.info()
        rest = info.indexed_vectors_count - 2 * indexed
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
    FINISHING = "finishing"


def due(sizes: Sizes, indexed: int, quiet_seconds: float, graph_from: int = GRAPH_FROM) -> bool:
    """True if a rebuild makes the shard faster, or smaller, by enough."""
    if sizes.garbage > max(_LEAST_GARBAGE, _GARBAGE * sizes.passages):
        return True
    if sizes.passages < graph_from:
        return False
    if not indexed:
        return True
    if quiet_seconds >= _QUIET_SECONDS:
        return sizes.rest > max(_LEAST_QUIET_REST, _QUIET_REST * indexed)
    return sizes.rest > max(_LEAST_REST, _REST * indexed)


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
        self._start: str | None = None
        self._builder = Builder(path, state.dimension, state.layout, indexes)

    def state(self) -> State:
        """Return the state of the finished generation."""
        return State(self._state.dimension, self._state.layout, self._builder.indexed)

    def step(self) -> Progress:
        """Do the next step, if the other process is ready for it. Raises BuildFailed."""
        if not self._builder.ready:
            return Progress.WAITING
        match self._phase:
            case _Phase.COPYING:
                payload, vectors = _WHOLE
                request = edge.ScrollRequest(self._start, _RECORDS_AT_ONCE, None, payload, vectors)
                records, following = self._source.scroll(request)
                self._builder.store((), records)
                self._start = None if following is None else str(following)
                if following is None:
                    self._phase = _Phase.BUILDING
            case _Phase.BUILDING:
                if self._graph:
                    self._builder.build()
                self._phase = _Phase.CATCHING_UP
            case _Phase.CATCHING_UP:
                if len(self.changed) <= _FEW:
                    self._builder.finish()
                    self._phase = _Phase.FINISHING
                else:
                    some = [self.changed.pop() for _ in range(_RECORDS_AT_ONCE)]
                    records = self._source.retrieve([*some], *_WHOLE)
                    self._builder.store(set(some) - {str(record.id) for record in records}, records)
            case _Phase.FINISHING:
                return Progress.DONE
        return Progress.MORE

    def catch_up(self, target: edge.EdgeShard) -> None:
        """Repeat the last changes in the finished generation."""
        ids = list(self.changed)
        for start in range(0, len(ids), _RECORDS_AT_ONCE):
            some = ids[start : start + _RECORDS_AT_ONCE]
            records = self._source.retrieve([*some], *_WHOLE)
            store(target, set(some) - {str(record.id) for record in records}, map(portable, records))

    def stop(self) -> None:
        """End the other process."""
        self._builder.stop()
