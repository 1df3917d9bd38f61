"""Token vectors in the embedded engine: kept byte for byte, compared exactly, through all that happens to a shard."""

import numpy as np
import pytest

from services.retriever.engines.edge.rebuilding import Sizes
from services.retriever.engines.edge.shard import Refused, Shard
from services.retriever.layout import Layout, Quantization
from services.retriever.store import Parts
from tests.maxsim import maxsim
from tests.unit.retriever.engines.edge.shelf import DIMENSION, ids, row, settle

TOKEN_DIMENSION = 129
QUERY = np.random.default_rng(99).integers(0, 256, (32, TOKEN_DIMENSION), dtype=np.uint8)


def late(number, rows=None):
    """Return a passage whose token vectors are its own: all bytes may be there."""
    chance = np.random.default_rng(number)
    tokens = chance.integers(0, 256, (rows or 1 + number % 70, TOKEN_DIMENSION), dtype=np.uint8)
    return row(number, tokens=tokens)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "v"


@pytest.fixture
def shard(folder):
    opened = Shard.create(folder, DIMENSION, token_dimension=TOKEN_DIMENSION)
    yield opened
    opened.close()


def check(shard, rows):
    """Compare what a shard reads, and how it scores, with what was written."""
    found = {one.id: one.passage.tokens for one in shard.read(ids(rows), Parts.VECTOR)}
    scores = shard.compare(QUERY, ids(rows))
    assert found.keys() == scores.keys() == set(ids(rows))
    for one in rows:
        np.testing.assert_array_equal(found[one.id], one.passage.tokens)
        # Each greatest product is a whole number below 2**24, and exact; their sum is a float.
        assert scores[one.id] == pytest.approx(maxsim(QUERY, one.passage.tokens), rel=1e-6)


def test_bytes_are_kept_and_compared_as_they_are(folder):
    shard = Shard.create(folder, DIMENSION, token_dimension=TOKEN_DIMENSION)
    rows = [late(number) for number in range(1, 80)]
    shard.write(rows)
    check(shard, rows)
    shard.close()
    loaded = Shard.load(folder)
    check(loaded, rows)
    loaded.close()


def test_one_row_of_extremes_is_exact(shard):
    dark, light = np.zeros((1, TOKEN_DIMENSION), np.uint8), np.full((1, TOKEN_DIMENSION), 255, np.uint8)
    rows = [row(1, tokens=dark), row(2, tokens=light), row(3, tokens=np.vstack([dark, light]))]
    shard.write(rows)
    assert shard.compare(light, ids(rows)) == dict(zip(ids(rows), [0.0, 129 * 255 * 255, 129 * 255 * 255], strict=True))


@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros((2, 128), np.uint8),
        np.zeros((2, 129), np.float32),
        np.zeros(129, np.uint8),
        np.zeros((0, 129), np.uint8),
        np.zeros((1025, 129), np.uint8),
    ],
)
def test_what_edge_would_panic_at_is_refused_with_the_whole_batch(shard, tokens):
    with pytest.raises(Refused, match="row 1"):
        shard.write([late(1), row(2, tokens=tokens)])
    with pytest.raises(Refused):
        shard.compare(tokens, ids([late(1)]))
    assert shard.size() == 0


def test_a_version_without_token_vectors_takes_none(folder):
    shard = Shard.create(folder, DIMENSION)
    with pytest.raises(Refused, match="keeps none"):
        shard.write([late(1)])
    with pytest.raises(Refused, match="keeps none"):
        shard.compare(QUERY, ids([late(1)]))
    shard.close()


def test_a_rebuild_takes_them_along_and_makes_no_copy_of_them(folder):
    layout = Layout(quantization=Quantization.INT8)
    shard = Shard.create(folder, DIMENSION, layout, TOKEN_DIMENSION, graph_from=150, pause_seconds=0)
    rows = [late(number) for number in range(200)]
    shard.write(rows)
    shard.idle()
    assert not shard.settled
    rows[0] = late(0, 76)  # written anew while it is built
    shard.write(rows[:1])
    settle(shard)
    check(shard, rows)
    shard.close()
    loaded = Shard.load(folder)
    check(loaded, rows)
    loaded.close()
    assert (folder / "current").read_text().strip() == "shard-2"
    quantized = [path for path in (folder / "shard-2").rglob("quantized*") if path.is_file()]
    assert any("dense" in str(path) for path in quantized)
    assert not any("late" in str(path) for path in quantized)


def test_passages_in_the_graph_do_not_count_as_beside_it(folder):
    shard = Shard.create(folder, DIMENSION, token_dimension=TOKEN_DIMENSION, graph_from=100, pause_seconds=0)
    shard.write([late(number) for number in range(100)])
    settle(shard)
    shard.write([late(number) for number in range(100, 110)])
    assert Sizes.of(shard._shard, 100, tokens=True) == Sizes(110, 10, 0)
    shard.close()


def test_what_was_flushed_survives_a_log_that_cannot_be_read(folder):
    shard = Shard.create(folder, DIMENSION, token_dimension=TOKEN_DIMENSION)
    rows = [late(number) for number in range(100)]
    shard.write(rows)
    shard.close()
    loaded = Shard.load(folder, without_log=True)
    check(loaded, rows)
    loaded.close()
