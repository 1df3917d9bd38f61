"""Passages: stored, replaced and deleted, whole and in chunks."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.retriever.documents import Chunk, Passage
from services.retriever.fields import Equals, FieldType, Filter, Range
from services.retriever.search.searches import QueryVariant
from tests.integration.shelf import EAST, MODEL, PASSAGES, UP, Shelf, chunked, ids


async def test_storing_a_passage_again_replaces_it(shelf, collection):
    changed = replace(PASSAGES[1], text="Something else altogether.", metadata={"year": 2030})
    stored = await shelf.passages.upsert(collection, [changed], model_fingerprint=MODEL.fingerprint)
    assert (stored.count, stored.version) == (1, collection)
    assert await shelf.count(collection) == len(PASSAGES)
    assert ids(await shelf.search(collection, QueryVariant("options"))) == []
    assert await shelf.document(collection, "argparse") == [replace(changed, vector=None)]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Passage("", "text", vector=EAST), "passages[1].id"),
        (Passage("é" * 257, "text", vector=EAST), "passages[1].id"),
        (Passage("good", "text", vector=EAST), "passages[1].id"),
        (Passage("bad", "text"), "passages[1].vector"),
        (Passage("bad", "text", vector=np.ones(4, np.float32)), "passages[1].vector"),
        (Passage("bad", "text", vector=np.array([1, np.inf, 0], np.float32)), "passages[1].vector"),
        (Passage("bad", "text", metadata={"year": "2009"}, vector=EAST), "passages[1].metadata.year"),
        (Passage("bad", "text", metadata={"kind": 2009.0}, vector=EAST), "passages[1].metadata.kind"),
        (Passage("bad", "text", metadata={"year": float("nan")}, vector=EAST), "passages[1].metadata.year"),
        (Passage("bad", "text", metadata={"new": 1}, vector=EAST), "passages[1].metadata.new"),
        (Passage("bad", "text", metadata={"big": 2**63}, vector=EAST), "passages[1].metadata.big"),
        (Passage("bad", "text", metadata={"nan": float("nan")}, vector=EAST), "passages[1].metadata.nan"),
        (Passage("bad", "text", metadata={"a.b": 1}, vector=EAST), "passages[1].metadata"),
        (Passage("bad", "text", metadata={str(n): n for n in range(300)}, vector=EAST), "passages[1].metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_one_bad_passage_keeps_the_whole_batch_out(shelf, collection, bad, field):
    good = Passage("good", "fine", metadata={"new": "word"}, vector=EAST)
    with pytest.raises(InvalidArgument) as refusal:
        await shelf.passages.upsert(collection, [good, bad], model_fingerprint=MODEL.fingerprint)
    assert refusal.value.field == field
    info = await shelf.collections.get(collection)
    assert info.passage_count == len(PASSAGES)
    assert "new" not in info.schema


async def test_a_duplicate_id_is_told_with_both_positions(shelf, collection):
    batch = [*PASSAGES, PASSAGES[1]]
    with pytest.raises(InvalidArgument, match=r"passages\[1\]") as refusal:
        await shelf.passages.upsert(collection, batch, model_fingerprint=MODEL.fingerprint)
    assert (refusal.value.field, refusal.value.reason) == ("passages[4].id", "DUPLICATE_ID")


@pytest.mark.parametrize("size", [0, 1001])
async def test_a_batch_has_one_to_a_thousand_passages(shelf, collection, size):
    with pytest.raises(InvalidArgument, match="1 to 1000"):
        await shelf.passages.upsert(
            collection, [Passage(str(n), "", vector=EAST) for n in range(size)], model_fingerprint=MODEL.fingerprint
        )


async def test_fields_declared_at_the_same_time_are_all_kept(shelf, collection):
    await asyncio.gather(
        *(
            shelf.passages.upsert(
                collection, [Passage(f"p{n}", "", metadata={f"f{n}": n}, vector=EAST)], model_fingerprint="tiny@1"
            )
            for n in range(8)
        )
    )
    schema = (await shelf.collections.get(collection)).schema
    assert {f"f{n}" for n in range(8)} <= schema.keys()


async def test_the_first_of_two_contradicting_writers_declares_the_type(shelf, collection):
    outcomes = await asyncio.gather(
        *(
            shelf.passages.upsert(
                collection, [Passage(f"p{n}", "", metadata={"size": value}, vector=EAST)], model_fingerprint="tiny@1"
            )
            for n, value in enumerate([1, "large"])
        ),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InvalidArgument", "Written"]


async def test_storing_counts_the_documents_that_were_there_before(shelf, collection):
    async def replaced(*passages):
        return (await shelf.passages.upsert(collection, passages, model_fingerprint=MODEL.fingerprint)).replaced

    assert await replaced(Passage("new", "", vector=EAST), *chunked("long", 3)) == 0
    assert await replaced(Passage("new", "", vector=EAST), *chunked("long", 2), Passage("other", "", vector=UP)) == 2


async def test_whole_numbers_and_decimals_are_stored_in_any_order_and_found_as_numbers(shelf, collection):
    for name, price in {"whole": 10, "decimal": 9.9, "again": 12}.items():
        await shelf.put(collection, [Passage(name, "", metadata={"price": price}, vector=EAST)])
    assert (await shelf.collections.get(collection)).schema["price"] is FieldType.FLOAT

    async def found(*conditions):
        answer = await shelf.search(collection, QueryVariant("", EAST), condition=Filter(must=conditions))
        return set(ids(answer))

    assert await found(Equals("price", 10)) == {"whole"}
    assert await found(Equals("price", 9.9)) == {"decimal"}
    assert await found(Range("price", gt=9.9)) == {"whole", "again"}


async def test_whole_numbers_and_decimals_of_writers_at_once_are_all_stored(shelf, collection):
    batches = [[Passage(f"p{n}", "", metadata={"size": n if n % 2 else n + 0.5}, vector=EAST)] for n in range(12)]
    await asyncio.gather(*(shelf.put(collection, batch) for batch in batches))
    stored, _, _ = await shelf.passages.get(collection, [f"p{n}" for n in range(12)])
    assert len(stored) == 12
    assert (await shelf.collections.get(collection)).schema["size"] is FieldType.FLOAT


async def test_a_type_that_no_document_uses_any_more_is_given_again(shelf, collection):
    put = (
        [Passage("a", "", metadata={"size": "large"}, vector=EAST)],
        [Passage("b", "", metadata={"size": 3}, vector=UP)],
    )
    await shelf.put(collection, put[0])
    with pytest.raises(InvalidArgument, match="size"):
        await shelf.put(collection, put[1])
    await shelf.passages.delete(collection, ["a"])
    await shelf.put(collection, put[1])
    assert (await shelf.collections.get(collection)).schema["size"] is FieldType.INTEGER
    with pytest.raises(InvalidArgument, match="size"):
        await shelf.put(collection, put[0])


async def test_a_field_that_another_retriever_declared_can_be_filtered_on_at_once(shelf, collection):
    await shelf.search(collection, QueryVariant("word"))
    await Shelf(shelf.store).put(collection, [Passage("new", "", metadata={"color": "red"}, vector=EAST)])
    result = await shelf.search(collection, QueryVariant("", EAST), condition=Filter(must=[Equals("color", "red")]))
    assert ids(result) == ["new"]


async def test_deleting_tells_how_many_were_there(shelf, collection):
    assert (await shelf.passages.delete(collection, ["submit", "unknown", "ndiff", "submit"])).count == 2
    assert set(ids(await shelf.search(collection, QueryVariant("", EAST)))) == {"argparse", "untagged"}
    assert (await shelf.passages.delete(collection, ["submit"])).count == 0


async def stored(shelf, collection):
    """Ids of all passages of documents a and b, which are all that there are."""
    found = (await shelf.passages.get(collection, ["a", "b"])).found
    stored = [passage.id for passages in found for passage in passages]
    assert await shelf.count(collection) == len(stored)
    return stored


@pytest.mark.parametrize("before", [1, 2, 5])
@pytest.mark.parametrize("after", [1, 3])
async def test_a_document_that_is_stored_again_leaves_no_chunk_behind(shelf, new_collection, before, after):
    collection = await new_collection(passages=[*chunked("a", before), *chunked("b", 2)])
    await shelf.passages.upsert(collection, chunked("a", after), model_fingerprint=MODEL.fingerprint)
    wanted = [passage.id for passage in [*chunked("a", after), *chunked("b", 2)]]
    assert await stored(shelf, collection) == wanted


async def test_a_found_chunk_says_which_part_of_what_it_is(shelf, new_collection):
    collection = await new_collection(passages=chunked("a", 2))
    found = [candidate.passage for candidate in (await shelf.search(collection, QueryVariant("", EAST))).candidates]
    assert {passage.id: passage.chunk for passage in found} == {
        "a": Chunk(1, 2, 10, 22),
        "a##2": Chunk(2, 2, 20, 32),
    }


async def test_deleting_a_document_deletes_its_chunks(shelf, new_collection):
    collection = await new_collection(passages=[*chunked("a", 3), *chunked("b", 1)])
    assert (await shelf.passages.delete(collection, ["a", "gone"])).count == 1
    assert await stored(shelf, collection) == ["b"]


async def test_a_document_may_be_named_like_a_part_of_another(shelf, new_collection):
    collection = await new_collection(passages=chunked("a#3", 1))
    await shelf.put(collection, chunked("a", 5))
    await shelf.put(collection, chunked("a", 1))
    assert [passage.id for passage in await shelf.document(collection, "a#3")] == ["a#3"]
    with pytest.raises(InvalidArgument, match=r"passages\[0\]\.id: is that of a chunk of document 'a'"):
        await shelf.put(collection, chunked("a##2", 1))


BATCH, OTHER_BATCH = "1" * 32, "2" * 32


async def put_part(shelf, collection, passages, batch):
    await shelf.passages.upsert(collection, passages, model_fingerprint=MODEL.fingerprint, batch=batch)


@pytest.mark.parametrize("between", [0, 1, 3])
async def test_chunks_that_come_after_their_document_was_replaced_or_deleted_are_left_out(
    shelf, new_collection, between
):
    collection = await new_collection(passages=chunked("b", 1))
    parts = chunked("a", 6)
    await put_part(shelf, collection, parts[:4], BATCH)
    if between:
        await put_part(shelf, collection, chunked("a", between), OTHER_BATCH)
    else:
        await shelf.passages.delete(collection, ["a"])
    await put_part(shelf, collection, parts[4:], BATCH)
    wanted = [*(chunked("a", between) if between else []), *chunked("b", 1)]
    assert await stored(shelf, collection) == [passage.id for passage in wanted]


async def test_chunks_that_come_in_several_calls_of_one_batch_are_all_stored(shelf, new_collection):
    collection = await new_collection(passages=chunked("b", 1))
    parts = chunked("a", 6)
    for start in (0, 2, 4):
        await put_part(shelf, collection, parts[start : start + 2], BATCH)
    assert await stored(shelf, collection) == [passage.id for passage in [*parts, *chunked("b", 1)]]


async def test_what_cannot_be_stored_is_refused_by_a_check(shelf, collection):
    good, bad = Passage("good", metadata={"year": 1999, "new": 1}), Passage("bad", metadata={"year": "then"})
    with pytest.raises(InvalidArgument, match=r"passages\[1\]\.metadata\.year"):
        await shelf.passages.check(collection, [good, bad], model_fingerprint=MODEL.fingerprint)
    await shelf.passages.check(collection, [good], model_fingerprint=MODEL.fingerprint)
    with pytest.raises(FailedPrecondition):
        await shelf.passages.check(collection, [good], model_fingerprint="other@1")


@pytest.mark.parametrize(
    ("passage", "field"),
    [
        (replace(PASSAGES[0], chunk=Chunk(1, 1, 0, 1)), "chunk"),
        (replace(PASSAGES[0], chunk=Chunk(3, 2, 0, 1)), "chunk"),
        (replace(PASSAGES[0], chunk=Chunk(2, 2, 0, 1)), "id"),
    ],
)
async def test_a_chunk_that_makes_no_sense_is_refused(shelf, collection, passage, field):
    with pytest.raises(InvalidArgument, match=rf"passages\[0\]\.{field}"):
        await shelf.passages.upsert(collection, [passage], model_fingerprint=MODEL.fingerprint)
