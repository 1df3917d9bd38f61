from __future__ import annotations

from services.gateway.collections.documents import cut, from_stored, to_passage
from sluice.gateway.v1 import documents_pb2
from sluice.type.v1 import filter_pb2

METADATA = {"kind": filter_pb2.Value(string_value="module"), "year": filter_pb2.Value(integer_value=1999)}


def document(text: str) -> documents_pb2.Document:
    return documents_pb2.Document(id="d", title="a title", text=text, metadata=METADATA)


def test_a_document_is_answered_as_it_was_given() -> None:
    chunks = [passage.chunk for passage in cut(to_passage(document("one two")), [(0, 4), (3, 7)])]
    stored = from_stored(to_passage(document("one two")), chunks)
    assert stored.document == document("one two")
    assert [(chunk.start, chunk.end) for chunk in stored.chunks] == [(0, 4), (3, 7)]


def test_chunks_are_numbered_and_have_all_of_the_document_but_its_text() -> None:
    first, second = cut(to_passage(document("one two")), [(0, 4), (3, 7)])
    assert (first.id, second.id, second.text, second.title) == ("d", "d##2", " two", "a title")
    assert (second.chunk.number, second.chunk.count) == (2, 2)
    assert dict(second.metadata) == METADATA


def test_a_document_that_is_stored_whole_has_no_chunks() -> None:
    [passage] = cut(to_passage(document("short")), [(0, 5)])
    assert not passage.HasField("chunk")
