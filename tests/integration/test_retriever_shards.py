"""A version spread over the nodes of a cluster: scores of the whole, losses that are named, changes of its layout."""

from __future__ import annotations

import random

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import FailedPrecondition, Unavailable
from services.retriever.documents import Passage
from services.retriever.engines.server import ServerStore
from services.retriever.fields import ALL, FieldType
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PLAIN, Parts, Row, point_id
from tests.qdrant_server import QdrantServer

VERSION = "docs-v1"
VECTOR = np.ones(2, np.float32)


@pytest.fixture
async def server():
    async with QdrantServer(nodes=3, lag=(0.0, 0.01)) as server:
        yield server


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
async def store(server, registry):
    """Every node by its own address."""
    urls = ",".join(f"http://127.0.0.1:{port}" for port in server.ports)
    settings = RetrieverSettings(
        qdrant_url=urls, qdrant_grpc_port=0, qdrant_pool_retry_enabled=False, qdrant_breaker_failures=2
    )
    store = ServerStore(settings, RetrieverMetrics(registry))
    yield store
    await store.close()


def rows(count, seed=0):
    chance = random.Random(seed)
    made = []
    for number in range(count):
        terms = sorted(chance.sample(range(12), 4))
        words = SparseVector(terms, [chance.uniform(0.5, 2) for _ in terms])
        made.append(Row(point_id(str(number)), Passage(str(number), "text", vector=VECTOR), "r", words))
    return made


async def found(store, version, *terms):
    [hits] = await store.search(version, [SparseVector(list(terms), [1.0] * len(terms))], 100, ALL, None)
    return dict(hits)


@pytest.mark.parametrize("shards", [0, 2, 3])
async def test_words_weigh_the_same_however_a_version_is_spread(store, shards):
    one = "docs-v9"
    await store.create(one, 2, Layout(shards=1), {}, None)
    await store.create(VERSION, 2, Layout(shards=shards), {}, None)
    for version in (one, VERSION):
        await store.write(version, rows(40), None)
    for terms in ((0,), (1, 5), (2, 3, 99)):
        assert await found(store, VERSION, *terms) == pytest.approx(await found(store, one, *terms), abs=1e-5)
    for version in (one, VERSION):
        await store.remove(version, [row.id for row in rows(10)], None)
        await store.write(version, rows(5, seed=1), None)
    assert await found(store, VERSION, 0, 4) == pytest.approx(await found(store, one, 0, 4), abs=1e-5)


async def test_what_another_retriever_writes_counts_once_the_version_is_described(store, server):
    await store.create(VERSION, 2, Layout(shards=3), {}, None)
    await store.write(VERSION, rows(20), None)
    before = await found(store, VERSION, 0)
    await store.describe(VERSION, None)
    other = ServerStore(
        RetrieverSettings(qdrant_url=server.url, qdrant_grpc_port=server.port), RetrieverMetrics(CollectorRegistry())
    )
    await other.write(VERSION, rows(40), None)
    await other.close()
    await store.describe(VERSION, None)
    after = await found(store, VERSION, 0)
    assert all(after[point] != pytest.approx(score, abs=1e-5) for point, score in before.items())


async def test_a_missing_shard_is_named_and_keeps_no_other_collection_from_being_searched(store, server, registry):
    await store.create(VERSION, 2, Layout(shards=3), {}, None)
    await store.create("kept-v1", 2, Layout(shards=1), {}, None)
    for version in (VERSION, "kept-v1"):
        await store.write(version, rows(20), None)
        await found(store, version, 0)
    keepers = server.cluster.nodes
    kept = next(node.number for node in keepers if "kept-v1" in server.cluster.view(node).collections)
    [place] = server.cluster.view(keepers[kept]).collections["kept-v1"].points.places[0]
    lost = next(number for number in range(3) if number != place)
    await server.take_down(lost)
    for _ in range(4):
        with pytest.raises(Unavailable, match="1 of the 3 shards of 'docs-v1'") as failure:
            await found(store, VERSION, 0)
        assert failure.value.reason == "SHARD_DOWN"
        assert await found(store, "kept-v1", 0)
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 0
    await server.bring_up(lost)
    assert await found(store, VERSION, 0)


@pytest.mark.parametrize("lost", range(3))
async def test_with_two_replicas_a_node_that_dies_costs_no_search(store, server, lost):
    await store.create(VERSION, 2, Layout(shards=3, replicas=2), {}, None)
    await store.write(VERSION, rows(20), None)
    before = await found(store, VERSION, 0)
    await server.take_down(lost)
    for _ in range(6):
        assert await found(store, VERSION, 0) == pytest.approx(before)


@pytest.mark.parametrize("lost", range(3))
async def test_replicas_that_are_asked_for_later_are_made(store, server, lost):
    await store.create(VERSION, 2, Layout(shards=4), {}, None)
    await store.write(VERSION, rows(20), None)
    before = await found(store, VERSION, 0)
    await store.tune(VERSION, Layout(shards=4, replicas=2), None)
    places = server.cluster.view(server.cluster.nodes[0]).find(VERSION).points.places
    assert [len(one) for one in places] == [2] * 4
    held = [sum(number in one for one in places) for number in range(3)]
    assert max(held) - min(held) <= 1
    await server.take_down(lost)
    for _ in range(6):
        assert await found(store, VERSION, 0) == pytest.approx(before)


@pytest.mark.parametrize(("replicas", "problem"), [(4, "as many nodes"), (3, "raise `replicas` by 1")])
async def test_replicas_that_cannot_be_made_are_refused(store, server, replicas, problem):
    await store.create(VERSION, 2, Layout(shards=2), {}, None)
    with pytest.raises(FailedPrecondition, match=problem) as refusal:
        await store.tune(VERSION, Layout(shards=2, replicas=replicas, hnsw_m=64), None)
    assert (refusal.value.reason, refusal.value.metadata["field"]) == ("LAYOUT_FIXED", "replicas")
    known = server.cluster.view(server.cluster.nodes[0]).find(VERSION)
    assert (known.config.hnsw_config.m, known.config.params.replication_factor) == (16, 1)
    assert [len(one) for one in known.points.places] == [1, 1]


async def test_passages_and_keys_are_read_in_one_trip(store, server):
    await store.create(VERSION, 2, Layout(shards=3), {}, None)
    made = rows(20)
    await store.write(VERSION, made, None)
    points = [row.id for row in made]
    trips = server.calls.total()
    read = await store.read(VERSION, points[:12], Parts.PASSAGE, None, points[12:])
    assert server.calls.total() == trips + 1
    assert {row.id: row.passage.text for row in read} == {
        **dict.fromkeys(points[:12], "text"), **dict.fromkeys(points[12:], "")
    }  # fmt: skip


async def test_a_layout_changes_alive_but_for_its_shards(store, server):
    layout = Layout(shards=2, replicas=1, read_fanout=1, tenant="owner")
    await store.create(VERSION, 2, layout, {}, None)
    await store.declare(VERSION, {"owner": FieldType.KEYWORD, "other": FieldType.KEYWORD}, None, "owner")
    view = server.cluster.view(server.cluster.nodes[0])
    known = view.find(VERSION)
    assert known.config.params.read_fan_out_factor == 1
    assert known.indexes["metadata.owner"].params.keyword_index_params.is_tenant
    assert not known.indexes["metadata.other"].params.keyword_index_params.is_tenant

    with pytest.raises(FailedPrecondition, match="2 shards") as refusal:
        await store.tune(VERSION, Layout(shards=3, hnsw_m=64), None)
    assert (refusal.value.reason, refusal.value.metadata["field"]) == ("LAYOUT_FIXED", "shards")
    assert known.config.hnsw_config.m == 16

    changed = Layout(shards=2, hnsw_m=32, quantization=Quantization.INT8, vectors_on_disk=True, most_passages=100)
    await store.tune(VERSION, changed, None)
    config = server.cluster.view(server.cluster.nodes[0]).find(VERSION).config
    dense = config.params.vectors_config.params_map.map["dense"]
    assert (config.hnsw_config.m, dense.quantization_config.scalar.always_ram) == (32, True)
    assert (config.params.read_fan_out_factor, config.strict_mode_config.max_points_count) == (0, 100)
    await store.tune(VERSION, PLAIN, None)
    config = server.cluster.view(server.cluster.nodes[0]).find(VERSION).config
    assert not config.params.vectors_config.params_map.map["dense"].HasField("quantization_config")
    assert not config.strict_mode_config.enabled


async def test_a_version_of_an_earlier_release_has_its_words_weighed_as_a_whole_once_it_is_tuned(store, server):
    """It left IDF to Qdrant, which counts each shard by itself."""
    await store.create(VERSION, 2, Layout(shards=2), {}, None)
    for node in server.cluster.nodes:
        known = server.cluster.view(node).find(VERSION)
        known.config.params.sparse_vectors_config.map["lexical"].modifier = 1
    known.points.weigh(known.config.params)
    await store.write(VERSION, rows(40), None)
    await store.create("docs-v9", 2, Layout(shards=1), {}, None)
    await store.write("docs-v9", rows(40), None)
    await store.describe(VERSION, None)
    whole = await found(store, "docs-v9", 0)
    assert await found(store, VERSION, 0) != pytest.approx(whole, abs=1e-5)
    await store.tune(VERSION, PLAIN, None)
    assert await found(store, VERSION, 0) == pytest.approx(whole, abs=1e-5)


async def test_of_a_large_version_a_sample_weighs_the_words(store, server, monkeypatch):
    monkeypatch.setattr("services.retriever.engines.server.searching.SAMPLE", 150)
    await store.create(VERSION, 2, Layout(shards=3), {}, None)
    await store.create("docs-v9", 2, Layout(shards=1), {}, None)
    for version in (VERSION, "docs-v9"):
        await store.write(version, rows(300), None)
    whole = await found(store, "docs-v9", 0)
    scrolls = server.calls["Scroll"]
    by_sample = await found(store, VERSION, 0)
    assert scrolls < server.calls["Scroll"] <= scrolls + 2
    # A term of every third passage: the sample finds that, about.
    ratios = [by_sample[point] / score for point, score in whole.items() if point in by_sample]
    assert 0.6 < min(ratios) <= max(ratios) < 1.6
