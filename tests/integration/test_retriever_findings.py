"""Searches for what is like a document or by a caller's model; counts by field; diversity and highlights."""

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.retriever.documents import Passage
from services.retriever.fields import ALL, Equals, FieldType, Filter, Range
from services.retriever.search.searches import QueryVariant
from tests.integration.shelf import EAST, MODEL, NORTH, UP, chunked, ids


async def test_what_is_like_a_document_is_found_without_the_document(shelf, collection):
    result = await shelf.search(collection, like="argparse", fingerprint="", lexical_weight=0.5)
    # Half of the vector of "untagged" points the same way, and "ndiff" has the word "line".
    assert ids(result) == ["untagged", "ndiff", "submit"]
    assert result.fused_searches == 2
    assert ids(await shelf.search(collection, like="argparse", lexical_weight=0.5, limit=1)) == ["untagged"]


async def test_a_document_is_like_another_by_its_words_alone_too(shelf, collection):
    await shelf.put(collection, [Passage("getopt", "Parser of the command line in C.", vector=EAST)])
    result = await shelf.search(collection, like="argparse", dense_weight=0.0)
    assert ids(result) == ["getopt", "ndiff"]  # "line" alone
    only = await shelf.search(collection, like="argparse", dense_weight=0.0, condition=Filter([Equals("year", 2001)]))
    assert ids(only) == ["ndiff"]


async def test_all_chunks_of_the_document_make_its_vector_and_none_is_found(shelf, new_collection):
    first, second = chunked("long", 2)
    second = Passage(second.id, second.text, vector=NORTH, chunk=second.chunk)
    between, east, north = ("between", EAST + NORTH), ("east", EAST), ("north", NORTH)
    others = [Passage(name, name, vector=vector) for name, vector in (east, north, between)]
    collection = await new_collection(passages=[first, second, *others])
    result = await shelf.search(collection, like="long", lexical_weight=0.0)
    assert ids(result)[0] == "between"
    assert result.candidates[0].score == pytest.approx(1.0)
    assert sorted(ids(result)) == ["between", "east", "north"]


async def test_likeness_and_a_query_are_searched_for_together(shelf, collection):
    result = await shelf.search(collection, QueryVariant("compare files"), like="argparse")
    assert result.fused_searches == 3
    assert {"ndiff", "untagged"} <= set(ids(result))


async def test_likeness_to_a_document_that_is_not_there_is_refused_by_its_id(shelf, collection):
    with pytest.raises(NotFound, match="'nowhere'") as refused:
        await shelf.search(collection, like="nowhere")
    assert refused.value.reason == "DOCUMENT_NOT_FOUND"
    with pytest.raises(InvalidArgument) as wrong:
        await shelf.search(collection, like="argparse##2")
    assert wrong.value.field == "like_document_id"
    with pytest.raises(InvalidArgument):
        await shelf.search(collection, like="argparse", dense_weight=0.0, lexical_weight=0.0)


async def test_a_caller_s_vector_is_of_the_model_by_fingerprint_or_name(shelf, collection):
    for model in ("tiny@1", "tiny"):
        result = await shelf.search(collection, QueryVariant("", UP), fingerprint="", model=model, limit=1)
        assert ids(result) == ["ndiff"]
    with pytest.raises(FailedPrecondition) as other:
        await shelf.search(collection, QueryVariant("", UP), fingerprint="", model="huge")
    assert other.value.reason == "MODEL_MISMATCH"
    for vector in (np.zeros(3), np.array([1, np.nan, 0]), np.ones(4)):
        with pytest.raises(InvalidArgument) as wrong:
            await shelf.search(collection, QueryVariant("", vector.astype(np.float32)), fingerprint="", model="tiny")
        assert wrong.value.field == "variants[0].vector"


async def test_values_are_counted_the_most_frequent_first(shelf, collection):
    more = [Passage(f"n{number}", "", "", {"kind": "module", "year": 2001}, EAST) for number in range(3)]
    await shelf.put(collection, more)
    counted = await shelf.findings.count_by_field(collection, ["kind", "year", "stable", "tags"], ALL)
    kind, year, stable, tags = counted.fields
    assert (kind.field, kind.type, kind.values[0]) == ("kind", FieldType.KEYWORD, ("module", 4))
    assert sorted(kind.values[1:]) == [("function", 1), ("method", 1)]
    assert (year.type, year.values[0], sorted(year.values[1:])) == (
        FieldType.INTEGER,
        (2001, 4),
        [(2009, 1), (2011, 1)],
    )
    assert (stable.type, list(stable.values)) == (FieldType.BOOL, [(True, 2), (False, 1)])
    assert sorted(tags.values) == [("cli", 1), ("pool", 1), ("threads", 1)]
    assert (counted.passage_count, counted.version) == (7, collection)


async def test_only_what_matches_is_counted_and_only_so_many_values(shelf, collection):
    counted = await shelf.findings.count_by_field(collection, ["kind"], Filter(must=[Range("year", gte=2009)]), limit=1)
    assert counted.passage_count == 2
    assert len(counted.fields[0].values) == 1
    nothing = await shelf.findings.count_by_field(collection, ["kind"], Filter(must=[Equals("year", 1)]))
    assert (nothing.fields[0].values, nothing.passage_count) == ([], 0)


@pytest.mark.parametrize(
    ("names", "limit", "field", "problem"),
    [
        ([], 0, "fields", "1 to 16"),
        (["kind", "author"], 0, "fields[1]", "its fields are: kind, since, stable, tags, year"),
        (["since"], 0, "fields[0]", "'since' is a field of decimal numbers"),
        (["kind", "kind"], 0, "fields[1]", "twice"),
        (["kind"], 1001, "limit", "1 to 1000"),
    ],
)
async def test_what_cannot_be_counted_is_refused_by_its_field(shelf, collection, names, limit, field, problem):
    with pytest.raises(InvalidArgument, match=problem) as refused:
        await shelf.findings.count_by_field(collection, names, ALL, limit)
    assert refused.value.field == field


async def test_passages_are_put_in_an_order_of_much_relevance_and_little_repetition(shelf, new_collection):
    vectors = {"a": EAST, "again": EAST + 0.01 * UP, "b": NORTH}
    collection = await new_collection(passages=[Passage(name, name, vector=one) for name, one in vectors.items()])
    names = [*vectors, "deleted"]
    assert await shelf.findings.diversify(collection, names, [1.0, 0.9, 0.5, 0.0], 0.0) == [0, 1, 2, 3]
    assert await shelf.findings.diversify(collection, names, [1.0, 0.9, 0.5, 0.0], 0.5) == [0, 2, 3, 1]


async def test_sentences_are_found_by_the_language_of_the_collection(shelf, new_name):
    collection = (await shelf.collections.create(new_name(), MODEL, language="german")).version
    [[found]] = await shelf.findings.highlight(collection, "haus", ["Eine Straße. Viele Häuser."])
    assert (found.start, found.end, found.score) == (13, 26, pytest.approx(1.0))
    with pytest.raises(InvalidArgument, match="1 to 100"):
        await shelf.findings.highlight(collection, "haus", [])
