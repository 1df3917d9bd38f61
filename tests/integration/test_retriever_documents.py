"""Documents read back by id and listed, whole and in chunks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from services.chassis.errors import InvalidArgument
from services.retriever.documents import Passage
from services.retriever.fields import Equals, Filter
from tests.integration.shelf import EAST, PASSAGES, chunked


async def pages(shelf, collection, page_size=0, condition=Filter()):  # noqa: B008  frozen
    """All documents of a list, by page."""
    found, token = [], ""
    while True:
        page, token = await shelf.passages.page(collection, condition, page_size, token)
        found.append(page)
        if not token:
            return found


async def test_documents_are_returned_in_the_order_asked_for(shelf, collection):
    found, missing, _ = await shelf.passages.get(collection, ["ndiff", "zzz", "submit", "aaa"])
    assert found == [[replace(PASSAGES[2], vector=None)], [replace(PASSAGES[0], vector=None)]]
    assert missing == ["zzz", "aaa"]


async def test_a_document_is_returned_with_its_chunks_in_their_order(shelf, new_collection):
    parts = chunked("long", 300, metadata={"year": 1999})
    collection = await new_collection(passages=[*parts, *chunked("short", 1)])
    found, _, _ = await shelf.passages.get(collection, ["long", "short"])
    assert found == [[replace(part, vector=None) for part in parts], [replace(chunked("short", 1)[0], vector=None)]]


async def test_a_chunk_is_no_document_and_the_error_names_the_one_that_it_is_of(shelf, collection):
    for call in (shelf.passages.get, shelf.passages.delete):
        with pytest.raises(InvalidArgument, match=r"ids\[1\]: is that of a chunk of document 'submit'") as refused:
            await call(collection, ["ndiff", "submit##2"])
        assert refused.value.reason == "CHUNK_ID"
    assert await shelf.document(collection, "ndiff")


async def test_documents_for_which_an_answer_has_no_room_are_asked_for_again(shelf, new_collection):
    long = [Passage(f"long{place}", f"{place}" * 1_500_000, vector=EAST) for place in range(4)]
    collection = await new_collection(passages=long)
    wanted = ["long0", "gone", "long1", "long2", "long3"]
    got = []
    while wanted:
        found, _, wanted = await shelf.passages.get(collection, wanted)
        assert 1 <= len(found) <= 2
        got += [passages[0].id for passages in found]
    assert got == ["long0", "long1", "long2", "long3"]
    pages_of_them = await pages(shelf, collection)
    assert sorted(one[0].id for page in pages_of_them for one in page) == got
    assert max(map(len, pages_of_them)) <= 2


async def test_a_document_larger_than_an_answer_is_answered_alone(shelf, new_collection):
    parts = [
        replace(part, text=f"{place}" * 100_000, metadata={"note": "m" * 39_000})
        for place, part in enumerate(chunked("long", 60))
    ]
    collection = await new_collection(passages=[*parts, *chunked("short", 1)])
    found, _, remaining = await shelf.passages.get(collection, ["long", "short"])
    assert ([len(passages) for passages in found], remaining) == ([60], ["short"])


async def test_passages_are_read_by_their_ids_as_many_as_an_answer_has_room_for(shelf, new_collection):
    long = [Passage(f"long{place}", f"{place}" * 1_500_000, vector=EAST) for place in range(4)]
    collection = await new_collection(passages=[*long, *chunked("a", 3)])
    found, count = await shelf.passages.read(collection, ["a##3", "gone", "a", "long1", "long0", "long2"])
    assert ([passage.id for passage in found], count) == (["a##3", "a", "long1", "long0"], 5)


async def test_a_sample_holds_as_much_as_an_answer_has_room_for(shelf, new_collection):
    long = [Passage(f"long{place}", f"{place}" * 1_500_000, vector=EAST) for place in range(6)]
    collection = await new_collection(passages=long)
    sample = await shelf.passages.sample(collection, 6)
    assert 1 <= len(sample.passages) <= 3
    assert sample.count == 6


@pytest.mark.parametrize("wanted", [[], ["x"] * 101, [""]])
async def test_one_to_a_hundred_documents_are_asked_for(shelf, collection, wanted):
    with pytest.raises(InvalidArgument, match="ids"):
        await shelf.passages.get(collection, wanted)


async def test_a_list_goes_through_a_thousand_documents_once_in_one_order(shelf, new_collection):
    chance = random.Random(5)
    documents = [
        chunked(f"d{number}", chance.choice([1, 1, 2, 5]), metadata={"even": number % 2 == 0}) for number in range(1000)
    ]
    collection = await new_collection()
    passages = [passage for document in documents for passage in document]
    for start in range(0, len(passages), 1000):
        await shelf.put(collection, passages[start : start + 1000])
    wanted = {document[0].id: [passage.id for passage in document] for document in documents}

    orders = []
    for page_size in (100, 37):
        found = await pages(shelf, collection, page_size)
        assert {len(page) for page in found[:-1]} == {page_size}
        orders.append([[passage.id for passage in document] for page in found for document in page])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 1000
    assert {document[0]: document for document in orders[0]} == wanted

    even = Filter(must=[Equals("even", True)])
    matching = [document for page in await pages(shelf, collection, 100, even) for document in page]
    assert [[passage.id for passage in document] for document in matching] == [
        document for document in orders[0] if int(document[0][1:]) % 2 == 0
    ]


async def test_a_page_is_cut_short_by_long_texts_and_goes_on_with_the_rest(shelf, new_collection):
    long = [replace(chunked(f"d{number}", 1)[0], text="x" * 400_000) for number in range(5)]
    collection = await new_collection()
    for passage in long:
        await shelf.put(collection, [passage])
    found = await pages(shelf, collection, 100)
    assert sorted(document[0].id for page in found for document in page) == [passage.id for passage in long]


async def test_a_document_that_is_too_long_for_a_page_comes_whole_all_the_same(shelf, new_collection):
    long = [replace(part, text="x" * 5000) for part in chunked("long", 300)]
    collection = await new_collection(passages=[*long, *chunked("short", 1)])
    sizes = {document[0].id: len(document) for page in await pages(shelf, collection, 1) for document in page}
    assert sizes == {"long": 300, "short": 1}


async def test_a_page_token_belongs_to_its_collection_and_filter(shelf, new_collection):
    passages = [Passage(str(n), "x", metadata={"n": n}, vector=PASSAGES[0].vector) for n in range(3)]
    one, other = [await new_collection(passages=passages) for _ in range(2)]
    _, token = await shelf.passages.page(one, page_size=1)
    for collection, condition in ((other, Filter()), (one, Filter(must=[Equals("n", 1)]))):
        with pytest.raises(InvalidArgument) as refusal:
            await shelf.passages.page(collection, condition, 1, token)
        assert refusal.value.field == "page_token"
    assert len((await shelf.passages.page(one, page_size=2, page_token=token))[0]) == 2


async def test_an_empty_collection_is_an_empty_page(shelf, new_collection):
    assert await shelf.passages.page(await new_collection()) == ([], "")
