import math
from datetime import UTC, datetime

import numpy as np
import pytest

from services.retriever.documents import Chunk, Passage
from services.retriever.engines.edge.shard import Damaged, Refused, Shard
from services.retriever.fields import AnyOf, DateRange, Equals, FieldType, Filter, Range
from services.retriever.lexical import SparseVector
from services.retriever.store import Parts, Row, point_id
from tests.unit.retriever.engines.edge.shelf import DIMENSION, ids, row


@pytest.fixture
def shard(tmp_path):
    opened = Shard.create(tmp_path / "v1", DIMENSION)
    yield opened
    opened.close()


def test_what_is_written_is_read_back(shard):
    metadata = {"kind": "x", "tags": ["a", "b"], "year": 2**62 + 1, "open": True, "score": 1.5, "day": "2024-05-01"}
    passage = Passage("p", "text", "title", metadata, np.ones(DIMENSION, np.float32), Chunk(1, 2, 0, 10))
    written = Row(point_id("p"), passage, "r1", SparseVector([3, 9], [0.5, 1.5]))
    shard.write([written])
    (found,) = shard.read([written.id], Parts.VECTOR)
    assert found.passage.vector.tolist() == passage.vector.tolist()
    assert (found.id, found.revision, found.words) == (written.id, "r1", written.words)
    assert (found.passage.metadata, found.passage.chunk, found.passage.text) == (metadata, passage.chunk, "text")


def test_of_keys_only_keys_are_read(shard):
    rows = [row(1), row(2)]
    shard.write(rows)
    whole, key = shard.read([rows[0].id], Parts.PASSAGE, [rows[1].id, point_id("absent")])
    assert (whole.passage.text, key.passage.text, key.passage.id, key.revision) == ("text 1", "", "p2", "r")
    assert whole.passage.vector is None


def test_a_passage_without_words_is_stored(shard):
    shard.write([row(1, words=())])
    (found,) = shard.read(ids([row(1)]), Parts.VECTOR)
    assert found.words == SparseVector([], [])
    assert shard.search([SparseVector([7], [1.0])], 10) == [[]]


def test_scrolling_goes_by_id_and_says_where_to_go_on(shard):
    rows = [row(number, parity=str(number % 2)) for number in range(25)]
    shard.write(rows)
    seen, start = [], None
    while True:
        page, start = shard.scroll(start, 4, Parts.KEYS, Filter([Equals("parity", "1")]))
        seen += ids(page)
        if start is None:
            break
    assert seen == sorted(one.id for one in rows if one.passage.metadata["parity"] == "1")


def test_dense_scores_are_products_best_first(shard):
    rows = [row(number) for number in range(50)]
    shard.write(rows)
    query = np.random.default_rng(99).normal(size=DIMENSION).astype(np.float32)
    (hits,) = shard.search([query], 10)
    right = sorted(((float(one.passage.vector @ query), one.id) for one in rows), reverse=True)[:10]
    assert [point for point, _ in hits] == [one for _, one in right]
    assert [score for _, score in hits] == pytest.approx([score for score, _ in right], abs=1e-5)


def idf(total, having):
    return math.log((total + 1) / (having + 0.5))


def test_the_idf_counts_what_is_there_after_removing_and_replacing_and_loading(tmp_path):
    shard = Shard.create(tmp_path / "v", DIMENSION)
    rows = [row(number, words=(7, 8) if number < 5 else (7,)) for number in range(100)]
    shard.write(rows)

    def score():
        return shard.search([SparseVector([8], [1.0])], 1)[0][0][1]

    assert score() == pytest.approx(idf(100, 5), abs=1e-5)
    shard.remove(ids(rows[50:]))
    assert score() == pytest.approx(idf(50, 5), abs=1e-5)
    shard.write([row(1, words=(7,))])
    assert score() == pytest.approx(idf(50, 4), abs=1e-5)
    shard.close()
    shard = Shard.load(tmp_path / "v")
    assert score() == pytest.approx(idf(50, 4), abs=1e-5)
    shard.write([row(2, words=(7,))])
    assert score() == pytest.approx(idf(50, 3), abs=1e-5)
    shard.close()


def test_a_write_asks_for_revisions(shard):
    shard.write([row(1, "a"), row(2, "b")])
    new = [row(1, "new"), row(2, "new"), row(3, "new"), row(4, "new")]
    still = {new[0].id: "a", new[1].id: "other", new[2].id: "", new[3].id: "gone"}
    shard.write(new, still)
    revisions = {one.passage.id: one.revision for one in shard.read(ids(new), Parts.KEYS)}
    assert revisions == {"p1": "new", "p2": "b", "p3": "new"}
    shard.write([row(1, "newer")], {new[0].id: ""})
    assert shard.read([new[0].id], Parts.KEYS)[0].revision == "new"


def test_a_removal_asks_for_revisions(shard):
    rows = [row(1, "a"), row(2, "b")]
    shard.write(rows)
    shard.remove(ids(rows), {rows[0].id: "a", rows[1].id: "other"})
    assert [one.id for one in shard.read(ids(rows), Parts.KEYS)] == [rows[1].id]
    shard.remove([point_id("absent")])
    assert shard.size() == shard.count() == 1


@pytest.mark.parametrize(
    "bad",
    [
        row(9, vector=np.ones(DIMENSION + 1, np.float32)),
        row(9, vector=np.full(DIMENSION, np.nan, np.float32)),
        row(9, vector=np.full(DIMENSION, np.inf, np.float32)),
        row(9)._replace(words=SparseVector([1, 2, 3], [1.0, 2.0])),
        row(9)._replace(words=SparseVector([2, 1], [1.0, 2.0])),
        row(9)._replace(words=SparseVector([1, 1], [1.0, 2.0])),
        row(9)._replace(words=SparseVector([-1], [1.0])),
        row(9)._replace(words=SparseVector([2**32], [1.0])),
        row(9)._replace(words=SparseVector([1], [math.nan])),
        row(9, odd=math.inf),
        row(9, odd="\ud800"),
        row(9, odd=2**64),
    ],
)
def test_of_a_batch_with_a_row_that_is_not_storable_nothing_is_stored(shard, bad):
    with pytest.raises(Refused):
        shard.write([row(1), bad, row(2)])
    assert shard.size() == 0
    shard.write([row(1)])
    assert shard.size() == 1


@pytest.mark.parametrize("query", [np.ones(3, np.float32), SparseVector([1, 2], [1.0])])
def test_a_query_that_does_not_fit_is_refused(shard, query):
    shard.write([row(1)])
    with pytest.raises(Refused):
        shard.search([query], 1)
    assert len(shard.search([SparseVector([7], [1.0])], 1)[0]) == 1


def test_facets_count_values_most_frequent_first(shard):
    schema = {"kind": FieldType.KEYWORD, "year": FieldType.INTEGER, "open": FieldType.BOOL, "share": FieldType.FLOAT}
    shard.declare(schema)
    shard.write([row(n, kind=["a", "b"] if n else "b", year=2000 + n % 2, open=n > 2, share=0.5) for n in range(5)])
    assert shard.facet("kind", 10) == [("b", 5), ("a", 4)]
    assert shard.facet("year", 1) == [(2000, 3)]
    assert shard.facet("open", 10) == [(False, 3), (True, 2)]
    assert shard.facet("kind", 10, Filter([Equals("open", True)])) == [("a", 2), ("b", 2)]
    with pytest.raises(Refused):
        shard.facet("share", 10)


def test_what_is_not_flushed_is_replayed_and_indexes_are_known_again(tmp_path):
    shard = Shard.create(tmp_path / "v", DIMENSION)
    shard.declare({"open": FieldType.BOOL, "day": FieldType.KEYWORD})
    shard.write([row(1, open=True, day="2024-05-01")])
    assert shard.unflushed
    del shard
    shard = Shard.load(tmp_path / "v")
    assert shard.count(Filter([Equals("open", True)])) == 1
    assert shard.count(Filter([AnyOf("open", [False, True])])) == 1
    assert shard.facet("open", 3) == [(True, 1)]
    assert shard.count(Filter([DateRange("day", gte=datetime(2024, 5, 1, tzinfo=UTC))])) == 1
    shard.flush()
    assert not shard.unflushed
    shard.close()


def test_a_field_that_widens_is_indexed_again(shard):
    shard.declare({"size": FieldType.INTEGER})
    shard.write([row(1, size=1)])
    shard.declare({"size": FieldType.FLOAT})
    shard.write([row(2, size=1.5)])
    assert shard.count(Filter([Range("size", gte=1.0)])) == 2
    assert shard.count(Filter([Equals("size", 1.0)])) == 1


def test_a_folder_without_its_data_is_damaged(tmp_path):
    Shard.create(tmp_path / "v", DIMENSION).close()
    (tmp_path / "v" / "current").unlink()
    with pytest.raises(Damaged):
        Shard.load(tmp_path / "v")


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e20])
def test_decimals_are_read_and_found_as_they_were_written(shard, scale):
    random = np.random.default_rng(3)
    shard.write([row(number, share=float(value)) for number, value in enumerate(random.random(200) * scale)])
    rows, _ = shard.scroll(None, 200, Parts.PASSAGE)
    assert sorted(one.passage.metadata["share"] for one in rows) == sorted(np.random.default_rng(3).random(200) * scale)
    for one in rows:
        value = one.passage.metadata["share"]
        assert shard.count(Filter([Equals("share", value)])) == 1
        assert shard.count(Filter([Range("share", gte=value, lte=value)])) == 1
        assert shard.count(Filter([Range("share", gt=value)])) + shard.count(Filter([Range("share", lt=value)])) == 199


def test_a_tenant_is_declared_once_and_again_after_loading(tmp_path):
    shard = Shard.create(tmp_path / "v", DIMENSION)
    shard.declare({"owner": FieldType.KEYWORD}, "owner")
    shard.write([row(1, owner="a"), row(2, owner="b")])
    shard.close()
    shard = Shard.load(tmp_path / "v")
    shard.declare({"owner": FieldType.KEYWORD}, "owner")
    assert not shard.unflushed
    assert shard.count(Filter([Equals("owner", "a")])) == 1
    shard.declare({"owner": FieldType.KEYWORD})
    assert shard.unflushed
    assert shard.facet("owner", 10) == [("a", 1), ("b", 1)]
    shard.close()
