"""Snapshots over a store of the tests: equal under writes, refused when damaged, whole or not there at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StartupError,
    Unavailable,
)
from services.retriever.backups import taking
from services.retriever.backups.format import MANIFEST, Manifest
from services.retriever.backups.restoring import Restoring
from services.retriever.backups.snapshots import Phase, Snapshots
from services.retriever.backups.storage import SnapshotStorage
from services.retriever.backups.taking import Taking
from services.retriever.layout import Layout
from tests.unit.retriever.backups.listed_store import filled

WRITE = st.tuples(st.integers(0, 30), st.sampled_from(["one", "two words", ""]))


def anywhere() -> SnapshotStorage:
    return SnapshotStorage(f"memory://{uuid.uuid4()}", leftover_seconds=0)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def shelf(storage, count=20):
    store, collections, versions = await filled(count)
    return store, Snapshots(store, collections, versions, storage)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WRITE, max_size=4), max_size=12), st.integers(1, 12), st.integers(1, 4000))
def test_a_snapshot_under_writes_is_the_version_as_its_last_pass_began(waves, keys_at_once, part_bytes):
    async def run():
        store, collections, versions = await filled(20)
        storage = anywhere()
        left = list(waves)

        def write():
            for number, text in left.pop(0) if left else []:
                if text:
                    store.put("docs-v1", f"p{number}", text)
                else:
                    store.drop_passage("docs-v1", f"p{number}")

        store.before_call = write
        name = storage.new_name("docs-v1")
        taking = Taking(store, storage, "docs-v1", name, None, keys_at_once=keys_at_once, part_bytes=part_bytes)
        async for _ in taking.run():
            pass
        wanted = store.at_last_pass
        store.before_call = lambda: None
        [snapshot] = await storage.find("docs", None)
        restored = await Snapshots(store, collections, versions, storage).restore("docs", snapshot.name)
        assert store.content(restored.version) == wanted

    asyncio.run(run())


async def test_writes_without_end_are_told_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(taking, "LONGEST_PAUSE_SECONDS", 0.001)
    store, snapshots = await shelf(SnapshotStorage(str(tmp_path)))
    store.before_call = lambda: store.put("docs-v1", "p1", "again")
    with pytest.raises(Unavailable) as contended:
        await snapshots.create("docs")
    assert contended.value.reason == "CONTENDED"
    assert await snapshots.page("docs") == ([], "")
    assert not files_in(tmp_path)


async def test_progress_is_told_and_the_last_step_has_the_result():
    _, snapshots = await shelf(anywhere())
    taken = [step async for step in snapshots.taking("docs")]
    assert [(step.phase, step.total) for step in (taken[0], taken[-1])] == [(Phase.COPY, 20), (Phase.DONE, 20)]
    assert not any(step.snapshot for step in taken[:-1])
    restored = [step async for step in snapshots.restoring("docs", taken[-1].snapshot.name)]
    assert list(dict.fromkeys(step.phase for step in restored)) == [Phase.CHECK, Phase.WRITE, Phase.DONE]
    assert restored[-1].version.version == "docs-v2"
    assert all(step.done <= step.total for step in taken + restored)


async def test_the_layout_is_kept_but_for_shards_that_are_asked_for():
    store, snapshots = await shelf(anywhere())
    store.notes["docs-v1"]["layout"] = {"shards": 3, "hnsw_m": 32}
    name = (await snapshots.create("docs")).name
    for shards, wanted in ((0, 3), (1, 1)):
        restored = await snapshots.restore("docs", name, shards)
        assert store.layouts[restored.version] == Layout(shards=wanted, hnsw_m=32)
        assert restored.layout == store.layouts[restored.version]
    with pytest.raises(InvalidArgument, match="shards"):
        await snapshots.restore("docs", name, -1)


async def test_one_flipped_bit_anywhere_is_refused_before_anything_is_written(tmp_path):
    store, snapshots = await shelf(SnapshotStorage(str(tmp_path)), count=3)
    name = (await snapshots.create("docs")).name
    paths = files_in(tmp_path)
    assert [path.name for path in paths] == [MANIFEST, "part-000000.zip"]
    for path in paths:
        whole = path.read_bytes()
        flipped = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(0, len(whole), 3)]
        for damage in (*flipped, b"", whole[:-1], whole + b" "):
            path.write_bytes(damage)
            with pytest.raises(FailedPrecondition) as refused:
                await snapshots.restore("docs", name)
            assert refused.value.reason == "SNAPSHOT_DAMAGED"
        path.write_bytes(whole)
    assert list(store.rows) == ["docs-v1"]
    assert (await snapshots.restore("docs", name)).version == "docs-v2"


async def test_one_hundred_flipped_bits_are_refused(tmp_path):
    store, snapshots = await shelf(SnapshotStorage(str(tmp_path)), count=200)
    name = (await snapshots.create("docs")).name
    paths, chance = files_in(tmp_path), random.Random(19)
    refused = 0
    for _ in range(100):
        path = chance.choice(paths)
        whole = path.read_bytes()
        bit = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(FailedPrecondition, match="not as it was written"):
            await snapshots.restore("docs", name)
        refused += 1
        path.write_bytes(whole)
    assert (refused, list(store.rows)) == (100, ["docs-v1"])


async def test_a_part_that_is_missing_is_refused(tmp_path):
    _, snapshots = await shelf(SnapshotStorage(str(tmp_path)))
    name = (await snapshots.create("docs")).name
    next(tmp_path.rglob("part-*")).unlink()
    with pytest.raises(FailedPrecondition, match=r"part-000000\.zip"):
        await snapshots.restore("docs", name)


async def test_what_comes_into_the_new_version_is_compared_with_what_was_written_down():
    storage = anywhere()
    store, snapshots = await shelf(storage)
    name = (await snapshots.create("docs")).name
    writing = store.write

    async def lose(version, rows, deadline, still=None):
        await writing(version, rows[1:], deadline)

    async def mix_up(version, rows, deadline, still=None):
        await writing(version, [row._replace(revision="of another write") for row in rows], deadline)

    for fault in (lose, mix_up):
        store.write = fault
        with pytest.raises(FailedPrecondition) as refused:
            await snapshots.restore("docs", name)
        assert refused.value.reason == "SNAPSHOT_INCOMPLETE"
    assert list(store.rows) == ["docs-v1"]


async def test_a_later_format_is_refused_with_the_reason():
    storage = anywhere()
    _, snapshots = await shelf(storage)
    snapshot = await snapshots.create("docs")
    written = await storage.read("docs-v1", snapshot.name, MANIFEST, None)
    manifest = Manifest.from_bytes(written, snapshot.name)
    assert manifest.to_bytes() == written
    assert json.loads(written)["passages"] == 20
    later = written.replace(b'"format": 1', b'"format": 2')
    digest = json.loads(later)["sha256"].encode()
    later = later.replace(digest, hashlib.sha256(later.replace(digest, b"0" * 64)).hexdigest().encode())
    await storage.write("docs-v1", snapshot.name, MANIFEST, later, None)
    with pytest.raises(FailedPrecondition) as refused:
        await snapshots.restore("docs", snapshot.name)
    assert refused.value.reason == "SNAPSHOT_FORMAT"


@pytest.mark.parametrize("scheme", ["", "file://"])
async def test_a_folder_keeps_snapshots_that_another_process_restores(tmp_path, scheme):
    url = f"{scheme}{tmp_path}/snap shots"
    store, snapshots = await shelf(SnapshotStorage(url))
    name = (await snapshots.create("docs")).name
    other, others = await shelf(SnapshotStorage(url), count=0)
    [found], _ = await others.page("docs")
    assert (found.name, found.version) == (name, "docs-v1")
    assert found.size_bytes == sum(file.stat().st_size for file in files_in(tmp_path))
    assert other.content((await others.restore("docs", name)).version) == store.content("docs-v1")
    await others.delete("docs", name)
    assert await snapshots.page("docs") == ([], "")
    assert not files_in(tmp_path)


async def test_files_of_others_are_neither_offered_nor_cleared(tmp_path):
    folder = tmp_path / "docs-v1" / "docs-v1-2026-11-21-09-30-00-000000"
    strange = [folder / "collection.json", folder / "storage.sqlite", tmp_path / "docs-v7", folder.parent / "notes.txt"]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    _, snapshots = await shelf(SnapshotStorage(str(tmp_path), leftover_seconds=0))
    name = (await snapshots.create("docs")).name
    assert [one.name for one in (await snapshots.page("docs"))[0]] == [name]
    assert all(path.read_text() == "mine" for path in strange)
    with pytest.raises(NotFound):
        await snapshots.delete("docs", folder.name)


async def test_a_snapshot_that_another_process_is_taking_is_not_cleared(tmp_path):
    storage = SnapshotStorage(str(tmp_path))
    await storage.write("docs-v1", storage.new_name("docs-v1"), "part-000000.zip", b"under way", None)
    _, snapshots = await shelf(storage)
    await snapshots.create("docs")
    assert [path.read_bytes() for path in tmp_path.rglob("part-*") if path.stat().st_size < 10] == [b"under way"]


async def test_a_caller_who_leaves_leaves_nothing_behind(tmp_path):
    storage = SnapshotStorage(str(tmp_path))
    store, snapshots = await shelf(storage)
    taking = snapshots.taking("docs")
    while (await anext(taking)).done == 0:
        pass
    await taking.aclose()
    assert not files_in(tmp_path)
    name = (await snapshots.create("docs")).name
    restoring = snapshots.restoring("docs", name)
    while (await anext(restoring)).phase is not Phase.WRITE:
        pass
    assert list(store.rows) == ["docs-v1", "docs-v2"]
    await restoring.aclose()
    assert list(store.rows) == ["docs-v1"]


async def test_a_storage_that_fails_is_told_with_the_reason_and_what_to_do(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    _, snapshots = await shelf(SnapshotStorage(str(blocked)))
    with pytest.raises(FailedPrecondition, match="QDRANT_SNAPSHOT_PATH") as refused:
        await snapshots.create("docs")
    assert refused.value.reason == "SNAPSHOT_STORAGE"
    _, snapshots = await shelf(anywhere())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "open", full)
    with pytest.raises(ResourceExhausted) as full_disk:
        await snapshots.create("docs")
    assert full_disk.value.reason == "STORAGE_FULL"


def test_a_url_that_nothing_serves_is_refused_at_the_start():
    with pytest.raises(StartupError, match="QDRANT_SNAPSHOT_PATH: nowhere://") as refused:
        SnapshotStorage("nowhere://bucket")
    assert "s3fs" in refused.value.remedy


@pytest.fixture
def processes(tmp_path):
    command = [sys.executable, "-m", "tests.unit.retriever.backups.taking_processes", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        yield made
        made.stdin.close()


async def test_fifty_kills_never_leave_half_a_snapshot_on_offer(tmp_path, processes):
    chance = random.Random(16)
    store, collections, versions = await filled(0)
    storage = SnapshotStorage(str(tmp_path), leftover_seconds=0)
    whole: set[str] = set()
    for _ in range(50):
        seen = len(list(tmp_path.rglob("part-*")))
        processes.stdin.write("another\n")
        processes.stdin.flush()
        process = int(processes.stdout.readline())
        while len(list(tmp_path.rglob("part-*"))) == seen:
            await asyncio.sleep(0.001)
        await asyncio.sleep(chance.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        assert processes.stdout.readline() == "killed\n"
        for snapshot in await storage.find("docs", None):
            if snapshot.name not in whole:
                restoring = Restoring(store, collections, storage, snapshot, None)
                manifest = await restoring.manifest()
                assert [done async for done in restoring.check(manifest)][-1] == manifest.passages == 40
                whole.add(snapshot.name)
    begun = {path.parent.name for path in files_in(tmp_path)}
    assert whole
    assert begun - whole
    await storage.clear("docs-v1", None)
    assert {path.parent.name for path in files_in(tmp_path)} == whole
    with pytest.raises(NotFound):
        await Snapshots(store, collections, versions, storage).restore("docs", min(begun - whole))
