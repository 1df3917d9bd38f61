"""Data of releases that kept them by qdrant-client's local mode, made here as they made them."""

import json
import pickle
import shutil
import sqlite3

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from qdrant_client import QdrantClient, models

from services.chassis.errors import StartupError
from services.retriever.documents import Chunk
from services.retriever.engines import open_store
from services.retriever.importing import ImportFailed, import_folder
from services.retriever.metrics import RetrieverMetrics
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Parts, point_id
from tests.integration.shelf import BM25, NORTH, Shelf, ids

PASSAGES = 600
NOTES = {
    "model": "tiny", "model_fingerprint": "tiny@1", "dimension": 3, "precision": "fp32", "distance": "cosine",
    "analyzer": str(BM25.analyzer), "k1": 1.2, "b": 0.75, "average_length": 10, "title_weight": 1.0,
    "created": "2026-11-01T00:00:00+00:00", "collection": "docs", "state": "ready", "source": "a test",
    "field:year": "integer", "field:stable": "bool",
}  # fmt: skip


def point(number):
    payload = {
        "id": f"d{number}", "title": f"title {number}", "text": f"text {number}", "revision": f"r{number}",
        "metadata": {"year": 2000 + number, "stable": number % 2 == 0},
    }  # fmt: skip
    if number == 1:
        payload["chunk"] = {"number": 1, "count": 2, "start": 0, "end": 6}
    if number == 2:
        del payload["revision"]
    vector = {"dense": [0.0, 1.0, 0.0] if number else [1.0, 0.0, 0.0]}
    if number != 3:
        vector["lexical"] = models.SparseVector(indices=[number, 10_000], values=[1.0, 0.5])
    return models.PointStruct(id=point_id(f"d{number}"), vector=vector, payload=payload)


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A data folder of an earlier release: two versions of a collection, the second one live."""
    # Without a flush for each point, of which there are many; the files are the same.
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda *given, **named: without_flushes(connect(*given, **named)))
    folder = tmp_path / "data"
    client = QdrantClient(path=str(folder))
    for number in (1, 2):
        client.create_collection(
            f"docs-v{number}",
            {"dense": models.VectorParams(size=3, distance=models.Distance.DOT)},
            {"lexical": models.SparseVectorParams(modifier=models.Modifier.IDF)},
            metadata={**NOTES, "index_version": f"docs-v{number}"},
        )
    client.upsert("docs-v1", [point(0)])
    client.upsert("docs-v2", [point(number) for number in range(PASSAGES)])
    alias = models.CreateAlias(alias_name="docs", collection_name="docs-v2")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    client.close()
    return folder


def without_flushes(database):
    database.execute("PRAGMA synchronous = OFF")
    return database


async def opened(folder):
    return await open_store(RetrieverSettings(qdrant_path=folder), RetrieverMetrics(CollectorRegistry()))


async def check(folder):
    """Everything is there, as it was."""
    store = await opened(folder)
    assert await store.catalogue(None) == (["docs-v1", "docs-v2"], {"docs": "docs-v2"})
    found = await store.describe("docs", None)
    assert (found.version, found.passage_count) == ("docs-v2", PASSAGES)
    assert {name: found.notes[name] for name in NOTES} == NOTES
    rows, _ = await store.scroll("docs-v2", None, 1000, Parts.VECTOR, None)
    by_number = {int(row.passage.id[1:]): row for row in rows}
    for number in (0, 1, 2, 3, PASSAGES - 1):
        row, was = by_number[number], point(number)
        assert (row.id, row.passage.text, row.passage.title) == (was.id, was.payload["text"], was.payload["title"])
        assert (row.revision, row.passage.metadata) == (was.payload.get("revision", "0"), was.payload["metadata"])
        np.testing.assert_array_equal(row.passage.vector, np.array(was.vector["dense"], "f4"))
        assert row.words.indices == ([] if number == 3 else [number, 10_000])
    assert by_number[1].passage.chunk == Chunk(1, 2, 0, 6)
    assert by_number[0].passage.chunk is None
    shelf = Shelf(store)
    assert len(ids(await shelf.search("docs", QueryVariant("", NORTH), limit=3))) == 3
    await store.close()


async def test_a_start_on_old_data_names_the_command_and_that_imports_everything(old):
    with pytest.raises(StartupError, match="earlier release") as refused:
        await opened(old)
    assert f"python -m services.retriever.importing {old}" in refused.value.remedy
    lines = []
    await import_folder(old, RetrieverSettings(qdrant_path=old), lines.append)
    assert "docs-v2: 600 passages" in lines
    await check(old)


async def test_an_import_into_another_folder_leaves_the_old_one_and_can_be_repeated(old, tmp_path):
    target = tmp_path / "new"
    for _ in range(2):
        lines = []
        await import_folder(old, RetrieverSettings(qdrant_path=target), lines.append)
    assert "docs-v2: is there already, with 600 passages" in lines
    assert (old / "meta.json").exists()
    await check(target)


async def test_half_an_import_is_begun_anew(old, tmp_path):
    file = old / "collection" / "docs-v2" / "storage.sqlite"
    whole = file.read_bytes()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE points SET point = ? WHERE rowid = 10", (b"no pickle",))
    database.close()
    target = RetrieverSettings(qdrant_path=tmp_path / "new")
    with pytest.raises(ImportFailed, match=r"storage\.sqlite is damaged"):
        await import_folder(old, target, [].append)
    file.write_bytes(whole)
    await import_folder(old, target, [].append)
    await check(tmp_path / "new")


class Danger:
    def __reduce__(self):
        return (print, ("taken over",))


async def test_what_is_no_point_is_not_loaded(old, tmp_path, capsys):
    file = old / "collection" / "docs-v1" / "storage.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("UPDATE points SET point = ?", (pickle.dumps(Danger()),))
    database.close()
    with pytest.raises(ImportFailed, match="UnpicklingError"):
        await import_folder(old, RetrieverSettings(qdrant_path=tmp_path / "new"), [].append)
    assert "taken over" not in capsys.readouterr().out


async def test_an_old_snapshot_becomes_the_next_version(old, tmp_path):
    snapshot = tmp_path / "snapshots" / "docs-v2" / "docs-v2-2026-11-01"
    snapshot.mkdir(parents=True)
    shutil.copy(old / "collection" / "docs-v2" / "storage.sqlite", snapshot)
    (snapshot / "collection.json").write_text(json.dumps({**NOTES, "previous": "docs-v1", "building": "docs-v9"}))
    settings = RetrieverSettings(qdrant_path=tmp_path / "new")
    await import_folder(old, settings, [].append)
    await import_folder(snapshot, settings, [].append)
    store = await opened(tmp_path / "new")
    found = await store.describe("docs-v3", None)
    assert found.passage_count == PASSAGES
    assert (found.notes["building"], found.notes["source"]) == ("", "imported from docs-v2-2026-11-01")
    assert (await store.describe("docs", None)).version == "docs-v2"
    await store.close()


async def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ImportFailed, match=r"it has no meta\.json"):
        await import_folder(tmp_path, RetrieverSettings(qdrant_path=tmp_path / "new"), [].append)
