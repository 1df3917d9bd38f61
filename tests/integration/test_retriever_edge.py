"""The embedded engine's process and folder: deaths, full disks, damage, and what comes back."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    ResourceExhausted,
    StartupError,
    Unavailable,
)
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.metrics import RetrieverMetrics
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PLAIN
from tests.integration.shelf import EAST, MODEL, NORTH, PASSAGES, Shelf, ids


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def open_folder(tmp_path, registry):
    """Opens the same folder, with the same series."""
    metrics = RetrieverMetrics(registry)

    def opened(**settings):
        given = RetrieverSettings(qdrant_path=tmp_path / "qdrant", **settings)
        return open_store(given, metrics)

    return opened


@pytest.fixture
async def filled(open_folder, tmp_path):
    """A closed data folder with two collections."""
    store = await open_folder()
    shelf = Shelf(store)
    for name in ("docs", "other"):
        await shelf.collections.create(name, MODEL)
        await shelf.put(name, PASSAGES)
    await store.close()
    return tmp_path / "qdrant"


@pytest.fixture
async def store(filled, open_folder):
    """The open folder."""
    opened = await open_folder()
    yield opened
    await opened.close()


async def told(registry, name, value):
    """Wait until a series has this value: what the engine's process sees reaches the series a moment later."""
    async with asyncio.timeout(20):
        while registry.get_sample_value(name) != value:
            await asyncio.sleep(0.02)


def answers(shelf, collection="docs"):
    return shelf.search(collection, QueryVariant("options", NORTH))


async def test_the_engine_keeps_what_was_stored(store):
    assert ids(await answers(Shelf(store)))[0] == "argparse"


WRITE_AND_DIE = """
import asyncio, os, pathlib, signal, sys
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
    await shelf.collections.create("docs", MODEL)
    await shelf.put("docs", [Passage(str(n), f"word{n}", vector=EAST) for n in range(300)])
    print(store.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def write_and_die(folder):
    """Have a process store 300 passages and kill itself; the id of its child."""
    command = [sys.executable, "-c", WRITE_AND_DIE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return int(done.stdout)


def is_alive(process):
    """True unless it has ended, perhaps with nobody who asked for its status yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_was_stored_survives_the_death_of_the_process_and_its_child_goes_with_it(open_folder, tmp_path):
    child = write_and_die(tmp_path / "qdrant")
    store = await open_folder()
    assert not is_alive(child)
    assert await Shelf(store).count("docs") == 300
    await store.close()


POISON = """
import os, sys, uuid
import qdrant_edge as edge
shard = edge.EdgeShard.load(sys.argv[1])
vectors = {"dense": [1.0, 0.0, 0.0], "lexical": edge.SparseVector([1, 2, 3], [1.0, 2.0])}
try:
    shard.update(edge.UpdateOperation.upsert_points([edge.Point(str(uuid.uuid4()), vectors, {})]))
except BaseException:
    os._exit(0)
os._exit(1)
"""


async def test_a_log_that_cannot_be_read_loses_nothing_that_was_acknowledged(open_folder, tmp_path, registry):
    await asyncio.to_thread(write_and_die, tmp_path / "qdrant")
    [log] = (tmp_path / "qdrant").rglob("wal")
    poison = [sys.executable, "-c", POISON, str(log.parent)]
    done = await asyncio.to_thread(subprocess.run, poison, check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    for round_ in range(2):
        store = await open_folder()
        shelf = Shelf(store)
        assert await shelf.count("docs") == 300 + round_
        assert len(ids(await shelf.search("docs", QueryVariant("word7")))) == 1 + round_
        await shelf.put("docs", [Passage(f"more-{round_}", "word7", vector=EAST), Passage("9", "nine", vector=EAST)])
        assert len(ids(await shelf.search("docs", QueryVariant("word7")))) == 2 + round_
        assert ids(await shelf.search("docs", QueryVariant("word9"))) == []
        await told(registry, "qdrant_engine_logs_set_aside_total", 1)
        await store.close()
    assert [path.name for path in (tmp_path / "qdrant").rglob("wal-*")] == ["wal-aside"]


async def test_a_process_that_dies_is_started_again_and_calls_go_on(store, registry):
    shelf = Shelf(store)
    for number in (signal.SIGKILL, signal.SIGSEGV):
        before = store.pid
        os.kill(before, number)
        assert ids(await answers(shelf))[0] == "argparse"
        assert store.pid not in {before, None}
    await store.check(None)
    assert registry.get_sample_value("qdrant_engine_deaths_total", {"cause": "killed"}) == 1
    assert registry.get_sample_value("qdrant_engine_deaths_total", {"cause": "crashed"}) == 1
    assert registry.get_sample_value("qdrant_engine_down") == 0


async def test_a_write_under_way_is_repeated_when_the_process_dies(store):
    shelf = Shelf(store)
    os.kill(store.pid, signal.SIGSTOP)
    writing = asyncio.create_task(shelf.put("docs", [Passage("new", "fresh", vector=EAST)]))
    await asyncio.sleep(0)
    os.kill(store.pid, signal.SIGKILL)
    await writing
    assert "new" in ids(await shelf.search("docs", QueryVariant("fresh")))


async def test_a_creation_is_not_repeated_and_health_tells_of_the_death(store):
    os.kill(store.pid, signal.SIGSTOP)
    creating = asyncio.create_task(store.create("new-v1", 2, PLAIN, {}, None))
    await asyncio.sleep(0)
    os.kill(store.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="died"):
        await creating
    with pytest.raises(Unavailable, match="started again"):
        await store.check(None)
    await store.catalogue(None)
    await store.check(None)


async def test_signals_of_a_terminal_do_not_end_the_process(store):
    before = store.pid
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(before, number)
    await store.catalogue(None)
    assert store.pid == before


async def test_a_call_ends_at_its_deadline_and_the_next_one_is_answered(store):
    shelf = Shelf(store)
    os.kill(store.pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            await store.note("docs-v1", {"k1": "no number"}, time.monotonic() + 0.2)
        with pytest.raises(DeadlineExceeded):
            await store.drop("other-v1", time.monotonic() + 0.2)
    finally:
        os.kill(store.pid, signal.SIGCONT)
    assert ids(await answers(shelf, "other"))[0] == "argparse"
    assert (await store.describe("docs-v1", None)).notes["k1"] == 1.2  # what was too late was not begun


async def test_reads_overtake_waiting_writes(store):
    order = []

    async def noted(name, call):
        await call
        order.append(name)

    os.kill(store.pid, signal.SIGSTOP)
    calls = [noted(f"write {number}", store.note("docs-v1", {"number": number}, None)) for number in range(3)]
    waiting = [asyncio.create_task(call) for call in (*calls, noted("read", store.catalogue(None)))]
    await asyncio.sleep(0.05)  # sent, and nothing of it is answered
    os.kill(store.pid, signal.SIGCONT)
    await asyncio.gather(*waiting)
    assert order == ["read", "write 0", "write 1", "write 2"]


async def test_a_disk_without_room_is_told_and_what_was_stored_is_still_found(filled, open_folder):
    store = await open_folder(qdrant_free_bytes=2**62)
    shelf = Shelf(store)
    for write in (shelf.put("docs", PASSAGES), shelf.collections.create("more", MODEL)):
        with pytest.raises(ResourceExhausted) as full:
            await write
        assert full.value.reason == "STORAGE_FULL"
    assert ids(await answers(shelf))[0] == "argparse"
    await shelf.passages.delete("docs", ["argparse"])  # makes room
    await store.close()
    store = await open_folder()
    await Shelf(store).put("docs", PASSAGES)
    await store.close()


async def test_a_death_by_a_full_disk_is_told_as_such_until_there_is_room(filled, open_folder, registry):
    store = await open_folder()
    before = store.pid
    os.kill(before, signal.SIGSTOP)
    writing = asyncio.create_task(Shelf(store).put("docs", PASSAGES))
    await asyncio.sleep(0.05)
    os.kill(before, signal.SIGBUS)
    os.kill(before, signal.SIGCONT)
    with pytest.raises(ResourceExhausted) as full:
        await writing
    assert full.value.reason == "STORAGE_FULL"
    assert registry.get_sample_value("qdrant_engine_deaths_total", {"cause": "storage_full"}) == 1
    async with asyncio.timeout(30):
        while store.pid is None:
            await asyncio.sleep(0.05)
    assert ids(await answers(Shelf(store)))[0] == "argparse"
    await store.close()


async def test_a_data_folder_that_another_process_holds_is_told_with_a_remedy(store, open_folder):
    with pytest.raises(StartupError, match="QDRANT_PATH") as failure:
        await open_folder()
    assert "QDRANT_URL" in failure.value.remedy


@pytest.mark.parametrize("content", [None, "", "{}", '{"versions": '])
async def test_a_folder_without_its_catalogue_is_not_served_as_an_empty_one(open_folder, filled, content):
    index = filled / "catalog.json"
    index.unlink()
    if content is not None:
        index.write_text(content)
    with pytest.raises(StartupError, match=r"catalog\.json (is missing|cannot be read)") as refused:
        await open_folder()
    assert "backup" in refused.value.remedy


async def test_a_catalogue_that_goes_away_is_told_by_health(store, filled):
    await store.check(None)
    (filled / "catalog.json").rename(filled / "gone.json")
    with pytest.raises(FailedPrecondition, match=r"catalog\.json is gone"):
        await store.check(None)


async def test_a_creation_or_deletion_that_a_kill_cut_off_leaves_nothing_behind(open_folder, filled):
    half = filled / "versions" / "half-v1" / "shard"
    half.mkdir(parents=True)
    (half / "current").write_text("shard-1")
    store = await open_folder()
    assert not half.parent.exists()
    await store.create("half-v1", 2, PLAIN, {}, None)
    assert (await store.describe("half-v1", None)).passage_count == 0
    await store.close()


def empty(version):
    for file in version.rglob("*.json"):
        file.write_bytes(b"")


def overwrite(version):
    for file in version.rglob("segment.json"):
        file.write_bytes(b"no segment" * 1000)


def remove(version):
    version.rename(Path(f"{version.parent}-moved"))


@pytest.mark.parametrize("damage", [empty, overwrite, remove])
async def test_a_damaged_version_is_refused_by_name_and_restored_while_others_serve(
    open_folder, filled, damage, tmp_path, registry
):
    store = await open_folder()
    await Shelf(store, snapshots=str(tmp_path / "snapshots")).snapshots.create("docs")
    await store.close()
    damage(filled / "versions" / "docs-v1")
    for _ in range(2):  # not taken for an empty one after another start
        store = await open_folder()
        shelf = Shelf(store, snapshots=str(tmp_path / "snapshots"))
        with pytest.raises(FailedPrecondition, match=r"'docs-v1' is damaged.*Restore a snapshot") as refused:
            await shelf.search("docs", QueryVariant("options"))
        assert refused.value.reason == "VERSION_DAMAGED"
        assert ids(await shelf.search("other", QueryVariant("options"))) == ["argparse"]
        await told(registry, "qdrant_engine_damaged_versions", 1)
        await store.close()
    store = await open_folder()
    shelf = Shelf(store, snapshots=str(tmp_path / "snapshots"))
    [kept], _ = await shelf.snapshots.page("docs")
    restored = await shelf.snapshots.restore("docs", kept.name)
    await shelf.versions.switch("docs", restored.version)
    assert ids(await shelf.search("docs", QueryVariant("options"))) == ["argparse"]
    await shelf.versions.delete("docs-v1")
    await told(registry, "qdrant_engine_damaged_versions", 0)
    await store.close()
    store = await open_folder()
    assert sorted((await store.catalogue(None)).versions) == ["docs-v2", "other-v1"]
    await store.close()


async def test_a_damaged_collection_can_be_deleted_and_made_again(open_folder, filled):
    overwrite(filled / "versions" / "docs-v1")
    store = await open_folder()
    shelf = Shelf(store)
    assert await shelf.collections.delete("docs") == ["docs-v1"]
    await shelf.collections.create("docs", MODEL)
    await shelf.put("docs", PASSAGES)
    assert ids(await answers(shelf))[0] == "argparse"
    await store.close()
