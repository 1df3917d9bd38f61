"""The data folder, as the child process has it: versions, each with its journal, under one catalogue."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    SluiceError,
)
from services.late.codes import Codes
from services.retriever.engines.edge.catalogue import FOLDER, CatalogueFile, free_bytes, storage_full, sync
from services.retriever.engines.edge.journal import Journal
from services.retriever.engines.edge.shard import Damaged, PoisonedLog, Refused, Shard
from services.retriever.engines.edge.wire import Health, Packed, pack_rows, unpack_queries, unpack_rows
from services.retriever.fields import FieldType, Filter, Scalar
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector
from services.retriever.store import Hit, Notes, Parts, PointId, Revisions

Log = Callable[..., None]
"""Takes a level, an event and its fields."""

_SHARD, _JOURNAL = "shard", "journal"
_ROOM_FACTOR = 6  # bytes on disk that a byte of a message takes at most, with log, journal and indexes


class Broken(Exception):
    """A version has to be loaded again, and in another process: in this one, freeing it would store what is broken."""

    def __init__(self, answer: SluiceError) -> None:
        """`answer` is for the caller of what broke it."""
        super().__init__(str(answer))
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Kept:
    """A version that can be used."""

    shard: Shard
    journal: Journal


class DataFolder:
    """Versions of collections in `FOLDER/versions/NAME/`. A version that cannot be read is refused; others serve."""

    def __init__(self, path: Path, reserve: int, log: Log) -> None:
        """Open all versions; writes leave `reserve` bytes of the disk free. Raises CatalogueLost and OSError."""
        self._path = path
        self._reserve = reserve
        self._log = log
        self._catalogue = CatalogueFile(path)
        self._kept: dict[str, _Kept] = {}
        self._damaged: dict[str, str] = {}
        self._logs_set_aside = 0
        (path / FOLDER).mkdir(exist_ok=True)
        for stray in {found.name for found in (path / FOLDER).iterdir()} - self._catalogue.versions.keys():
            # Its creation was not finished, or its deletion.
            self._delete(stray)
        for version in self._catalogue.versions:
            self._load(version)

    @property
    def health(self) -> Health:
        """Numbers for the parent's series."""
        not_rebuilt = sum(kept.shard.build_failed for kept in self._kept.values())
        return Health(len(self._damaged), not_rebuilt, self._logs_set_aside)

    def catalogue(self) -> Packed:
        """Return the names of all versions, and the aliases."""
        return list(self._catalogue.versions), dict(self._catalogue.aliases)

    def describe(self, name: str) -> Packed:
        """Return the version behind a name, its notes, and the number of its passages."""
        version = self._catalogue.aliases.get(name, name)
        return version, self._catalogue.versions.get(version), self._of(version).shard.size()

    def create(self, version: str, dimension: int, layout: Layout, notes: Notes, token_dimension: int) -> None:
        """Create an empty version: what the catalogue names is there."""
        if version in self._catalogue.versions:
            raise AlreadyExists(f"there is a version {version!r} already")
        self._check_room(0)
        self._delete(version)
        folder = self._path / FOLDER / version
        folder.mkdir()
        shard = Shard.create(folder / _SHARD, dimension, layout, token_dimension)
        kept = _Kept(shard, Journal(folder / _JOURNAL))
        try:
            shard.flush()
            sync(folder)
            sync(folder.parent)
            self._catalogue.add(version, notes)
        except BaseException:
            self._free(kept)
            self._delete(version)
            raise
        self._kept[version] = kept

    def tune(self, version: str, layout: Layout) -> None:
        """Keep a version by another layout."""
        with self._changing(version) as kept:
            kept.shard.tune(layout)

    def note(self, version: str, notes: Notes) -> None:
        """Merge notes into those of a version."""
        self._check_known(version)
        self._catalogue.note(version, notes)

    def drop(self, version: str) -> None:
        """Delete a version, its aliases first; one that is not there is no error, so that this can be repeated."""
        if version in self._catalogue.versions:
            self._catalogue.remove(version)
        self._damaged.pop(version, None)
        if (kept := self._kept.pop(version, None)) is not None:
            self._free(kept)
        self._delete(version)

    def point(self, alias: str, version: str) -> None:
        """Create an alias, or move it."""
        self._check_known(version)
        self._catalogue.point(alias, version)

    def declare(self, version: str, kinds: Mapping[str, str], tenant: str) -> None:
        """Index fields. They are flushed, as the journal holds passages only."""
        with self._changing(version) as kept:
            kept.shard.declare({field: FieldType(kind) for field, kind in kinds.items()}, tenant)
            self._flush(kept)

    def write(self, version: str, packed: list[Packed], still: Revisions | None, size: int) -> None:
        """Write passages, each only if it has its revision in `still`; `size` is that of the message."""
        self._check_room(size)
        rows = unpack_rows(packed)
        with self._changing(version) as kept:
            if still is not None:
                known = _revisions(kept.shard, still)
                rows = [row for row in rows if known.get(row.id, "") == still[row.id]]
                packed = pack_rows(rows)
            if rows:
                kept.shard.write(rows)
                self._written(kept, "write", packed)

    def replace_words(self, version: str, words: Mapping[PointId, Packed], still: Revisions) -> None:
        """Replace the words of passages, each only if it has its revision in `still`."""
        self._check_room(0)
        with self._changing(version) as kept:
            known = _revisions(kept.shard, still)
            wanted = {point: SparseVector(*one) for point, one in words.items() if known.get(point) == still[point]}
            if wanted:
                kept.shard.replace_words(wanted)
                self._written(kept, "replace_words", list(wanted.items()))

    def remove(self, version: str, ids: list[PointId], still: Revisions | None) -> None:
        """Remove passages, each only if it has its revision in `still`, where that is given."""
        with self._changing(version) as kept:
            if still is not None:
                known = _revisions(kept.shard, still)
                ids = [point for point in ids if point in known and known[point] == still[point]]
            if ids:
                kept.shard.remove(ids)
                self._written(kept, "remove", ids)

    def search(
        self, version: str, searches: list[Any], limit: int, condition: Filter, layout: Layout
    ) -> list[list[Hit]]:
        """Return ids and scores."""
        with self._using(version) as kept:
            return kept.shard.search(unpack_queries(searches), limit, condition, layout)

    def holders(
        self, version: str, terms: list[int], limit: int, condition: Filter, among: list[PointId]
    ) -> list[list[PointId]]:
        """Return the passages that have each term."""
        with self._using(version) as kept:
            return kept.shard.holders(terms, limit, condition, among)

    def compare(self, version: str, tokens: Codes, points: list[PointId]) -> Mapping[PointId, float]:
        """Return the scores of passages by token vectors."""
        with self._using(version) as kept:
            return kept.shard.compare(tokens, points)

    def read(self, version: str, ids: list[PointId], parts: str, keys: list[PointId]) -> list[Packed]:
        """Return passages; of those in `keys`, only their keys."""
        with self._using(version) as kept:
            return pack_rows(kept.shard.read(ids, Parts(parts), keys))

    def scroll(self, version: str, start: PointId | None, limit: int, parts: str, condition: Filter) -> Packed:
        """Return a page of passages and the start of the next one."""
        with self._using(version) as kept:
            rows, following = kept.shard.scroll(start, limit, Parts(parts), condition)
            return pack_rows(rows), following

    def count(self, version: str, condition: Filter) -> int:
        """Count passages exactly."""
        with self._using(version) as kept:
            return kept.shard.count(condition) if condition else kept.shard.size()

    def facet(self, version: str, field: str, limit: int, condition: Filter) -> list[tuple[Scalar, int]]:
        """Return the most frequent values of a field."""
        with self._using(version) as kept:
            return kept.shard.facet(field, limit, condition)

    def idle(self) -> bool:
        """Do some of what is due: flushes, and what makes searches faster. True if there is more."""
        more = False
        for version in list(self._kept):
            with self._changing(version) as kept:
                more |= kept.shard.idle()
                self._settle(kept)
        return more

    def close(self) -> None:
        """Flush and free everything."""
        for version, kept in list(self._kept.items()):
            with suppress(SluiceError, Broken), self._changing(version):
                kept.shard.close()
                kept.journal.clear()

    def _of(self, version: str) -> _Kept:
        """Return a version that can be used."""
        self._check_known(version)
        if (kept := self._kept.get(version)) is None:
            raise FailedPrecondition(
                f"version {version!r} is damaged: {self._damaged[version]}. Restore a snapshot of the collection, or "
                "delete it and index again",
                reason="VERSION_DAMAGED",
                version=version,
            )
        return kept

    def _check_known(self, version: str) -> None:
        if version not in self._catalogue.versions:
            raise NotFound("Qdrant does not have that")

    @contextmanager
    def _using(self, version: str) -> Iterator[_Kept]:
        """Lend a version for reading. Raises Broken."""
        kept = self._of(version)
        try:
            yield kept
        except Refused as error:
            raise InvalidArgument("request", f"Qdrant refuses it: {error}", reason="QDRANT_REFUSED") from error
        except Damaged as error:
            self._log("error", "version broken", version=version, problem=str(error))
            raise Broken(Internal(f"Qdrant failed on version {version!r}, which is loaded again")) from error

    @contextmanager
    def _changing(self, version: str) -> Iterator[_Kept]:
        """Lend a version for writing; after a failure that is not foreseen nobody knows its state."""
        with self._using(version) as kept:
            try:
                yield kept
            except (SluiceError, Refused, Damaged):
                raise
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise storage_full() from error
                raise Damaged(type(error).__name__) from error
            except BaseException as error:  # panics of the engine are no Exception
                raise Damaged(type(error).__name__) from error

    def _written(self, kept: _Kept, method: str, changes: Sequence[Packed | str]) -> None:
        if kept.shard.unflushed:
            kept.journal.record(method, changes)
        self._settle(kept)

    def _settle(self, kept: _Kept) -> None:
        if not kept.shard.unflushed:
            kept.journal.clear()

    def _flush(self, kept: _Kept) -> None:
        kept.shard.flush()
        kept.journal.clear()

    def _load(self, version: str) -> None:
        """Open a version; of one whose log cannot be read, what was acknowledged comes back from the journal."""
        folder = self._path / FOLDER / version
        try:
            shard, whole = self._opened(folder / _SHARD, version)
            journal = Journal(folder / _JOURNAL)
            if journal.size:
                if not whole:
                    for method, changes in journal.changes():
                        _repeat(shard, method, changes)
                shard.flush()
                journal.clear()
        except BaseException as error:  # panics of the engine are no Exception
            self._damaged[version] = str(error) if isinstance(error, Damaged) else type(error).__name__
            self._log("error", "version damaged", version=version, problem=self._damaged[version])
            return
        self._kept[version] = _Kept(shard, journal)

    def _opened(self, folder: Path, version: str) -> tuple[Shard, bool]:
        """Return a version's shard, and false where its log had to be set aside."""
        if not folder.is_dir():
            raise Damaged("its folder is missing")
        try:
            return Shard.load(folder), True
        except PoisonedLog as error:
            self._log(
                "error", "log set aside, writes since the last flush repeated", version=version, problem=str(error)
            )
            self._logs_set_aside += 1
            return Shard.load(folder, without_log=True), False

    def _free(self, kept: _Kept) -> None:
        with suppress(BaseException):  # it possibly is the reason why it is freed
            kept.shard.close()
        kept.journal.close()

    def _delete(self, version: str) -> None:
        shutil.rmtree(self._path / FOLDER / version, ignore_errors=True)

    def _check_room(self, size: int) -> None:
        if free_bytes(self._path) < self._reserve + _ROOM_FACTOR * size:
            raise storage_full()


def _repeat(shard: Shard, method: str, changes: Any) -> None:
    """Make a change of the journal again."""
    if method == "remove":
        shard.remove(changes)
    elif method == "replace_words":
        shard.replace_words({point: SparseVector(*words) for point, words in changes})
    else:
        shard.write(unpack_rows(changes))


def _revisions(shard: Shard, still: Revisions) -> Mapping[PointId, str]:
    rows: Any = shard.read(list(still), Parts.KEYS)
    return {row.id: row.revision for row in rows}
