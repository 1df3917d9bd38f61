"""Messages between the retriever and the child that computes."""

from dataclasses import astuple
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.retriever.documents import Chunk, Passage
from services.retriever.engines.edge import wire
from services.retriever.fields import AnyOf, DateRange, Equals, Exists, Filter, Range
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import SparseVector
from services.retriever.store import Row, point_id

ROWS = [
    Row(
        point_id("a"),
        Passage(
            "a",
            "text",
            "title",
            {"n": 1, "tags": ["x"]},
            np.array([0.5, -1], "f4"),
            Chunk(1, 2, 0, 4),
            np.arange(6, dtype=np.uint8).reshape(2, 3),
        ),
        "r1",
        SparseVector([1, 7], [0.25, 2.0]),
    ),
    Row(point_id("b"), Passage("b"), "0"),
]


def test_passages_arrive_as_they_were_sent():
    (packed,) = wire.message_of(wire.frame((wire.pack_rows(ROWS),))[wire.LENGTH.size :])
    first, second = wire.unpack_rows(packed)
    assert first.passage.vector.dtype == np.float32
    np.testing.assert_array_equal(first.passage.vector, ROWS[0].passage.vector)
    assert first.passage.tokens.dtype == np.uint8
    np.testing.assert_array_equal(first.passage.tokens, ROWS[0].passage.tokens)
    without_vector = [row._replace(passage=Passage(row.passage.id, chunk=row.passage.chunk)) for row in (first, second)]
    assert without_vector == [row._replace(passage=Passage(row.passage.id, chunk=row.passage.chunk)) for row in ROWS]
    assert (first.passage.text, first.passage.title, first.passage.metadata) == (
        "text",
        "title",
        ROWS[0].passage.metadata,
    )
    assert second == ROWS[1]


@pytest.mark.parametrize(
    "error",
    [
        NotFound("not there"),
        FailedPrecondition("damaged", reason="VERSION_DAMAGED", version="a-v1"),
        ResourceExhausted("slow down", reason="RATE_LIMITED", retry_after=2.5),
        InvalidArgument("filter.must[0]", "does not fit", reason="WRONG_TYPE"),
    ],
)
def test_errors_arrive_as_they_were_raised(error):
    (packed,) = wire.message_of(wire.frame((wire.pack_error(error),))[wire.LENGTH.size :])
    arrived = wire.unpack_error(packed)
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def sent(*arguments):
    return wire.message_of(wire.pack(arguments))


def test_a_condition_arrives_as_it_was_sent():
    east = timezone(timedelta(hours=5, minutes=30))
    dates = DateRange("day", gte=datetime(2026, 1, 1, tzinfo=UTC), lt=datetime(2026, 2, 1, 3, 4, 5, 678, tzinfo=east))
    condition = Filter(
        must=[Equals("kind", "module"), AnyOf("n", [1, 2.5, True]), Exists("x", False)],
        should=[Range("n", gt=-(2**63), lte=int(1e300)), dates],
        must_not=[Filter(must=[Equals("open", True)])],
    )
    [arrived] = sent(condition)
    assert type(arrived) is Filter
    assert [astuple(one) for one in arrived.should] == [astuple(one) for one in condition.should]
    assert repr(arrived.must) == repr(condition.must)
    assert repr(arrived.must_not[0].must) == repr(condition.must_not[0].must)


def test_a_layout_and_vectors_arrive_as_they_were_sent():
    layout = Layout(hnsw_m=32, quantization=Quantization.BINARY, tenant="who")
    vector, codes = np.array([0.5, -1], "f4"), np.arange(6, dtype=np.uint8).reshape(2, 3)
    kept, tokens, queries = sent(layout, codes, [vector, SparseVector([1, 7], [0.25, 2.0])])
    dense, words = wire.unpack_queries(queries)
    assert kept == layout
    assert kept.quantization is Quantization.BINARY
    np.testing.assert_array_equal(dense, vector)
    np.testing.assert_array_equal(tokens, codes)
    assert (dense.dtype, tokens.dtype) == (np.float32, np.uint8)
    assert words == SparseVector([1, 7], [0.25, 2.0])
    assert type(words) is SparseVector


def test_text_that_is_no_unicode_reaches_the_checks_of_the_engine():
    assert sent("\ud800") == ["\ud800"]


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xc1", wire.pack(["x"])[:-1], wire.pack(["x"]) + b"\0", b"\x01"])
def test_bytes_that_are_no_message_are_refused(body):
    with pytest.raises(ValueError):
        wire.message_of(body)


def test_an_array_of_objects_is_refused():
    body = wire.pack(("|O", (1,), b"12345678"))
    with pytest.raises(ValueError, match="OBJECT"):
        wire.message_of(wire.pack([wire.msgpack.ExtType(3, body)]))
