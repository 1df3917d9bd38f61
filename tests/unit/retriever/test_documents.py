from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.retriever.documents import Chunk, Passage, chunk_id, later_ids, outdated_ids
from sluice.type.v1 import passage_pb2


def document(count: int) -> list[Passage]:
    if count == 1:
        return [Passage("a")]
    return [Passage(chunk_id("a", number), chunk=Chunk(number, count, 0, 1)) for number in range(1, count + 1)]


def apply(shelf: dict[str, Passage], steps: list[tuple[str, Passage | None]]) -> None:
    for identity, stored in steps:
        if stored is None:
            shelf.pop(identity, None)
        else:
            shelf[identity] = stored


def storing(shelf: dict[str, Passage], count: int) -> list[tuple[str, Passage | None]]:
    parts = document(count)
    outdated = outdated_ids(parts, {part.id: shelf[part.id] for part in parts if part.id in shelf})
    return [(identity, None) for identity in outdated] + [(part.id, part) for part in parts]


def deleting(shelf: dict[str, Passage]) -> list[tuple[str, Passage | None]]:
    later = later_ids(shelf["a"]) if "a" in shelf else []
    return [(identity, None) for identity in [*later, "a"]]


# Number of chunks that the document has then, 0 if it is deleted; and number of steps after which a crash comes.
histories = st.lists(st.tuples(st.integers(0, 6), st.none() | st.integers(0, 12)), max_size=8)


@given(history=histories, last=st.integers(0, 6))
def test_whatever_was_cut_short_before_nothing_is_left_of_it(history: list[tuple[int, int | None]], last: int) -> None:
    shelf: dict[str, Passage] = {}
    for count, crash in [*history, (last, None)]:
        steps = storing(shelf, count) if count else deleting(shelf)
        apply(shelf, steps[:crash])
    assert shelf == ({part.id: part for part in document(last)} if last else {})


@pytest.mark.parametrize(
    "passage",
    [
        Passage("a", "text", "title", {"s": "x", "i": -1, "f": 0.5, "b": False, "l": ["x", "y"], "none": []}),
        Passage("a", chunk=Chunk(1, 2, 0, 5)),
        Passage("a#2", chunk=Chunk(2, 2, 5, 9)),
    ],
)
def test_a_passage_comes_back_from_the_wire_as_it_went(passage: Passage) -> None:
    message = passage.to_proto()
    assert message.document_id == "a"
    assert Passage.from_proto(passage_pb2.Passage.FromString(message.SerializeToString()), "here") == passage


def test_a_passage_with_another_documents_id_is_refused() -> None:
    message = passage_pb2.Passage(id="a#2", document_id="b", chunk=passage_pb2.Chunk(number=2, count=2))
    with pytest.raises(InvalidArgument) as refusal:
        Passage.from_proto(message, "passages[3]")
    assert refusal.value.field == "passages[3].id"
