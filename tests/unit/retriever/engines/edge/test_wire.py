"""Messages between the retriever and the child that computes."""

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.retriever.documents import Chunk, Passage
from services.retriever.engines.edge import wire
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
