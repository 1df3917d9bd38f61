"""The replacements of the embedded engine's scoring and storage do the same as the originals."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from qdrant_client.http.models import Distance, SparseVector
from qdrant_client.local import local_collection
from qdrant_client.local.distances import calculate_distance
from qdrant_client.local.sparse_distances import calculate_distance_sparse as engines_own

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, StartupError
from services.retriever.documents import Passage
from services.retriever.engines import local_filters, local_mode, open_store
from services.retriever.engines.local_mode import Postings
from services.retriever.fields import Equals, Filter
from services.retriever.metrics import RetrieverMetrics
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings
from tests.integration.shelf import EAST, MODEL, NORTH, PASSAGES, Shelf, ids

values = st.floats(-100, 100, allow_nan=False)
sparse_vectors = st.dictionaries(st.integers(0, 12) | st.just(2**32 - 1), values, max_size=6).map(
    lambda weights: SparseVector(indices=sorted(weights), values=[weights[term] for term in sorted(weights)])
)


@settings(deadline=None)
@given(st.lists(sparse_vectors, max_size=8), st.lists(st.tuples(sparse_vectors, sparse_vectors), max_size=4))
def test_sparse_scores_are_the_engine_s_own_to_the_last_bit(vectors, steps):
    """Also while passages are replaced and added between the queries."""
    for replacement, query in steps:
        if vectors:
            vectors[len(vectors) // 2] = replacement
        vectors.append(replacement)
        for empty_is_zero in (False, True):
            ours = Postings.scores_of_all(query, vectors, empty_is_zero=empty_is_zero)
            theirs = engines_own(query, vectors, empty_is_zero)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("distance", list(Distance))
def test_dense_scores_are_the_engine_s_own(distance):
    random = np.random.default_rng(7)
    vectors = random.standard_normal((100, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[3].astype(np.float64)
    ours, theirs = (score(query, vectors.copy(), distance) for score in (local_mode.dense_scores, calculate_distance))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_collections_take_turns_without_mixing():
    query = SparseVector(indices=[1], values=[1.0])
    collections = [[SparseVector(indices=[1], values=[float(number)])] for number in range(10)]
    for _ in range(2):
        for number, vectors in enumerate(collections):
            assert Postings.scores_of_all(query, vectors).tolist() == [float(number)]


def test_the_engine_still_has_the_names_that_are_replaced():
    names = ("CollectionPersistence", "calculate_distance", "calculate_distance_sparse")
    assert all(hasattr(local_collection, name) for name in names)
    local_mode.tune()
    assert local_collection.CollectionPersistence is local_mode.Storage


WRITE_AND_DIE = """
import asyncio, os, pathlib, signal, sys
import numpy as np
from prometheus_client import CollectorRegistry
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from tests.integration.shelf import EAST, MODEL, Shelf

async def main():
    settings = RetrieverSettings(qdrant_path=pathlib.Path(sys.argv[1]))
    store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
    shelf = Shelf(store)
    if sys.argv[2] == "write":
        await shelf.collections.create("docs", MODEL)
        await shelf.put("docs", [Passage(str(n), f"word{n}", vector=EAST) for n in range(300)])
        os.kill(os.getpid(), signal.SIGKILL)
    print(await shelf.count("docs"))
    await store.close()

asyncio.run(main())
"""


def test_what_was_stored_survives_the_death_of_the_process(tmp_path):
    def run(step):
        command = [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path), step]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("write").returncode == -signal.SIGKILL
    assert run("read").stdout.strip() == "300"


@pytest.fixture
def open_folder(tmp_path):
    """Opens the same folder."""
    settings = RetrieverSettings(qdrant_path=tmp_path / "qdrant")
    return lambda: open_store(settings, RetrieverMetrics(CollectorRegistry()))


async def test_the_embedded_engine_keeps_what_was_stored(open_folder):
    for round_ in ("first", "second"):
        store = await open_folder()
        shelf = Shelf(store)
        if round_ == "first":
            await shelf.collections.create("docs", MODEL)
            await shelf.put("docs", PASSAGES)
        assert ids(await shelf.search("docs", QueryVariant("options", NORTH)))[0] == "argparse"
        await store.close()


async def test_a_full_disk_is_told_and_what_was_stored_is_still_found(open_folder):
    store = await open_folder()
    shelf = Shelf(store)
    await shelf.collections.create("docs", MODEL)
    await shelf.put("docs", PASSAGES)

    async def fill_the_disk(client):
        database = client.collections["docs-v1"].storage.storage
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")

    await store.call("fill", None, fill_the_disk)
    more = [Passage(f"more-{number}", "x" * 10_000, vector=EAST) for number in range(50)]
    with pytest.raises(ResourceExhausted) as full:
        await shelf.put("docs", more)
    assert full.value.reason == "STORAGE_FULL"
    assert "submit" in ids(await shelf.search("docs", QueryVariant("callable", EAST)))
    await store.close()
    store = await open_folder()
    found, missing, _ = await Shelf(store).passages.get("docs", [passage.id for passage in PASSAGES])
    assert (len(found), missing) == (len(PASSAGES), [])
    await store.close()


async def test_a_data_folder_that_another_process_holds_is_told_with_a_remedy(open_folder):
    store = await open_folder()
    try:
        with pytest.raises(StartupError, match="QDRANT_PATH") as failure:
            await open_folder()
        assert "QDRANT_URL" in failure.value.remedy
    finally:
        await store.close()


@pytest.fixture
async def filled(open_folder, tmp_path):
    """A closed data folder with two collections and a snapshot of each."""
    store = await open_folder()
    shelf = Shelf(store, snapshots=str(tmp_path / "snapshots"))
    for name in ("docs", "other"):
        await shelf.collections.create(name, MODEL)
        await shelf.put(name, PASSAGES)
        await shelf.snapshots.create(name)
    await store.close()
    return store_folder(tmp_path)


def store_folder(tmp_path):
    [index] = tmp_path.rglob("meta.json")
    return index.parent


@pytest.mark.parametrize("content", [None, "", "{}", '{"collections": '])
async def test_a_folder_without_its_index_of_versions_is_not_served_as_an_empty_one(open_folder, filled, content):
    index = filled / "meta.json"
    index.unlink()
    if content is not None:
        index.write_text(content)
    with pytest.raises(StartupError, match=r"meta\.json (is missing|cannot be read)") as refused:
        await open_folder()
    assert "backup" in refused.value.remedy


async def test_an_index_of_versions_that_goes_away_is_told_by_health(open_folder, filled):
    store = await open_folder()
    await store.check(None)
    (filled / "meta.json").rename(filled / "gone.json")
    with pytest.raises(FailedPrecondition, match=r"meta\.json is gone"):
        await store.check(None)
    await store.close()


def empty(file):
    file.write_bytes(b"")


def overwrite(file):
    file.write_bytes(b"no database" * 1000)


def remove(file):
    file.unlink()


def break_a_row(file):
    with sqlite3.connect(file) as database:
        database.execute("UPDATE points SET point = ? WHERE rowid = 2", (b"no pickle",))
    database.close()


@pytest.mark.parametrize("damage", [empty, overwrite, remove, break_a_row])
async def test_a_damaged_version_is_refused_by_name_and_restored_while_others_serve(
    open_folder, filled, damage, tmp_path
):
    damage(filled / "collection" / "docs-v1" / "storage.sqlite")
    for _ in range(2):  # not taken for an empty one after another start
        store = await open_folder()
        shelf = Shelf(store)
        with pytest.raises(FailedPrecondition, match=r"'docs-v1' is damaged.*Restore a snapshot") as refused:
            await shelf.search("docs", QueryVariant("options"))
        assert refused.value.reason == "VERSION_DAMAGED"
        assert ids(await shelf.search("other", QueryVariant("options"))) == ["argparse"]
        await store.close()
    store = await open_folder()
    shelf = Shelf(store, snapshots=str(tmp_path / "snapshots"))
    [kept], _ = await shelf.snapshots.page("docs")
    restored = await shelf.snapshots.restore("docs", kept.name)
    await shelf.versions.switch("docs", restored.version)
    assert ids(await shelf.search("docs", QueryVariant("options"))) == ["argparse"]
    await shelf.versions.delete("docs-v1")
    await store.close()
    store = await open_folder()
    assert sorted((await store.catalogue(None)).versions) == ["docs-v2", "other-v1"]
    assert ids(await Shelf(store).search("docs", QueryVariant("options"))) == ["argparse"]
    await store.close()


async def test_a_damaged_collection_can_be_deleted_and_made_again(open_folder, filled):
    empty(filled / "collection" / "docs-v1" / "storage.sqlite")
    store = await open_folder()
    shelf = Shelf(store)
    assert await shelf.collections.delete("docs") == ["docs-v1"]
    await shelf.collections.create("docs", MODEL)
    await shelf.put("docs", PASSAGES)
    await store.close()
    store = await open_folder()
    assert ids(await Shelf(store).search("docs", QueryVariant("options"))) == ["argparse"]
    await store.close()


async def test_a_search_ends_at_its_deadline_in_the_engine_and_the_next_one_is_answered(open_folder, monkeypatch):
    store = await open_folder()
    shelf = Shelf(store)
    await shelf.collections.create("docs", MODEL)
    await shelf.put("docs", [Passage(f"p{n}", "word", metadata={"n": n}, vector=EAST) for n in range(1000)])
    looked_at = []
    fitting = local_filters.values_match

    def slowly(wanted, found):
        looked_at.append(found)
        time.sleep(0.001)
        return fitting(wanted, found)

    monkeypatch.setattr(local_filters, "values_match", slowly)
    condition = Filter(should=[Equals("n", 10_000 + n) for n in range(64)])
    with pytest.raises(DeadlineExceeded):
        await shelf.search("docs", QueryVariant("word"), condition=condition, deadline=time.monotonic() + 0.2)
    assert ids(await shelf.search("docs", QueryVariant("word"), limit=1))  # waits for the engine's thread
    assert len(looked_at) < 64 * 1000
    await store.close()


async def test_the_loop_stays_free_while_the_embedded_engine_works(open_folder):
    store = await open_folder()
    loop_was_free = threading.Event()

    async def busy(_client):
        return loop_was_free.wait(timeout=60)  # stands for a brute-force search

    work = asyncio.create_task(store.call("busy", None, busy))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, loop_was_free.set)
    assert await work
    await store.close()
