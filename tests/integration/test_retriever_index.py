"""The index on Qdrant's embedded engine, on the same engine behind Qdrant's protocol, and on a real server.

The real server takes part if QDRANT_TEST_URL names one, see `RealQdrant`.
"""

import asyncio
import time
import uuid
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from qdrant_client import models

from services.chassis.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StartupError,
)
from services.retriever import index as index_module
from services.retriever.backends import EmbeddedQdrant, open_qdrant
from services.retriever.documents import Chunk, Passage, chunk_id
from services.retriever.fields import AnyOf, Equals, Exists, FieldType, Filter, Range
from services.retriever.index import CollectionModel, Index, QueryVariant
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings

MODEL = CollectionModel(name="tiny", fingerprint="tiny@1", dimension=3, precision="fp32")
OTHER = CollectionModel(name="other", fingerprint="other@1", dimension=3, precision="fp32")
BM25 = Bm25(k1=1.2, b=0.75, average_length=10)

EAST, NORTH, UP = np.eye(3, dtype=np.float32)
PASSAGES = [
    Passage("submit", "Schedules the callable to be executed.", "concurrent.futures.ThreadPoolExecutor.submit",
            {"year": 2011, "since": 3.2, "kind": "method", "tags": ["threads", "pool"], "stable": True}, EAST),
    Passage("argparse", "Parser for command line options.", "argparse",
            {"year": 2009, "since": 2.7, "kind": "module", "tags": ["cli"], "stable": True}, NORTH),
    Passage("ndiff", "Compare two files line by line.", "difflib.ndiff",
            {"year": 2001, "since": 2, "kind": "function", "tags": [], "stable": False}, UP),
    Passage("untagged", "Nothing is known of this one.", "", {}, (EAST + NORTH) / 2),
]  # fmt: skip


@pytest.fixture
def index(qdrant):
    return Index(qdrant, RetrieverMetrics(CollectorRegistry()), bm25=BM25)


@pytest.fixture
async def new_collection(index, qdrant):
    """Creates collections that go away with the test."""
    names = []

    async def create(model=MODEL, passages=()):
        name = f"test-{uuid.uuid4()}"
        version = (await index.create_collection(name, model)).version
        names.append(version)
        if passages:
            await index.upsert(version, passages, model_fingerprint=model.fingerprint)
        return version

    yield create
    for name in names:
        await qdrant.call(lambda client, name=name: client.delete_collection(name))


@pytest.fixture
async def collection(new_collection):
    return await new_collection(passages=PASSAGES)


@pytest.fixture
async def point_alias(qdrant):
    """Points an alias at a collection; all aliases go away with the test."""
    aliases = set()

    async def point(alias, collection):
        create = models.CreateAlias(alias_name=alias, collection_name=collection)
        aliases.add(alias)
        await qdrant.call(
            lambda client: client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
        )

    yield point
    for alias in aliases:
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        await qdrant.call(lambda client, delete=delete: client.update_collection_aliases([delete]))


async def search(index, collection, *variants, limit=10, fingerprint=MODEL.fingerprint, **options):
    return await index.search(collection, variants, limit=limit, model_fingerprint=fingerprint, **options)


def ids(result):
    return [candidate.passage.id for candidate in result.candidates]


def near(*directions):
    """A vector that is nearest to the first direction, then to the second, and so on."""
    return sum(direction / 2**place for place, direction in enumerate(directions)).astype(np.float32)


async def test_the_nearest_vectors_come_first(index, collection):
    result = await search(index, collection, QueryVariant("", near(UP, NORTH)))
    assert ids(result)[:2] == ["ndiff", "argparse"]
    assert result.candidates[0].score == pytest.approx(2 / 5**0.5)
    assert result.fused_searches == 1


@pytest.mark.parametrize(
    "words",
    ["ThreadPoolExecutor", "thread pool", "submitting", "concurrent.futures.ThreadPoolExecutor.submit", "scheduled"],
)
async def test_words_find_identifiers_by_their_parts_and_whole(index, collection, words):
    result = await search(index, collection, QueryVariant(words), fingerprint="")
    assert ids(result) == ["submit"]


async def test_a_found_passage_is_whole(index, collection):
    result = await search(index, collection, QueryVariant("command line"), limit=1)
    assert result.candidates[0].passage == replace(PASSAGES[1], vector=None)


async def test_bm25_scores_are_the_formula_s(index, collection):
    result = await search(index, collection, QueryVariant("options"), limit=1)
    # "parser command line options" and the title: 5 terms; 1 of 4 passages has the word.
    saturation = (1.2 + 1) / (1 + 1.2 * (1 - 0.75 + 0.75 * 5 / 10))
    idf = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    assert result.candidates[0].score == pytest.approx(saturation * idf, rel=1e-5)


async def test_scores_of_a_fusion_are_means_of_shares_of_the_best(index, collection):
    result = await search(
        index, collection, QueryVariant("options", near(UP, NORTH), weight=0.5), dense_weight=2.0, lexical_weight=1.0
    )
    scores = {candidate.passage.id: candidate.score for candidate in result.candidates}
    # The vector: ndiff the best, argparse half as near. The words: argparse alone.
    assert result.fused_searches == 2
    assert scores["ndiff"] == pytest.approx(2 / 3)
    assert scores["argparse"] == pytest.approx(2 / 3 * 1 / 2 + 1 / 3)


async def test_a_fused_passage_is_whole(index, collection):
    result = await search(index, collection, QueryVariant("command line", near(NORTH)), limit=1)
    assert result.candidates[0].passage == replace(PASSAGES[1], vector=None)


async def test_a_shorter_page_is_the_beginning_of_a_longer_one(index, collection):
    variant = QueryVariant("options to compare files", near(NORTH, UP))
    pages = [ids(await search(index, collection, variant, limit=limit)) for limit in range(1, 5)]
    assert pages == [pages[-1][:limit] for limit in range(1, 5)]


async def test_the_heavier_side_of_a_fusion_decides(index, collection):
    disagreeing = QueryVariant("command line options", near(UP, EAST))
    dense = await search(index, collection, disagreeing, dense_weight=1.0, lexical_weight=0.1)
    lexical = await search(index, collection, disagreeing, dense_weight=0.1, lexical_weight=1.0)
    assert ids(dense)[0] == "ndiff"
    assert ids(lexical)[0] == "argparse"


@pytest.mark.parametrize(("dense", "lexical", "first"), [(1.0, 0.0, "ndiff"), (0.0, 1.0, "argparse")])
async def test_a_search_without_weight_is_left_out(index, collection, dense, lexical, first):
    variant = QueryVariant("command line options", near(UP, EAST))
    result = await search(index, collection, variant, dense_weight=dense, lexical_weight=lexical)
    assert ids(result)[0] == first
    assert result.fused_searches == 1


async def test_all_variants_are_searched_for_at_once(index, collection):
    result = await search(
        index, collection, QueryVariant("options", near(NORTH)), QueryVariant("compare files", near(UP), weight=0.5)
    )
    assert result.fused_searches == 4
    assert ids(result)[:2] == ["argparse", "ndiff"]


async def test_a_variant_without_words_is_searched_for_by_its_vector_alone(index, collection):
    result = await search(index, collection, QueryVariant("to be or not to be", near(UP)))
    assert result.fused_searches == 1
    assert ids(result)[0] == "ndiff"


async def test_only_stop_words_find_nothing(index, collection):
    result = await search(index, collection, QueryVariant("how to do this"))
    assert (result.candidates, result.fused_searches) == ((), 0)


async def test_ties_of_a_fusion_have_one_order(index, new_collection):
    twins = [Passage(str(number), "The same words.", vector=EAST) for number in range(8)]
    collection = await new_collection(passages=twins)
    orders = {tuple(ids(await search(index, collection, QueryVariant("words", EAST), limit=8))) for _ in range(3)}
    assert len(orders) == 1


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Filter(must=[Equals("kind", "module")]), {"argparse"}),
        (Filter(must=[Equals("tags", "pool")]), {"submit"}),
        (Filter(must=[Equals("year", 2009)]), {"argparse"}),
        (Filter(must=[Equals("since", 3.2)]), {"submit"}),
        (Filter(must=[Equals("since", 2)]), {"ndiff"}),
        (Filter(must=[Equals("stable", False)]), {"ndiff"}),
        (Filter(must=[AnyOf("kind", ["module", "function"])]), {"argparse", "ndiff"}),
        (Filter(must=[AnyOf("tags", ["cli", "threads"])]), {"argparse", "submit"}),
        (Filter(must=[AnyOf("year", [2001, 2011])]), {"submit", "ndiff"}),
        (Filter(must=[AnyOf("since", [2, 2.7])]), {"argparse", "ndiff"}),
        (Filter(must=[AnyOf("stable", [True])]), {"argparse", "submit"}),
        (Filter(must=[Range("year", gt=2001, lte=2009)]), {"argparse"}),
        (Filter(must=[Range("since", gte=2.7)]), {"argparse", "submit"}),
        (Filter(must=[Exists("year", False)]), {"untagged"}),
        (Filter(must=[Exists("tags")]), {"argparse", "submit"}),
        (Filter(must=[Exists("stable"), Range("year", lt=2010)], must_not=[Equals("kind", "module")]), {"ndiff"}),
        (Filter(should=[Equals("kind", "module"), Equals("year", 2001)]), {"argparse", "ndiff"}),
        (Filter(must_not=[Exists("year")]), {"untagged"}),
        (Filter(), {"argparse", "ndiff", "submit", "untagged"}),
    ],
    ids=str,
)
async def test_a_filter_keeps_what_matches(index, collection, condition, expected):
    dense = await search(index, collection, QueryVariant("", near(EAST)), condition=condition)
    assert set(ids(dense)) == expected
    fused = await search(index, collection, QueryVariant("one", near(EAST)), condition=condition)
    assert set(ids(fused)) == expected


@pytest.mark.parametrize(
    ("condition", "field", "says"),
    [
        (Filter(must=[Equals("author", "x")]), "filter.must[0].field", "kind, since, stable, tags, year"),
        (Filter(must=[Equals("stable", True), Equals("year", "2009")]), "filter.must[1].equals", "integer"),
        (Filter(should=[Equals("year", 2009.5)]), "filter.should[0].equals", "integer"),
        (Filter(must=[Equals("year", True)]), "filter.must[0].equals", "bool"),
        (Filter(must_not=[AnyOf("kind", ["module", 7])]), "filter.must_not[0].any_of[1]", "keyword"),
        (Filter(must=[AnyOf("kind", [])]), "filter.must[0].any_of", "1 to 1000"),
        (Filter(must=[Range("kind", gt=1)]), "filter.must[0].range", "keyword"),
        (Filter(must=[Range("year")]), "filter.must[0].range", "bound"),
        (Filter(must=[Range("year", gt=float("nan"))]), "filter.must[0].range", "finite"),
    ],
    ids=str,
)
async def test_a_filter_that_does_not_fit_the_fields_is_refused(index, collection, condition, field, says):
    with pytest.raises(InvalidArgument, match=says) as refusal:
        await search(index, collection, QueryVariant("one"), condition=condition)
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
async def test_a_search_that_makes_no_sense_is_refused_by_field(index, collection, change, field):
    request = {
        "collection": collection,
        "variants": [QueryVariant("word", EAST)],
        "limit": 10,
        "model_fingerprint": MODEL.fingerprint,
    } | change
    with pytest.raises(InvalidArgument) as refusal:
        await index.search(request.pop("collection"), request.pop("variants"), **request)
    assert refusal.value.field == field


async def test_a_wrong_dimension_is_told_with_the_right_one(index, collection):
    with pytest.raises(InvalidArgument, match=r"has 2 values, and collection .* holds vectors of 3") as refusal:
        await search(index, collection, QueryVariant("", EAST[:2]))
    assert refusal.value.reason == "WRONG_DIMENSION"


async def test_another_model_is_refused_before_it_finds_anything(index, collection):
    with pytest.raises(FailedPrecondition, match="tiny@1") as refusal:
        await search(index, collection, QueryVariant("command line", EAST), fingerprint=OTHER.fingerprint)
    assert refusal.value.reason == "MODEL_MISMATCH"
    with pytest.raises(FailedPrecondition):
        await index.upsert(collection, PASSAGES, model_fingerprint=OTHER.fingerprint)


async def test_an_unknown_collection_is_named_with_what_to_do(index):
    name = f"missing-{uuid.uuid4()}"
    for call in (
        search(index, name, QueryVariant("word")),
        index.upsert(name, PASSAGES, model_fingerprint=MODEL.fingerprint),
        index.delete(name, ["a"]),
        index.get(name, ["a"]),
        index.get_collection(name),
    ):
        with pytest.raises(NotFound, match=f"{name}.*CreateCollection") as refusal:
            await call
        assert refusal.value.reason == "COLLECTION_NOT_FOUND"


async def test_a_collection_of_a_release_that_knew_no_title_weight_keeps_counting_titles_once(
    index, new_collection, monkeypatch
):
    now = index_module._to_metadata
    monkeypatch.setattr(
        index_module,
        "_to_metadata",
        lambda info: {key: value for key, value in now(info).items() if key != "title_weight"},
    )
    name = await new_collection()
    assert (await index.get_collection(name)).bm25.title_weight == 1.0


async def test_a_collection_tells_what_it_was_made_with(index, collection):
    info = await index.get_collection(collection)
    assert (info.name, info.version, info.model) == (collection, collection, MODEL)
    assert (info.passage_count, info.bm25) == (len(PASSAGES), BM25)
    assert info.schema == {
        "year": FieldType.INTEGER,
        "since": FieldType.FLOAT,
        "kind": FieldType.KEYWORD,
        "tags": FieldType.KEYWORD,
        "stable": FieldType.BOOL,
    }
    assert info.created.timestamp() == pytest.approx(time.time(), abs=120)


async def test_a_name_is_taken_only_once(index, collection):
    with pytest.raises(AlreadyExists, match=collection):
        await index.create_collection(collection, OTHER)


@pytest.mark.parametrize(
    ("model", "field"),
    [(replace(MODEL, dimension=0), "model.dimension"), (replace(MODEL, fingerprint=""), "model.fingerprint")],
)
async def test_a_collection_for_no_model_is_refused(index, model, field):
    with pytest.raises(InvalidArgument) as refusal:
        await index.create_collection("unmade", model)
    assert refusal.value.field == field


async def test_a_collection_that_others_made_is_left_alone(index, qdrant, new_collection):
    name = f"foreign-{uuid.uuid4()}"
    vectors = models.VectorParams(size=3, distance=models.Distance.COSINE)
    await qdrant.call(lambda client: client.create_collection(name, vectors_config=vectors))
    try:
        with pytest.raises(FailedPrecondition) as refusal:
            await search(index, name, QueryVariant("word"))
        assert refusal.value.reason == "FOREIGN_COLLECTION"
    finally:
        await qdrant.call(lambda client: client.delete_collection(name))


async def test_storing_a_passage_again_replaces_it(index, collection):
    changed = replace(PASSAGES[1], text="Something else altogether.", metadata={"year": 2030})
    stored = await index.upsert(collection, [changed], model_fingerprint=MODEL.fingerprint)
    assert (stored.count, stored.version) == (1, collection)
    assert (await index.get_collection(collection)).passage_count == len(PASSAGES)
    assert ids(await search(index, collection, QueryVariant("options"))) == []
    (found,), _ = await index.get(collection, ["argparse"])
    assert found == replace(changed, vector=None)


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
        (Passage("bad", "text", metadata={"year": 2009.0}, vector=EAST), "passages[1].metadata.year"),
        (Passage("bad", "text", metadata={"new": 1}, vector=EAST), "passages[1].metadata.new"),
        (Passage("bad", "text", metadata={"big": 2**63}, vector=EAST), "passages[1].metadata.big"),
        (Passage("bad", "text", metadata={"nan": float("nan")}, vector=EAST), "passages[1].metadata.nan"),
        (Passage("bad", "text", metadata={"a.b": 1}, vector=EAST), "passages[1].metadata"),
        (Passage("bad", "text", metadata={str(n): n for n in range(300)}, vector=EAST), "passages[1].metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_one_bad_passage_keeps_the_whole_batch_out(index, collection, bad, field):
    good = Passage("good", "fine", metadata={"new": "word"}, vector=EAST)
    with pytest.raises(InvalidArgument) as refusal:
        await index.upsert(collection, [good, bad], model_fingerprint=MODEL.fingerprint)
    assert refusal.value.field == field
    info = await index.get_collection(collection)
    assert info.passage_count == len(PASSAGES)
    assert "new" not in info.schema


async def test_a_duplicate_id_is_told_with_both_positions(index, collection):
    batch = [*PASSAGES, PASSAGES[1]]
    with pytest.raises(InvalidArgument, match=r"passages\[1\]") as refusal:
        await index.upsert(collection, batch, model_fingerprint=MODEL.fingerprint)
    assert (refusal.value.field, refusal.value.reason) == ("passages[4].id", "DUPLICATE_ID")


@pytest.mark.parametrize("size", [0, 1001])
async def test_a_batch_has_one_to_a_thousand_passages(index, collection, size):
    with pytest.raises(InvalidArgument, match="1 to 1000"):
        await index.upsert(
            collection, [Passage(str(n), "", vector=EAST) for n in range(size)], model_fingerprint=MODEL.fingerprint
        )


async def test_fields_declared_at_the_same_time_are_all_kept(index, collection):
    await asyncio.gather(
        *(
            index.upsert(
                collection, [Passage(f"p{n}", "", metadata={f"f{n}": n}, vector=EAST)], model_fingerprint="tiny@1"
            )
            for n in range(8)
        )
    )
    schema = (await index.get_collection(collection)).schema
    assert {f"f{n}" for n in range(8)} <= schema.keys()


async def test_the_first_of_two_contradicting_writers_declares_the_type(index, collection):
    outcomes = await asyncio.gather(
        *(
            index.upsert(
                collection, [Passage(f"p{n}", "", metadata={"size": value}, vector=EAST)], model_fingerprint="tiny@1"
            )
            for n, value in enumerate([1, "large"])
        ),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InvalidArgument", "UpsertResult"]


async def test_a_field_that_another_retriever_declared_can_be_filtered_on_at_once(index, qdrant, collection):
    await search(index, collection, QueryVariant("word"))
    other = Index(qdrant, RetrieverMetrics(CollectorRegistry()), bm25=BM25)
    await other.upsert(
        collection, [Passage("new", "", metadata={"color": "red"}, vector=EAST)], model_fingerprint="tiny@1"
    )
    result = await search(index, collection, QueryVariant("", EAST), condition=Filter(must=[Equals("color", "red")]))
    assert ids(result) == ["new"]


async def test_deleting_tells_how_many_were_there(index, collection):
    assert (await index.delete(collection, ["submit", "nobody", "ndiff", "submit"])).count == 2
    assert set(ids(await search(index, collection, QueryVariant("", EAST)))) == {"argparse", "untagged"}
    assert (await index.delete(collection, ["submit"])).count == 0


def chunked(document, count):
    """A document cut into so many chunks, or whole."""
    if count == 1:
        return [Passage(document, f"all of {document}", vector=EAST)]
    return [
        Passage(chunk_id(document, number), f"{number} of {document}", vector=EAST,
                chunk=Chunk(number, count, 10 * number, 10 * number + 12))
        for number in range(1, count + 1)
    ]  # fmt: skip


async def stored(index, collection):
    """Ids of all passages of documents a and b."""
    found, _ = await index.get(collection, [chunk_id(document, number) for document in "ab" for number in range(1, 9)])
    assert (await index.get_collection(collection)).passage_count == len(found)
    return [passage.id for passage in found]


@pytest.mark.parametrize("before", [1, 2, 5])
@pytest.mark.parametrize("after", [1, 3])
async def test_a_document_that_is_stored_again_leaves_no_chunk_behind(index, new_collection, before, after):
    collection = await new_collection(passages=[*chunked("a", before), *chunked("b", 2)])
    await index.upsert(collection, chunked("a", after), model_fingerprint=MODEL.fingerprint)
    wanted = [passage.id for passage in [*chunked("a", after), *chunked("b", 2)]]
    assert await stored(index, collection) == wanted


async def test_a_found_chunk_says_which_part_of_what_it_is(index, new_collection):
    collection = await new_collection(passages=chunked("a", 2))
    found = [candidate.passage for candidate in (await search(index, collection, QueryVariant("", EAST))).candidates]
    assert {passage.id: passage.chunk for passage in found} == {
        "a": Chunk(1, 2, 10, 22),
        "a#2": Chunk(2, 2, 20, 32),
    }


async def test_deleting_a_document_deletes_its_chunks_and_a_later_chunk_is_no_document(index, new_collection):
    collection = await new_collection(passages=[*chunked("a", 3), *chunked("b", 1)])
    assert (await index.delete(collection, ["a#2"])).count == 0
    assert (await index.delete(collection, ["a", "gone"])).count == 1
    assert await stored(index, collection) == ["b"]


async def test_a_document_and_a_chunk_of_another_never_share_an_id(index, new_collection):
    collection = await new_collection(passages=chunked("a", 2))
    with pytest.raises(InvalidArgument, match=r"passages\[0\]\.id: is taken by a part of document 'a'"):
        await index.upsert(collection, chunked("a#2", 1), model_fingerprint=MODEL.fingerprint)
    await index.upsert(collection, chunked("b#2", 1), model_fingerprint=MODEL.fingerprint)
    with pytest.raises(InvalidArgument, match=r"passages\[1\]\.id"):
        await index.upsert(collection, chunked("b", 2), model_fingerprint=MODEL.fingerprint)


@pytest.mark.parametrize(
    ("passage", "field"),
    [
        (replace(PASSAGES[0], chunk=Chunk(1, 1, 0, 1)), "chunk"),
        (replace(PASSAGES[0], chunk=Chunk(3, 2, 0, 1)), "chunk"),
        (replace(PASSAGES[0], chunk=Chunk(2, 2, 0, 1)), "id"),
    ],
)
async def test_a_chunk_that_makes_no_sense_is_refused(index, collection, passage, field):
    with pytest.raises(InvalidArgument, match=rf"passages\[0\]\.{field}"):
        await index.upsert(collection, [passage], model_fingerprint=MODEL.fingerprint)


async def test_passages_are_returned_in_the_order_asked_for(index, collection):
    found, missing = await index.get(collection, ["ndiff", "zzz", "submit", "aaa"])
    assert [passage.id for passage in found] == ["ndiff", "submit"]
    assert missing == ["zzz", "aaa"]


async def test_an_alias_stands_for_the_version_behind_it(index, new_collection, point_alias):
    version = await new_collection(passages=PASSAGES)
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, version)

    info = await index.get_collection(alias)
    assert (info.name, info.version) == (alias, version)
    result = await search(index, alias, QueryVariant("options"))
    assert (ids(result), result.version) == (["argparse"], version)
    await index.upsert(alias, [Passage("new", "fresh", vector=UP)], model_fingerprint="tiny@1")
    assert (await index.get(version, ["new"]))[1] == []
    assert (await index.delete(alias, ["new"])).count == 1


async def test_an_alias_that_moves_never_mixes_models(index, new_collection, point_alias):
    old = await new_collection(passages=PASSAGES)
    new = await new_collection(OTHER, PASSAGES[:1])
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, old)
    assert (await search(index, alias, QueryVariant("", EAST))).version == old

    await point_alias(alias, new)
    # Whichever version answers, it is the one that the vector's model made.
    result = await search(index, alias, QueryVariant("", EAST), fingerprint=OTHER.fingerprint)
    assert (result.version, ids(result)) == (new, ["submit"])
    with pytest.raises(FailedPrecondition):
        await search(index, alias, QueryVariant("", EAST))


async def test_a_version_that_is_dropped_after_the_switch_fails_no_search(index, qdrant, new_collection, point_alias):
    old, new = await new_collection(passages=PASSAGES), await new_collection(passages=PASSAGES[:1])
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, old)
    await search(index, alias, QueryVariant("", EAST))
    await point_alias(alias, new)
    await qdrant.call(lambda client: client.delete_collection(old))
    result = await search(index, alias, QueryVariant("", EAST))
    assert result.version == new


async def test_writing_follows_the_alias_at_once(index, new_collection, point_alias):
    old, new = await new_collection(passages=PASSAGES), await new_collection()
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, old)
    await search(index, alias, QueryVariant("", EAST))
    await point_alias(alias, new)
    await index.upsert(alias, PASSAGES, model_fingerprint="tiny@1")
    assert (await index.get_collection(new)).passage_count == len(PASSAGES)


async def test_a_deadline_that_has_passed_starts_nothing(index, collection):
    with pytest.raises(DeadlineExceeded):
        await search(index, collection, QueryVariant("options"), deadline=time.monotonic() - 1)


async def test_qdrant_answers_the_health_check(index):
    await index.check(deadline=time.monotonic() + 10)


async def test_the_embedded_engine_keeps_what_was_stored(tmp_path):
    for round_ in ("first", "second"):
        qdrant = await EmbeddedQdrant.open(tmp_path, RetrieverMetrics(CollectorRegistry()))
        index = Index(qdrant, RetrieverMetrics(CollectorRegistry()), bm25=BM25)
        if round_ == "first":
            await index.create_collection("docs", MODEL)
            await index.upsert("docs", PASSAGES, model_fingerprint="tiny@1")
        result = await search(index, "docs", QueryVariant("options", near(NORTH)))
        assert ids(result)[0] == "argparse"
        await qdrant.close()


async def test_a_full_disk_is_told_and_what_was_stored_is_still_found(tmp_path):
    metrics = RetrieverMetrics(CollectorRegistry())
    qdrant = await open_qdrant(RetrieverSettings(qdrant_path=tmp_path / "qdrant"), metrics)
    index = Index(qdrant, metrics, bm25=BM25)
    await index.create_collection("docs", MODEL)
    await index.upsert("docs", PASSAGES, model_fingerprint=MODEL.fingerprint)

    async def fill_the_disk(client):
        database = client._client.collections["docs-v1"].storage.storage
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")

    await qdrant.call(fill_the_disk)
    more = [Passage(f"more-{number}", "x" * 10_000, vector=EAST) for number in range(50)]
    with pytest.raises(ResourceExhausted) as full:
        await index.upsert("docs", more, model_fingerprint=MODEL.fingerprint)
    assert full.value.reason == "STORAGE_FULL"
    assert "submit" in ids(await search(index, "docs", QueryVariant("callable", EAST)))
    await qdrant.close()
    qdrant = await open_qdrant(RetrieverSettings(qdrant_path=tmp_path / "qdrant"), metrics)
    index = Index(qdrant, metrics, bm25=BM25)
    found, missing = await index.get("docs", [passage.id for passage in PASSAGES])
    assert (len(found), missing) == (len(PASSAGES), [])
    await qdrant.close()


async def test_a_data_folder_that_another_process_holds_is_told_with_a_remedy(tmp_path):
    qdrant = await EmbeddedQdrant.open(tmp_path, RetrieverMetrics(CollectorRegistry()))
    try:
        with pytest.raises(StartupError, match="QDRANT_PATH") as failure:
            await EmbeddedQdrant.open(tmp_path, RetrieverMetrics(CollectorRegistry()))
        assert "QDRANT_URL" in failure.value.remedy
    finally:
        await qdrant.close()


async def test_the_loop_stays_free_while_the_embedded_engine_works(tmp_path):
    qdrant = await EmbeddedQdrant.open(tmp_path, RetrieverMetrics(CollectorRegistry()))

    async def busy(_client):
        time.sleep(0.2)  # noqa: ASYNC251  stands for a brute-force search
        return "done"

    work = asyncio.create_task(qdrant.call(busy))
    ticks = 0
    while not work.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert work.result() == "done"
    assert ticks > 10
    await qdrant.close()
