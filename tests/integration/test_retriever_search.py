"""Search: what is found, in which order, with which scores, and what is refused."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import pytest_asyncio

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.retriever.documents import Passage
from services.retriever.fields import AnyOf, DateRange, Equals, Exists, Filter, Range
from services.retriever.search.searches import QueryVariant
from tests.integration.engines import engine
from tests.integration.shelf import EAST, MODEL, NORTH, OTHER, PASSAGES, UP, Shelf, ids

# These tests change nothing that is there, so one engine of each kind serves all of them.
pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(request, tmp_path_factory):
    async with engine(request.param, tmp_path_factory.mktemp("engine")) as opened:
        yield opened


@pytest.fixture(scope="module")
def shelf(store):
    return Shelf(store)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def new_collection(shelf):
    names = []

    async def create(passages):
        names.append(f"test-{uuid.uuid4()}")
        version = (await shelf.collections.create(names[-1], MODEL)).version
        await shelf.put(version, passages)
        return version

    yield create
    for name in names:
        await shelf.collections.delete(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collection(new_collection):
    return await new_collection(passages=PASSAGES)


def near(*directions):
    """A vector that is nearest to the first direction, then to the second, and so on."""
    return sum(direction / 2**place for place, direction in enumerate(directions)).astype(np.float32)


async def test_the_nearest_vectors_come_first(shelf, collection):
    result = await shelf.search(collection, QueryVariant("", near(UP, NORTH)))
    assert ids(result)[:2] == ["ndiff", "argparse"]
    assert result.candidates[0].score == pytest.approx(2 / 5**0.5)
    assert result.fused_searches == 1


@pytest.mark.parametrize(
    "words",
    ["ThreadPoolExecutor", "thread pool", "submitting", "concurrent.futures.ThreadPoolExecutor.submit", "scheduled"],
)
async def test_words_find_identifiers_by_their_parts_and_whole(shelf, collection, words):
    result = await shelf.search(collection, QueryVariant(words), fingerprint="")
    assert ids(result) == ["submit"]


async def test_a_found_passage_is_whole(shelf, collection):
    result = await shelf.search(collection, QueryVariant("command line"), limit=1)
    assert result.candidates[0].passage == replace(PASSAGES[1], vector=None)


async def test_bm25_scores_are_the_formula_s(shelf, collection):
    result = await shelf.search(collection, QueryVariant("options"), limit=1)
    # "parser command line options" and the title: 5 terms; 1 of 4 passages has the word.
    saturation = (1.2 + 1) / (1 + 1.2 * (1 - 0.75 + 0.75 * 5 / 10))
    idf = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    assert result.candidates[0].score == pytest.approx(saturation * idf, rel=1e-5)


async def test_scores_of_a_fusion_are_means_of_shares_of_the_best(shelf, collection):
    result = await shelf.search(
        collection, QueryVariant("options", near(UP, NORTH), weight=0.5), dense_weight=2.0, lexical_weight=1.0
    )
    scores = {candidate.passage.id: candidate.score for candidate in result.candidates}
    # The vector: ndiff the best, argparse half as near. The words: argparse alone.
    assert result.fused_searches == 2
    assert scores["ndiff"] == pytest.approx(2 / 3)
    assert scores["argparse"] == pytest.approx(2 / 3 * 1 / 2 + 1 / 3)


async def test_a_fused_passage_is_whole(shelf, collection):
    result = await shelf.search(collection, QueryVariant("command line", near(NORTH)), limit=1)
    assert result.candidates[0].passage == replace(PASSAGES[1], vector=None)


async def test_a_shorter_page_is_the_beginning_of_a_longer_one(shelf, collection):
    variant = QueryVariant("options to compare files", near(NORTH, UP))
    pages = [ids(await shelf.search(collection, variant, limit=limit)) for limit in range(1, 5)]
    assert pages == [pages[-1][:limit] for limit in range(1, 5)]


async def test_the_heavier_side_of_a_fusion_decides(shelf, collection):
    disagreeing = QueryVariant("command line options", near(UP, EAST))
    dense = await shelf.search(collection, disagreeing, dense_weight=1.0, lexical_weight=0.1)
    lexical = await shelf.search(collection, disagreeing, dense_weight=0.1, lexical_weight=1.0)
    assert ids(dense)[0] == "ndiff"
    assert ids(lexical)[0] == "argparse"


@pytest.mark.parametrize(("dense", "lexical", "first"), [(1.0, 0.0, "ndiff"), (0.0, 1.0, "argparse")])
async def test_a_search_without_weight_is_left_out(shelf, collection, dense, lexical, first):
    variant = QueryVariant("command line options", near(UP, EAST))
    result = await shelf.search(collection, variant, dense_weight=dense, lexical_weight=lexical)
    assert ids(result)[0] == first
    assert result.fused_searches == 1


async def test_all_variants_are_searched_for_at_once(shelf, collection):
    result = await shelf.search(
        collection, QueryVariant("options", near(NORTH)), QueryVariant("compare files", near(UP), weight=0.5)
    )
    assert result.fused_searches == 4
    assert ids(result)[:2] == ["argparse", "ndiff"]


async def test_a_variant_without_words_is_searched_for_by_its_vector_alone(shelf, collection):
    result = await shelf.search(collection, QueryVariant("?!", near(UP)))
    assert result.fused_searches == 1
    assert ids(result)[0] == "ndiff"


@pytest.mark.parametrize("text", ["?!", "..."])
async def test_a_text_without_words_finds_nothing(shelf, collection, text):
    result = await shelf.search(collection, QueryVariant(text))
    assert (result.candidates, result.fused_searches) == ((), 0)


async def test_stop_words_alone_find_the_passages_that_have_them(shelf, collection):
    assert set(ids(await shelf.search(collection, QueryVariant("how to do this")))) == {"untagged", "submit"}


async def test_ties_of_a_fusion_have_one_order(shelf, new_collection):
    twins = [Passage(str(number), "The same words.", vector=EAST) for number in range(8)]
    collection = await new_collection(passages=twins)
    orders = {tuple(ids(await shelf.search(collection, QueryVariant("words", EAST), limit=8))) for _ in range(3)}
    assert len(orders) == 1


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Filter(must=[Equals("kind", "module")]), ["argparse"]),
        (Filter(must=[Equals("tags", "pool")]), ["submit"]),
        (Filter(must=[Equals("year", 2009)]), ["argparse"]),
        (Filter(must=[Equals("since", 3.2)]), ["submit"]),
        (Filter(must=[Equals("since", 2)]), ["ndiff"]),
        (Filter(must=[Equals("stable", False)]), ["ndiff"]),
        (Filter(must=[AnyOf("kind", ["module", "function"])]), ["argparse", "ndiff"]),
        (Filter(must=[AnyOf("tags", ["cli", "threads"])]), ["argparse", "submit"]),
        (Filter(must=[AnyOf("year", [2001, 2011])]), ["ndiff", "submit"]),
        (Filter(must=[AnyOf("since", [2, 2.7])]), ["argparse", "ndiff"]),
        (Filter(must=[AnyOf("stable", [True])]), ["argparse", "submit"]),
        (Filter(must=[Range("year", gt=2001, lte=2009)]), ["argparse"]),
        (Filter(must=[Range("year", gt=2001.5, lte=2009.0)]), ["argparse"]),
        (Filter(must=[DateRange("kind", gte=datetime(2000, 1, 1, tzinfo=UTC))]), []),
        (Filter(must=[Range("since", gte=2.7)]), ["argparse", "submit"]),
        (Filter(must=[Exists("year", False)]), ["untagged"]),
        (Filter(must=[Exists("tags")]), ["argparse", "submit"]),
        (Filter(must=[Exists("stable"), Range("year", lt=2010)], must_not=[Equals("kind", "module")]), ["ndiff"]),
        (Filter(should=[Equals("kind", "module"), Equals("year", 2001)]), ["argparse", "ndiff"]),
        (Filter(must_not=[Exists("year")]), ["untagged"]),
        (Filter(must=[Filter(should=[Equals("kind", "module"), Equals("year", 2001)])]), ["argparse", "ndiff"]),
        (
            Filter(should=[Equals("since", 2), Filter([Exists("year"), Filter(must_not=[Range("year", lt=2010)])])]),
            ["ndiff", "submit"],
        ),
        (
            Filter(must_not=[Filter(must=[Equals("stable", True), Range("year", lte=2009)])]),
            ["ndiff", "submit", "untagged"],
        ),
        (Filter(), ["argparse", "ndiff", "submit", "untagged"]),
    ],
    ids=str,
)
async def test_a_filter_keeps_what_matches(shelf, collection, condition, expected):
    dense = await shelf.search(collection, QueryVariant("", near(EAST)), condition=condition)
    assert sorted(ids(dense)) == expected
    fused = await shelf.search(collection, QueryVariant("one", near(EAST)), condition=condition)
    assert sorted(ids(fused)) == expected


@pytest.mark.parametrize(
    ("condition", "field", "says"),
    [
        (Filter(must=[Equals("author", "x")]), "filter.must[0].field", "kind, since, stable, tags, year"),
        (Filter(must=[Equals("stable", True), Equals("year", "2009")]), "filter.must[1].equals", "integer"),
        (Filter(should=[Equals("year", 2009.5)]), "filter.should[0].equals", "integer"),
        (Filter([Filter(should=[Equals("year", "x")])]), "filter.must[0].filter.should[0].equals", "integer"),
        (Filter(must=[Equals("year", True)]), "filter.must[0].equals", "bool"),
        (Filter(must_not=[AnyOf("kind", ["module", 7])]), "filter.must_not[0].any_of[1]", "keyword"),
        (Filter(must=[AnyOf("kind", [])]), "filter.must[0].any_of", "1 to 1000"),
        (Filter(must=[Range("kind", gt=1)]), "filter.must[0].range", "keyword"),
        (Filter(must=[Range("year")]), "filter.must[0].range", "bound"),
        (Filter(must=[Range("year", gt=float("nan"))]), "filter.must[0].range", "finite"),
    ],
    ids=str,
)
async def test_a_filter_that_does_not_fit_the_fields_is_refused(shelf, collection, condition, field, says):
    with pytest.raises(InvalidArgument, match=says) as refusal:
        await shelf.search(collection, QueryVariant("one"), condition=condition)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10_000}, "limit"),
        ({"dense_weight": -1.0}, "dense_weight"),
        ({"lexical_weight": float("inf")}, "lexical_weight"),
        ({"variants": []}, "variants"),
        ({"variants": [QueryVariant("a")] * 17}, "variants"),
        ({"variants": [QueryVariant("a"), QueryVariant("a", weight=0.0)]}, "variants[1].weight"),
        ({"variants": [QueryVariant("é" * 10_000)]}, "variants[0].text"),
        ({"variants": [QueryVariant("")]}, "variants"),
        ({"variants": [QueryVariant("word")], "lexical_weight": 0.0}, "variants"),
        ({"variants": [QueryVariant("word", EAST)], "model_fingerprint": ""}, "model_fingerprint"),
        ({"variants": [QueryVariant("word"), QueryVariant("", EAST[:2])]}, "variants[1].vector"),
        ({"variants": [QueryVariant("", EAST * np.float32("nan"))]}, "variants[0].vector"),
        ({"collection": "no/such"}, "collection"),
        ({"collection": ""}, "collection"),
    ],
    ids=lambda value: "",
)
async def test_a_search_that_makes_no_sense_is_refused_by_field(shelf, collection, change, field):
    request = {
        "collection": collection,
        "variants": [QueryVariant("word", EAST)],
        "limit": 10,
        "model_fingerprint": MODEL.fingerprint,
    } | change
    with pytest.raises(InvalidArgument) as refusal:
        await shelf.passages.search(request.pop("collection"), request.pop("variants"), **request)
    assert refusal.value.field == field


async def test_a_wrong_dimension_is_told_with_the_right_one(shelf, collection):
    with pytest.raises(InvalidArgument, match=r"has 2 values, and collection .* holds vectors of 3") as refusal:
        await shelf.search(collection, QueryVariant("", EAST[:2]))
    assert refusal.value.reason == "WRONG_DIMENSION"


async def test_another_model_is_refused_before_it_finds_anything(shelf, collection):
    with pytest.raises(FailedPrecondition, match="tiny@1") as refusal:
        await shelf.search(collection, QueryVariant("command line", EAST), fingerprint=OTHER.fingerprint)
    assert refusal.value.reason == "MODEL_MISMATCH"
    with pytest.raises(FailedPrecondition):
        await shelf.passages.upsert(collection, PASSAGES, model_fingerprint=OTHER.fingerprint)


WIDE = [2**53 + step for step in range(4)] + [-(2**53) - step for step in range(4)] + [0, 7, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("bound", [*WIDE, 2**53 - 1, 1 - 2**53])
async def test_ranges_over_whole_numbers_are_exact(shelf, new_collection, bound):
    stored = [Passage(f"n{number}", "number", metadata={"n": number}, vector=EAST) for number in WIDE]
    collection = await new_collection(passages=stored)
    for name, holds in {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}.items():
        condition = Filter(must=[Range("n", **{name: bound})])
        found = await shelf.search(collection, QueryVariant("", EAST), limit=100, condition=condition)
        assert {int(one[1:]) for one in ids(found)} == {number for number in WIDE if holds(number, bound)}


async def test_dates_are_compared_as_moments(shelf, new_collection):
    days = ["2024-05-01", "2024-05-01T12:00:00Z", "2024-05-01T12:00:00+05:00", "2024-05-02", "someday"]
    stored = [Passage(day, "day", metadata={"day": day}, vector=EAST) for day in days]
    collection = await new_collection(passages=stored)
    condition = Filter(
        must=[DateRange("day", gt=datetime(2024, 5, 1, tzinfo=UTC), lte=datetime(2024, 5, 1, 12, tzinfo=UTC))]
    )
    found = await shelf.search(collection, QueryVariant("", EAST), condition=condition)
    assert set(ids(found)) == {"2024-05-01T12:00:00Z", "2024-05-01T12:00:00+05:00"}
