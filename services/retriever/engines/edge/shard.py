"""A version in a folder of its own, kept by Qdrant Edge; runs in the child process.

Nothing here waits, and nothing here knows asyncio, gRPC or qdrant-client: importing them would cost the child 2 s.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge

from services.late.codes import Codes
from services.retriever.engines.edge import searching
from services.retriever.engines.edge.building import BuildFailed
from services.retriever.engines.edge.configuration import indexes_of, to_config, to_index
from services.retriever.engines.edge.filters import bool_key, to_filter
from services.retriever.engines.edge.generations import Damaged, Generations, State
from services.retriever.engines.edge.points import SELECTED, Refused, to_points, to_row, to_word_updates
from services.retriever.engines.edge.rebuilding import GRAPH_FROM, PAUSE_SECONDS, Progress, Rebuild, Sizes, due
from services.retriever.engines.payloads import payload_key, revision_of
from services.retriever.fields import ALL, FieldType, Filter, Scalar, Schema
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector
from services.retriever.store import PLAIN, Hit, Parts, PointId, Query, Revisions, Row

T = TypeVar("T")

__all__ = ["Damaged", "PoisonedLog", "Refused", "Shard"]

# A flush syncs some dozen files, and readers wait for it; what is not flushed is replayed at 0.1 ms a passage. Token
# vectors take 29 KB a passage in the log.
_PASSAGES_A_FLUSH, _PASSAGES_WITH_TOKENS_A_FLUSH = 8000, 2000
# A version that has not been written to for so long is flushed.
_QUIET_SECONDS = 1.0
_SLICE_SECONDS = 0.03
_SECONDS_AFTER_FAILURE = 600.0
_STEP_SECONDS = 0.005

# Fields whose layout a rebuild changes.
_BUILT = frozenset({"vectors_on_disk", "payload_on_disk", "hnsw_m", "hnsw_ef_construct", "quantization"})


_log = logging.getLogger("retriever")


class PoisonedLog(Damaged):
    """The folder can be read, but its log of what is not flushed cannot: load it with `without_log`."""


class Shard:
    """One version.

    Its calls raise `Refused`, and `Damaged` where only loading the folder anew helps, in a new process: after a panic,
    flushing or closing the shard would put on the disk what the panic left half done.
    """

    def __init__(
        self, generations: Generations, shard: edge.EdgeShard, state: State, graph_from: int, pause_seconds: float
    ) -> None:
        """Use `create` or `load`."""
        self._generations = generations
        self._shard = shard
        self._state = state
        self._graph_from = graph_from
        self._pause_seconds = pause_seconds
        self._indexes = indexes_of(shard)
        self._pristine = searching.counts_right(shard)
        self._broken = False
        self._unflushed = 0
        self._written_at = 0.0
        self._rebuild: Rebuild | None = None
        self._no_build_before = 0.0
        self._replaced: edge.EdgeShard | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        dimension: int,
        layout: Layout = PLAIN,
        token_dimension: int = 0,
        *,
        graph_from: int = GRAPH_FROM,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> Shard:
        """Create an empty version, durably, in a folder that does not exist yet or is empty.

        From `graph_from` passages on, vectors are searched for by a graph, which is built when nothing was written for
        `pause_seconds`, or when very many were.
        """
        folder.mkdir(parents=True, exist_ok=True)
        generations = Generations(folder)
        path = generations.next()
        path.mkdir()
        shard = _attempt(lambda: edge.EdgeShard.create(str(path), to_config(dimension, layout, token_dimension)))
        _attempt(shard.flush)
        state = State(dimension, layout, layout, token_dimension)
        generations.keep(path, state)
        generations.switch(path)
        return cls(generations, shard, state, graph_from, pause_seconds)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        without_log: bool = False,
        graph_from: int = GRAPH_FROM,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> Shard:
        """Open a version and replay its log; `without_log` sets the log aside, so that what it held is lost.

        What is there is copied then: of changes that are not in the log, the old data takes none whose number it has
        seen, and fails at what the panic left.
        """
        generations = Generations(folder)
        path = generations.current
        state = generations.state(path)
        if without_log:
            generations.set_log_aside()
        try:
            shard = edge.EdgeShard.load(str(path))
        except BaseException as error:
            if _is_panic(error) and not without_log:
                raise PoisonedLog("its log cannot be replayed") from None
            raise _damaged(error) from None
        generations.tidy()
        loaded = cls(generations, shard, state, graph_from, pause_seconds)
        if without_log:
            loaded._copy()
        return loaded

    @property
    def unflushed(self) -> int:
        """Number of changes since the last flush, about: 0 if everything is on the disk."""
        return self._unflushed

    @property
    def settled(self) -> bool:
        """True if no build is under way, or due."""
        return self._rebuild is None and self._replaced is None

    @property
    def build_failed(self) -> bool:
        """True from a build that failed until one succeeds, or none is due any more."""
        return self._no_build_before > 0

    def write(self, rows: Sequence[Row], still: Revisions | None = None) -> None:
        """Write all passages or none (Refused), each only if it still has its revision in `still`; "" for absent."""
        points, copies = to_points(rows, self._state.dimension, self._state.token_dimension)
        if still is not None:
            known = self._revisions(list(still))
            points = [point for point, row in zip(points, rows, strict=True) if known.get(row.id, "") == still[row.id]]
        for key, kind in copies.items():
            self._index(key, kind)
        if points:
            before = self.size()
            self._update(edge.UpdateOperation.upsert_points(points), len(points))
            self._changed((str(point.id) for point in points), replaced=self.size() < before + len(points))

    def replace_words(self, words: Mapping[PointId, SparseVector]) -> None:
        """Replace the words of passages that exist; nothing else of them changes."""
        points = to_word_updates(words)
        if points:
            self._update(edge.UpdateOperation.update_vectors(points), len(points))
            self._changed(words, replaced=True)

    def remove(self, ids: Sequence[PointId], still: Revisions | None = None) -> None:
        """Remove passages, each only if it still has its revision in `still`, where that is given."""
        known = self._revisions(ids)
        gone = [one for one in known if still is None or known[one] == still.get(one)]
        if gone:
            self._update(edge.UpdateOperation.delete_points(list(gone)), len(gone))
            self._changed(gone, replaced=True)

    def search(
        self, searches: Sequence[Query], limit: int, condition: Filter = ALL, layout: Layout = PLAIN
    ) -> list[list[Hit]]:
        """Return the best passages of each search, best first; see `PassageStore.search`."""
        requests = searching.to_requests(
            searches, limit, self._filter(condition), layout, self._state.dimension, pristine=self._pristine
        )
        found = self._do(lambda: self._shard.query_batch(edge.QueryBatchRequest(requests)))
        return [searching.to_hits(points) for points in found]

    def holders(
        self, terms: Sequence[int], limit: int, condition: Filter = ALL, among: Sequence[PointId] = ()
    ) -> list[list[PointId]]:
        """Return the passages that have each term; see `PassageStore.holders`."""
        requests = searching.to_term_requests(terms, limit, self._filter(condition), among)
        found = self._do(lambda: self._shard.query_batch(edge.QueryBatchRequest(requests)))
        return [[str(point.id) for point in points] for points in found]

    def compare(self, tokens: Codes, points: Sequence[PointId]) -> Mapping[PointId, float]:
        """Return the scores of passages by token vectors; see `PassageStore.compare`."""
        request = searching.to_comparison(tokens, points, self._state.token_dimension)
        return searching.to_scores(self._do(lambda: self._shard.query(request)))

    def read(self, ids: Sequence[PointId], parts: Parts, keys: Sequence[PointId] = ()) -> list[Row]:
        """Return the passages that exist; of those in `keys`, only their keys."""
        return [
            to_row(record)
            for wanted, selected in ((ids, parts), (keys, Parts.KEYS))
            if wanted
            for record in self._retrieve(wanted, *SELECTED[selected])
        ]

    def scroll(
        self, start: PointId | None, limit: int, parts: Parts, condition: Filter = ALL
    ) -> tuple[list[Row], PointId | None]:
        """Return matching passages from `start` on in the order of their points, and the start of the next ones."""
        payload, vectors = SELECTED[parts]
        records, following = self._do(
            lambda: self._shard.scroll(edge.ScrollRequest(start, limit, self._filter(condition), payload, vectors))
        )
        return [to_row(record) for record in records], None if following is None else str(following)

    def count(self, condition: Filter = ALL) -> int:
        """Count matching passages exactly."""
        if not condition:
            return self.size()
        request = edge.CountRequest(exact=True, filter=self._filter(condition))
        return self._do(lambda: self._shard.count(request))

    def facet(self, field: str, limit: int, condition: Filter = ALL) -> list[tuple[Scalar, int]]:
        """Return the most frequent values of a declared field among matching passages, each with its number."""
        is_bool = bool_key(field) in self._indexes
        key = bool_key(field) if is_bool else payload_key(field)
        if self._indexes.get(key, ("Float",))[0] == "Float":
            raise Refused(f"values of the field {field} cannot be counted")
        request = edge.FacetRequest(key, limit, exact=True, filter=self._filter(condition))
        hits = self._do(lambda: self._shard.facet(request).hits)
        found = [(hit.value == "True" if is_bool else hit.value, hit.count) for hit in hits]
        return sorted(found, key=lambda one: (-one[1], one[0]))

    def declare(self, schema: Schema, tenant: str = "") -> None:
        """Index fields for filters; of a field that has another type by now, index it again."""
        for field, kind in schema.items():
            if kind is FieldType.BOOL:
                self._index(bool_key(field), "Keyword")
            else:
                self._index(payload_key(field), kind.value.capitalize(), tenant=field == tenant)

    def tune(self, layout: Layout) -> None:
        """Keep the version by another layout; it is rebuilt in the background (see `idle`)."""
        if layout == self._state.wanted:
            return
        self._state = replace(self._state, wanted=layout)
        self._generations.keep(self._generations.current, self._state)
        self._give_up()

    def size(self) -> int:
        """Return the number of passages, without counting them."""
        return self._do(self._shard.info).points_count

    def flush(self) -> None:
        """Put on disk what was written."""
        if self._broken:
            raise Damaged("it has panicked, and what it holds must not reach the disk")
        self._do(self._shard.flush)
        self._unflushed = 0

    def idle(self) -> bool:
        """Do a slice of housekeeping, mostly at most 50 ms: flush, build the graph, vacuum. True if there is more now.

        To be called when nothing else waits, and at least once a second while something does. A build takes a process
        of its own, and changes nothing until it is done: then the version's data is another folder, which is loaded.
        """
        quiet = time.monotonic() - self._written_at
        if self._unflushed and quiet >= _QUIET_SECONDS:
            self.flush()
        if self._replaced is not None:
            self._forget()
            return True
        if self._rebuild is not None and self._rebuild.overtaken:
            self._give_up()
        try:
            if self._rebuild is None:
                self._rebuild = self._due(quiet)
            if self._rebuild is None:
                return False
            end = time.monotonic() + _SLICE_SECONDS
            while (progress := self._do(self._rebuild.step)) is Progress.MORE:
                if time.monotonic() > end:
                    return True
            if progress is Progress.DONE:
                self._swap(self._rebuild)
                return True
        except BuildFailed as error:
            self._give_up()
            self._no_build_before = time.monotonic() + _SECONDS_AFTER_FAILURE
            _log.warning("a version was not rebuilt, and is tried again later: %s", error)
            return False
        return False

    def close(self) -> None:
        """Flush and free the folder; a build that is under way is given up."""
        self._give_up()
        if not self._broken:
            self._forget()
            self.flush()
            self._do(self._shard.close)

    def _due(self, quiet: float) -> Rebuild | None:
        if time.monotonic() < self._no_build_before:
            return None
        indexed = self._state.indexed
        sizes = Sizes.of(self._shard, indexed, tokens=bool(self._state.token_dimension))
        wanted = self._state.wanted
        tuned = bool(_BUILT & wanted.changed(self._state.layout))
        if not (tuned or due(sizes, indexed, quiet, self._graph_from, self._pause_seconds)):
            self._no_build_before = 0.0
            return None
        if not self._generations.has_room():
            raise BuildFailed("the disk has no room for it")
        state = replace(self._state, layout=wanted, wanted=wanted, indexed=0)
        graph = sizes.passages >= self._graph_from
        return Rebuild(self._shard, self._generations.next(), state, self._indexes, graph=graph)

    def _swap(self, rebuild: Rebuild) -> None:
        """Let a finished generation, once it has the last changes, be the one that counts. Readers wait for this."""
        path, state = rebuild.path, rebuild.state()
        self._generations.keep(path, state)
        try:
            shard = edge.EdgeShard.load(str(path))
        except BaseException as error:
            raise BuildFailed("what was built cannot be loaded") from error
        try:
            known, indexes = self._indexes, indexes_of(shard)
            self._unflushed = len(rebuild.changed)
            rebuild.catch_up(shard)
            self._replaced, self._shard, self._state, self._indexes = self._shard, shard, state, indexes
            self._pristine = searching.counts_right(shard)
            for key, (kind, tenant) in known.items():
                self._index(key, kind, tenant=tenant)
            if self._unflushed:
                self.flush()
            self._generations.switch(path)
        except BaseException as error:
            # The old generation has everything, and is the one that the next process loads.
            self._broken = True
            raise Damaged(f"what was built could not take over: {type(error).__name__}") from error
        rebuild.stop()
        self._rebuild = None

    def _forget(self) -> None:
        """Close and remove the generation that was replaced."""
        if self._replaced is not None:
            self._do(self._replaced.close)
            self._replaced = None
            self._generations.tidy()

    def _copy(self) -> None:
        """Let the next generation be a copy, without a graph."""
        state = replace(self._state, layout=self._state.wanted, indexed=0)
        self._rebuild = Rebuild(self._shard, self._generations.next(), state, self._indexes, graph=False)
        try:
            while (progress := self._do(self._rebuild.step)) is not Progress.DONE:
                if progress is Progress.WAITING:
                    time.sleep(_STEP_SECONDS)
            self._swap(self._rebuild)
        except BuildFailed as error:
            self._give_up()
            raise Damaged(f"it cannot be copied: {error}") from error
        before, self._replaced = self._replaced, None
        with contextlib.suppress(BaseException):  # a panic is possible here, and does not matter any more
            assert before is not None  # noqa: S101  it was swapped
            before.close()
        self._generations.tidy()

    def _give_up(self) -> None:
        if self._rebuild is not None:
            self._rebuild.stop()
            self._rebuild = None
            self._generations.tidy()

    def _revisions(self, ids: Sequence[PointId]) -> dict[PointId, str]:
        records = self._retrieve(ids, ["revision"], False)
        return {str(record.id): revision_of(record.payload or {}) for record in records}

    def _retrieve(self, ids: Sequence[PointId], payload: Any, vectors: Any) -> list[edge.Record]:
        return self._do(lambda: self._shard.retrieve(list(ids), payload, vectors))

    def _filter(self, condition: Filter) -> edge.Filter | None:
        return to_filter(condition, self._indexes)

    def _index(self, key: str, kind: str, *, tenant: bool = False) -> None:
        known = self._indexes.get(key)
        if known == (kind, tenant):
            return
        if known is not None:
            self._update(edge.UpdateOperation.delete_field_index(key))
        self._update(edge.UpdateOperation.create_field_index(key, to_index(kind, tenant=tenant)))
        self._indexes[key] = (kind, tenant)

    def _update(self, operation: edge.UpdateOperation, changes: int = 1) -> None:
        try:
            self._shard.update(operation)
        except BaseException as error:
            # A part of it may be stored; the log holds it all, so that loading the folder repeats it.
            self._broken = True
            raise _damaged(error) from None
        self._unflushed += changes
        self._written_at = time.monotonic()
        if self._unflushed >= (_PASSAGES_WITH_TOKENS_A_FLUSH if self._state.token_dimension else _PASSAGES_A_FLUSH):
            self.flush()

    def _changed(self, ids: Iterable[PointId], *, replaced: bool) -> None:
        self._pristine = self._pristine and not replaced
        if self._rebuild is not None:
            self._rebuild.changed.update(ids)

    def _do(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            if type(error) is Exception:
                raise Refused("Qdrant Edge refuses it") from error
            if not _is_panic(error):
                raise
            self._broken = True
            raise _damaged(error) from None


def _attempt(call: Callable[[], T]) -> T:
    try:
        return call()
    except BaseException as error:
        raise _damaged(error) from None


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


def _damaged(error: BaseException) -> BaseException:
    """Return the error for one of Edge, which has no types of its own; what comes from elsewhere stays as it is."""
    if _is_panic(error) or type(error) is Exception:
        return Damaged(f"Qdrant Edge failed: {error}")
    return error
