import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc as api

from services.retriever.documents import Chunk, Passage
from services.retriever.engines.server.points import (
    SELECTED,
    to_comparison,
    to_hits,
    to_lookup,
    to_point,
    to_row,
    to_search,
)
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.store import PLAIN, Parts, Row, point_id

metadata = st.dictionaries(
    st.text("abc_-", min_size=1, max_size=8),
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.lists(st.text()),
)
words = st.dictionaries(st.integers(0, 2**32 - 1), st.floats(0.015625, 100, width=32)).map(
    lambda values: SparseVector(sorted(values), [values[index] for index in sorted(values)])
)
chunks = st.none() | st.builds(Chunk, st.just(1), *[st.integers(0, 100_000)] * 3)


def answered(point: api.PointStruct) -> api.RetrievedPoint:
    """A point as Qdrant returns it, over the wire."""
    found = api.RetrievedPoint(id=point.id, payload=point.payload)
    found.vectors.vectors.SetInParent()
    for name, vector in point.vectors.vectors.vectors.items():
        kind = vector.WhichOneof("vector")
        getattr(found.vectors.vectors.vectors[name], kind).CopyFrom(getattr(vector, kind))
    return api.RetrievedPoint.FromString(found.SerializeToString())


@given(st.text(), st.text(), st.text(), metadata, chunks, words, st.text())
def test_a_passage_comes_back_as_it_was_written(passage_id, text, title, metadata, chunk, words, revision):
    vector = np.linspace(-1, 1, 7, dtype=np.float32)
    tokens = np.arange(2 * 129, dtype=np.uint8).reshape(2, 129)
    row = Row(point_id(passage_id), Passage(passage_id, text, title, metadata, vector, chunk, tokens), revision, words)
    read = to_row(answered(to_point(row)))
    assert (read.id, read.revision, read.words) == (row.id, revision, words)
    passage = read.passage
    assert (passage.id, passage.text, passage.title, passage.chunk) == (passage_id, text, title, chunk)
    assert passage.metadata == metadata
    assert {name: type(value) for name, value in passage.metadata.items()} == {
        name: type(value) for name, value in metadata.items()
    }
    assert passage.vector.tolist() == vector.tolist()
    assert passage.tokens.tolist() == tokens.tolist()


def test_a_point_of_an_earlier_release_has_a_revision_of_its_own():
    point = api.RetrievedPoint(id=api.PointId(uuid=point_id("a")), payload={"id": api.Value(string_value="a")})
    assert to_row(point) == Row(point_id("a"), Passage("a"), "0")


def test_a_comparison_asks_for_scores_of_the_named_passages_alone():
    ids = [point_id("a"), point_id("b")]
    agreeing = api.ReadConsistency(factor=2)
    query = to_comparison("docs-v1", np.full((3, 129), 7, np.uint8), ids, agreeing)
    assert (query.collection_name, query.using, query.limit, query.read_consistency) == ("docs-v1", "late", 2, agreeing)
    assert [one.uuid for one in query.filter.must[0].has_id.has_id] == ids
    assert not query.with_payload.enable
    assert [list(row.data) for row in query.query.nearest.multi_dense.vectors] == [[7.0] * 129] * 3


def test_a_search_by_vector_carries_what_its_layout_says_and_one_by_words_does_not():
    layout = Layout(quantization=Quantization.INT8, oversampling=3, rescore=False, hnsw_ef=64)
    by_vector = to_search(np.ones(2, np.float32), 5, None, layout)
    assert (by_vector.using, by_vector.limit, by_vector.params.hnsw_ef) == ("dense", 5, 64)
    assert (by_vector.params.quantization.rescore, by_vector.params.quantization.oversampling) == (False, 3)
    by_words = to_search(SparseVector([3], [2.0]), 5, None, layout)
    assert by_words.query.nearest.sparse == api.SparseVector(indices=[3], values=[2.0])
    assert not by_words.HasField("params")
    assert not to_search(np.ones(2, np.float32), 5, None, PLAIN).HasField("params")


def test_a_lookup_asks_for_exactly_these_points():
    lookup = to_lookup([point_id("a"), point_id("b")], Parts.KEYS)
    [condition] = lookup.filter.must
    assert [one.uuid for one in condition.has_id.has_id] == [point_id("a"), point_id("b")]
    assert (lookup.limit, lookup.with_payload) == (2, SELECTED[Parts.KEYS]["with_payload"])


def test_hits_keep_their_order_and_scores():
    found = [api.ScoredPoint(id=api.PointId(uuid=name), score=score) for name, score in (("x", 2.0), ("y", 1.5))]
    assert to_hits(api.BatchResult(result=found)) == [("x", 2.0), ("y", 1.5)]
