from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from services.chassis.errors import InvalidArgument
from services.chassis.validation import check_count, check_text, undecodable
from sluice.embedder.v1 import embedder_pb2
from sluice.retriever.v1 import retriever_pb2

BROKEN = b"\xc3\x28\xa0\xa1"


def described(message: Message, *, mark: bytes = b"QQQQ") -> InvalidArgument:
    """The error for a message whose text QQQQ is replaced by bytes that are not UTF-8."""
    raw = message.SerializeToString().replace(mark, BROKEN)
    with pytest.raises(DecodeError):
        type(message).FromString(raw)
    return undecodable(type(message), raw)


def test_broken_text_is_found_at_the_top_in_a_list_and_in_nested_messages() -> None:
    request = retriever_pb2.SearchPassagesRequest(collection="QQQQ", limit=3)
    assert described(request).field == "collection"
    request = retriever_pb2.SearchPassagesRequest(
        collection="docs",
        variants=[
            retriever_pb2.QueryVariant(text="fine", vector=BROKEN, weight=1),
            retriever_pb2.QueryVariant(text="QQQQ"),
        ],
    )
    error = described(request)
    assert (error.field, error.reason) == ("variants[1].text", "NOT_UTF8")


def test_broken_text_is_found_in_a_list_of_texts() -> None:
    text = embedder_pb2.TitledText(title="\N{REPLACEMENT CHARACTER}", text="QQQQ")
    assert described(embedder_pb2.SplitTextsRequest(texts=[text])).field == "texts[0].text"


def test_broken_text_is_found_in_a_map_under_its_key() -> None:
    message = Struct()
    message["author"] = "QQQQ"
    assert described(message).field == "fields.author.string_value"
    message = Struct()
    message["QQQQ"] = 3
    assert described(message).field.startswith("fields.")


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\x0a\x7f", b"\x08"])
def test_bytes_that_are_no_message_at_all_are_said_to_be_none(raw: bytes) -> None:
    error = undecodable(embedder_pb2.EmbedTextsRequest, raw)
    assert (error.field, error.problem) == ("request", "is not a valid sluice.embedder.v1.EmbedTextsRequest message")


@pytest.mark.parametrize("text", ["", " \n\t", "é" * 3])
def test_a_blank_or_too_long_text_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_text("query", text, 5)
    assert refused.value.field == "query"


@pytest.mark.parametrize(("count", "fits"), [(0, False), (1, True), (3, True), (4, False)])
def test_a_list_holds_between_one_and_the_most_that_is_allowed(count: int, fits: bool) -> None:
    if fits:
        check_count("texts", count, 3)
    else:
        with pytest.raises(InvalidArgument, match="texts: must hold between 1 and 3"):
            check_count("texts", count, 3)
