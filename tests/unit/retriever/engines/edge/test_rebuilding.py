import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from services.retriever.engines.edge.generations import Generations
from services.retriever.engines.edge.rebuilding import GRAPH_FROM, Sizes, due
from services.retriever.engines.edge.shard import Shard
from services.retriever.fields import Equals, FieldType, Filter
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.store import Parts
from tests.unit.retriever.engines.edge.shelf import DIMENSION, ids, row, settle


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "v"


def state_of(shard):
    rows, _ = shard.scroll(None, 10_000, Parts.VECTOR)
    return [(one.id, one.revision, one.passage.vector.tolist(), one.words, one.passage.metadata) for one in rows]


def children():
    return [int(one) for task in Path("/proc/self/task").iterdir() for one in (task / "children").read_text().split()]


@pytest.mark.parametrize("quantization", [Quantization.NONE, Quantization.INT8])
def test_a_build_takes_over_with_all_that_changed_meanwhile(folder, quantization):
    layout = Layout(quantization=quantization)
    shard = Shard.create(folder, DIMENSION, layout, graph_from=200, pause_seconds=0)
    shard.declare({"open": FieldType.BOOL})
    shard.write([row(number, open=number % 2 == 0) for number in range(200)])
    shard.idle()
    assert not shard.settled
    number = 200
    while not shard.settled:
        shard.write([row(number, open=True), row(number - 150, "again", open=True)])
        shard.remove(ids([row(number - 190)]))
        shard.declare({f"f{number % 3}": FieldType.KEYWORD})
        before = state_of(shard)
        shard.idle()
        assert state_of(shard) == before
        number += 1
        time.sleep(0.01)
    assert number > 203
    query = np.random.default_rng(5).normal(size=DIMENSION).astype(np.float32)
    (hits,) = shard.search([query], 20, layout=layout)
    rows = shard.scroll(None, 10_000, Parts.VECTOR)[0]
    right = sorted((float(one.passage.vector @ query) for one in rows), reverse=True)[:20]
    assert [score for _, score in hits] == pytest.approx(right, abs=1e-5)
    count = shard.count(Filter([Equals("open", True)]))
    assert count == sum(one.passage.metadata["open"] for one in rows)
    shard.close()
    loaded = Shard.load(folder)
    assert state_of(loaded) == before
    assert {path.name for path in folder.iterdir()} == {"current", "shard-2", "shard-2.json"}
    loaded.close()


def test_a_build_that_is_given_up_leaves_nothing(folder):
    shard = Shard.create(folder, DIMENSION, graph_from=100, pause_seconds=0)
    shard.write([row(number) for number in range(100)])
    shard.idle()
    assert not shard.settled
    shard.close()
    loaded = Shard.load(folder)
    assert loaded.size() == 100
    assert {path.name for path in folder.iterdir()} == {"current", "shard-1", "shard-1.json"}
    loaded.close()


def test_a_build_that_writing_overtakes_is_given_up_and_begun_again_with_all_that_is_there(folder):
    shard = Shard.create(folder, DIMENSION, graph_from=100, pause_seconds=0)
    shard.write([row(number) for number in range(100)])
    others = children()  # of tests before
    shard.idle()
    (builder,) = set(children()) - set(others)
    os.kill(builder, signal.SIGSTOP)  # it takes its time
    for _ in range(20):  # all is copied, and the build is ordered
        shard.idle()
    shard.write([row(number) for number in range(100, 300)])
    shard.idle()
    assert builder not in children()
    assert not shard.settled
    settle(shard)
    assert shard.size() == 300
    shard.close()
    generations = Generations(folder)
    assert generations.state(generations.current).indexed == 300


def test_a_builder_that_dies_costs_nothing_but_time(folder, caplog):
    caplog.set_level("WARNING", logger="retriever")  # libraries of other tests may have switched logging off
    shard = Shard.create(folder, DIMENSION, graph_from=100, pause_seconds=0)
    shard.write([row(number) for number in range(100)])
    others = children()  # of tests before
    shard.idle()
    (builder,) = set(children()) - set(others)
    os.kill(builder, signal.SIGKILL)
    while not shard.build_failed:
        shard.idle()
    settle(shard)
    assert "not rebuilt" in caplog.text
    assert len(shard.search([SparseVector([7], [1.0])], 10)[0]) == 10
    shard.close()


def test_a_new_layout_is_built_and_kept(folder):
    shard = Shard.create(folder, DIMENSION)
    shard.write([row(number) for number in range(10)])
    before = state_of(shard)
    shard.tune(Layout(vectors_on_disk=True, quantization=Quantization.INT8))
    settle(shard)
    assert state_of(shard) == before
    shard.close()
    loaded = Shard.load(folder)
    assert not loaded.idle()
    assert loaded.settled
    assert state_of(loaded) == before
    loaded.close()


def test_a_rebuild_is_due_when_the_rest_has_grown_by_half_or_when_garbage_has():
    assert not due(Sizes(GRAPH_FROM - 1, GRAPH_FROM - 1, 0), 0, 5.0)
    assert due(Sizes(GRAPH_FROM, GRAPH_FROM, 0), 0, 5.0)
    assert not due(Sizes(149_999, 49_999, 0), 100_000, 5.0)
    assert due(Sizes(150_001, 50_001, 0), 100_000, 5.0)
    assert due(Sizes(110_001, 10_001, 0), 100_000, 60.0)
    assert not due(Sizes(1000, 1000, 10_000), 0, 60.0)
    assert due(Sizes(1000, 1000, 10_001), 0, 0.0)


def test_a_rebuild_waits_for_a_pause_unless_very_many_passages_were_written():
    assert not due(Sizes(200_000, 200_000, 0), 0, 0.0)
    assert due(Sizes(200_001, 200_001, 0), 0, 0.0)
    assert not due(Sizes(600_000, 300_000, 0), 300_000, 0.0)
    assert due(Sizes(600_001, 300_001, 0), 300_000, 0.0)


def test_a_layout_is_still_wanted_after_a_restart(folder):
    shard = Shard.create(folder, DIMENSION)
    shard.write([row(number) for number in range(10)])
    shard.tune(Layout(hnsw_m=8))
    shard.close()
    loaded = Shard.load(folder)
    settle(loaded)
    assert (folder / "shard-2").is_dir()
    loaded.close()
