from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.chassis.validation import chunk_id
from services.retriever.documents import Chunk, Passage, check_chunks, joined, later_ids, outdated_ids
from sluice.type.v1 import filter_pb2, passage_pb2


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
        Passage("a##2", chunk=Chunk(2, 2, 5, 9)),
    ],
)
def test_a_passage_comes_back_from_the_wire_as_it_went(passage: Passage) -> None:
    message = passage.to_proto()
    assert message.document_id == "a"
    assert Passage.from_proto(passage_pb2.Passage.FromString(message.SerializeToString()), "here") == passage


def test_a_passage_with_another_documents_id_is_refused() -> None:
    message = passage_pb2.Passage(id="a##2", document_id="b", chunk=passage_pb2.Chunk(number=2, count=2))
    with pytest.raises(InvalidArgument) as refusal:
        Passage.from_proto(message, "passages[3]")
    assert refusal.value.field == "passages[3].id"


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text and ranges that cover it, each beginning and ending after the one before, as the embedder cuts."""
    text = draw(st.text(min_size=3))
    starts = sorted({0, *draw(st.sets(st.integers(1, len(text) - 1), max_size=5))})
    ends = [*starts[1:], len(text)]
    overlaps = [0, *(draw(st.integers(0, start - before - 1)) for before, start in pairwise(starts))]
    return text, [(start - overlap, end) for start, end, overlap in zip(starts, ends, overlaps, strict=True)]


@given(cut_texts())
def test_a_document_is_joined_from_its_chunks_as_it_was(cut_text: tuple[str, list[tuple[int, int]]]) -> None:
    text, ranges = cut_text
    count = len(ranges)
    passages = [
        Passage(chunk_id("d", number), text[start:end], "title", {"year": 1}, chunk=Chunk(number, count, start, end))
        for number, (start, end) in enumerate(ranges, start=1)
    ]
    assert joined(passages) == Passage("d", text, "title", {"year": 1})


ids = st.text(alphabet="ab#12", min_size=1, max_size=12)


def legal(document_id: str) -> bool:
    try:
        check_chunks([Passage(document_id)])
    except InvalidArgument as refused:
        assert (refused.reason, refused.field) == ("CHUNK_ID", "passages[0].id")
        return False
    return True


@given(ids, st.integers(2, 30), ids, st.integers(1, 30))
def test_no_chunk_has_the_id_of_another_document_or_chunk(one: str, number: int, other: str, another: int) -> None:
    if not (legal(one) and legal(other)):
        return
    later = Passage(chunk_id(one, number), chunk=Chunk(number, 30, 0, 1))
    check_chunks([later])
    assert later.document_id == one
    assert (chunk_id(one, number) == chunk_id(other, another)) == ((one, number) == (other, another))


@pytest.mark.parametrize("document_id", ["guide#600", "guide#", "guide##", "##2a", "##2", "a ## 2", "#2"])
def test_ids_that_are_no_chunks_are_taken(document_id: str) -> None:
    assert legal(document_id)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (passage_pb2.Passage(id="a", metadata={"blob": filter_pb2.Value(string_value="x" * 70_000)}), "metadata"),
        (
            passage_pb2.Passage(id="a", metadata={f"f{n}": filter_pb2.Value(integer_value=n) for n in range(9000)}),
            "metadata",
        ),
        (passage_pb2.Passage(id="a", title="t" * 2**23, text="x" * 2**23), "text"),
    ],
)
def test_a_passage_that_is_too_large_to_be_handed_on_is_refused(message: passage_pb2.Passage, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Passage.from_proto(message, "passages[3]")
    assert (refused.value.field, refused.value.reason) == (f"passages[3].{field}", "TOO_LARGE")
