from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.collections.documents import cut, from_passages, to_passage
from sluice.gateway.v1 import documents_pb2
from sluice.type.v1 import filter_pb2

METADATA = {"kind": filter_pb2.Value(string_value="module"), "year": filter_pb2.Value(integer_value=1999)}


def document(text: str) -> documents_pb2.Document:
    return documents_pb2.Document(id="d", title="a title", text=text, metadata=METADATA)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text and ranges that cover it, each beginning and ending after the one before, as the embedder cuts."""
    text = draw(st.text(min_size=3))
    starts = sorted({0, *draw(st.sets(st.integers(1, len(text) - 1), max_size=5))})
    ends = [*starts[1:], len(text)]
    overlaps = [0, *(draw(st.integers(0, start - before - 1)) for before, start in pairwise(starts))]
    return text, [(start - overlap, end) for start, end, overlap in zip(starts, ends, overlaps, strict=True)]


@given(cut_texts())
def test_a_document_is_read_back_as_it_was_given(cut_text: tuple[str, list[tuple[int, int]]]) -> None:
    text, ranges = cut_text
    passages = cut(to_passage(document(text)), ranges)
    stored = from_passages(passages)
    assert stored.document == document(text)
    assert [(chunk.start, chunk.end) for chunk in stored.chunks] == (ranges if len(ranges) > 1 else [])
    assert {passage.document_id for passage in passages} == {"d"}


def test_chunks_are_numbered_and_have_all_of_the_document_but_its_text() -> None:
    first, second = cut(to_passage(document("one two")), [(0, 4), (3, 7)])
    assert (first.id, second.id, second.text, second.title) == ("d", "d#2", " two", "a title")
    assert (second.chunk.number, second.chunk.count) == (2, 2)
    assert dict(second.metadata) == METADATA


def test_a_document_that_is_stored_whole_has_no_chunks() -> None:
    [passage] = cut(to_passage(document("short")), [(0, 5)])
    assert not passage.HasField("chunk")
    assert not from_passages([passage]).chunks
