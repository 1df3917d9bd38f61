"""Imports data of releases that kept them in SQLite: `python -m services.retriever.importing FOLDER`.

FOLDER is an old data folder, whose versions, notes and aliases are read into QDRANT_PATH (possibly the same folder, as
the new files have other names), or an old snapshot's folder, which becomes a further version of its collection. It can
be repeated: what is whole stays, what is not is read again. The old files stay.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import io
import json
import pickle
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from services.chassis.errors import NotFound, SluiceError, StartupError
from services.retriever.documents import Chunk, Passage
from services.retriever.engines.edge.store import OLD_INDEX, EdgeStore
from services.retriever.fields import FieldType
from services.retriever.layout import Layout
from services.retriever.lexical import SparseVector
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Notes, Row, number_of

_DATABASE, _SNAPSHOT = "storage.sqlite", "collection.json"
_ROWS_AT_ONCE, _BATCHES_BETWEEN_LINES = 256, 80
_MARK = "importing"
"""Note of a version that is not whole yet: the name of its source."""

Tell = Callable[[str], object]


class ImportFailed(Exception):
    """The import cannot go on."""


@dataclass(frozen=True)
class OldVersion:
    """A version as an earlier release kept it."""

    name: str
    notes: Notes
    file: Path

    def rows(self) -> Iterator[Row]:
        """Return all passages."""
        if not self.file.is_file():
            raise ImportFailed(f"{self.file} is missing")
        seen: set[Any] = set()
        # Each batch is read in a thread of its own, one after the other.
        connected = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, check_same_thread=False)
        with closing(connected) as database:
            try:
                # Of several rows of a point, the last one holds.
                for [blob] in database.execute("SELECT point FROM points ORDER BY rowid DESC"):
                    point = _Unpickler(io.BytesIO(blob)).load().fields
                    if point["id"] not in seen:
                        seen.add(point["id"])
                        yield _row(point)
            except (sqlite3.Error, pickle.UnpicklingError, LookupError, TypeError, AttributeError, EOFError) as error:
                raise ImportFailed(f"{self.file} is damaged: {type(error).__name__}") from error


async def import_folder(folder: Path, settings: RetrieverSettings, tell: Tell) -> None:
    """Import an old data folder, or an old snapshot's, into the folder that the settings name."""
    snapshot = (folder / _SNAPSHOT).is_file()
    if not snapshot and not (folder / OLD_INDEX).is_file():
        raise ImportFailed(f"{folder} is no data folder of an earlier release: it has no {OLD_INDEX}")
    with _held(folder):
        store = await EdgeStore.open(settings, RetrieverMetrics(CollectorRegistry()), beside_old_data=True)
        try:
            if snapshot:
                await _import_version(store, await _old_snapshot(store, folder), folder.name, tell)
                return
            index = json.loads((folder / OLD_INDEX).read_text(encoding="utf-8"))
            for name, config in index["collections"].items():
                file = folder / "collection" / name / _DATABASE
                await _import_version(store, OldVersion(name, config.get("metadata") or {}, file), name, tell)
            for alias, version in index["aliases"].items():
                if version not in (await store.catalogue(None)).versions:
                    continue
                await store.point(alias, version, None)
                tell(f"{alias} stands for {version}")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ImportFailed(f"{folder / OLD_INDEX} cannot be read: {error}") from error
        finally:
            await store.close()
        if (settings.qdrant_path / OLD_INDEX).exists():
            await asyncio.to_thread(_done, folder, settings.qdrant_path, tell)


def _done(folder: Path, target: Path, tell: Tell) -> None:
    """Let the retriever start where the old data are in its own folder."""
    if folder.resolve() == target.resolve():
        (folder / OLD_INDEX).rename(folder / f"{OLD_INDEX}.imported")
        tell(f"{folder / 'collection'} is not needed any more")


async def _import_version(store: EdgeStore, old: OldVersion, mark: str, tell: Tell) -> None:
    if "model_fingerprint" not in old.notes:
        tell(f"{old.name}: was not made by Sluice, and is left out")
        return
    try:
        kept = await store.describe(old.name, None)
    except NotFound:
        pass
    else:
        if not kept.notes.get(_MARK):
            tell(f"{old.name}: is there already, with {kept.passage_count:,} passages")
            return
        await store.drop(old.name, None)
    layout = Layout.from_notes(old.notes)
    kinds = {key.removeprefix("field:"): kind for key, kind in old.notes.items() if key.startswith("field:")}
    await store.create(old.name, int(old.notes["dimension"]), layout, {_MARK: mark}, None)
    await store.declare(old.name, {name: FieldType(kind) for name, kind in kinds.items()}, None, layout.tenant)
    read, rows = 0, old.rows()
    while batch := await asyncio.to_thread(lambda: list(islice(rows, _ROWS_AT_ONCE))):
        await store.write(old.name, batch, None)
        read += len(batch)
        if read % (_ROWS_AT_ONCE * _BATCHES_BETWEEN_LINES) == 0:
            tell(f"{old.name}: {read:,} passages so far")
    if (count := await store.count(old.name, None)) != read:
        raise ImportFailed(f"{old.name}: {read:,} passages were read, and {count:,} are there; import again")
    await store.note(old.name, {**old.notes, _MARK: ""}, None)
    tell(f"{old.name}: {read:,} passages")


async def _old_snapshot(store: EdgeStore, folder: Path) -> OldVersion:
    """Return the version of a snapshot, by the next number of its collection."""
    notes: dict[str, Any] = json.loads((folder / _SNAPSHOT).read_text(encoding="utf-8"))
    collection = notes.get("collection", folder.parent.name)
    for version in (await store.catalogue(None)).versions:
        if number_of(collection, version) and (await store.describe(version, None)).notes.get(_MARK) == folder.name:
            await store.drop(version, None)  # half of it, from the last time
    taken = [number_of(collection, version) for version in (await store.catalogue(None)).versions]
    version = f"{collection}-v{max(taken, default=0) + 1}"
    alone = {"building": "", "previous": "", "supersedes": "", "state": "ready"}
    source = {"collection": collection, "index_version": version, "source": f"imported from {folder.name}"}
    return OldVersion(version, {**notes, **alone, **source}, folder / _DATABASE)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep an earlier release from the folder; ImportFailed if one has it."""
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImportFailed(f"{folder} is in use; stop the retriever that has it") from None
        yield


class _Pickled:
    """An object of qdrant-client, by its fields."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.fields: Mapping[str, Any] = state["__dict__"]


class _Unpickler(pickle.Unpickler):
    """Reads points and nothing else: a pickle can name any function."""

    def find_class(self, module: str, name: str) -> type[_Pickled]:
        if module.startswith("qdrant_client.") and name in ("PointStruct", "SparseVector"):
            return _Pickled
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a point")


def _row(point: Mapping[str, Any]) -> Row:
    payload, vectors = point["payload"], point["vector"]
    chunk, words = payload.get("chunk"), vectors.get("lexical")
    passage = Passage(
        payload["id"],
        payload.get("text", ""),
        payload.get("title", ""),
        payload.get("metadata", {}),
        np.asarray(vectors["dense"], dtype=np.float32),
        Chunk(chunk["number"], chunk["count"], chunk["start"], chunk["end"]) if chunk else None,
    )
    lexical = SparseVector(words.fields["indices"], words.fields["values"]) if words else SparseVector([], [])
    return Row(str(point["id"]), passage, str(payload.get("revision", "0")), lexical)


def main() -> None:
    """Import the folder that is named."""
    parser = argparse.ArgumentParser(prog="python -m services.retriever.importing", description=__doc__)
    parser.add_argument("folder", type=Path, help="old data folder, or old snapshot's folder (SNAPSHOTS/VERSION/NAME)")
    folder: Path = parser.parse_args().folder
    try:
        asyncio.run(import_folder(folder, RetrieverSettings(), lambda line: sys.stderr.write(f"{line}\n")))
    except (ImportFailed, SluiceError) as error:
        sys.exit(f"{error}")
    except StartupError as error:
        sys.exit(f"{error.message}\n{error.remedy}")


if __name__ == "__main__":
    main()
