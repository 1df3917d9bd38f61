import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from services.retriever.documents import Passage
from services.retriever.store import ANSWER_BYTES, Parts, Reader, Row


class Shelf:
    """Passages of given sizes, of which reads are counted."""

    def __init__(self, *sizes):
        self.points = [f"{number:04}" for number in range(len(sizes))]
        self.sizes = dict(zip(self.points, sizes, strict=True))
        self.trips = 0

    async def read(self, _version, ids, parts, _deadline, keys=()):
        self.trips += 1
        assert ids or keys
        whole = [(one, "x" * self.sizes[one] if parts is Parts.PASSAGE else "") for one in ids]
        return [Row(one, Passage(one, text), "1") for one, text in [*whole, *((one, "") for one in keys)]]


def read(shelf, whole, reader=None, **options):
    return asyncio.run((reader or Reader(shelf)).read("v", shelf.points[:whole], None, **options))


sizes = st.lists(st.sampled_from([10, 1000, ANSWER_BYTES // 3, ANSWER_BYTES]), max_size=40)


@settings(max_examples=40)
@given(sizes, st.integers(0, 40), st.integers(1, 3), st.booleans())
def test_an_answer_holds_the_first_passages_that_have_room_and_keys_of_all_others(sizes, whole, least, warm):
    shelf = Shelf(*sizes)
    reader = Reader(shelf)
    if warm:
        read(shelf, 20, reader)
    points = shelf.points[:whole]
    found = read(shelf, whole, reader, least=least, keys=shelf.points[whole:])
    expected, size = 0, 0
    for point in points:
        size += shelf.sizes[point]
        if size > ANSWER_BYTES and expected >= least:
            break
        expected += 1
    assert (list(found.whole), found.end) == (points[:expected], expected)
    assert all(len(row.passage.text) == shelf.sizes[point] for point, row in found.whole.items())
    assert set(found.others) == set(shelf.points[expected:])


def test_one_trip_is_enough_once_the_usual_size_is_known():
    shelf = Shelf(*[2000] * 300)
    reader = Reader(shelf)
    read(shelf, 100, reader, keys=shelf.points[100:])
    shelf.trips = 0
    assert read(shelf, 100, reader, keys=shelf.points[100:]).end == 100
    assert shelf.trips == 1
    read(shelf, 0, reader, keys=shelf.points)
    assert shelf.trips == 2
