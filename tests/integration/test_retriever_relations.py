"""Following relations, on every engine: what leads where, within which bounds, and that nothing of it is stored."""

from dataclasses import replace

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.late.codes import best_products, encode, similarity
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.documents import Chunk, Passage, Relations
from services.retriever.fields import ALL, Equals, Filter
from services.retriever.relations.hops import RULES, PathKind
from services.retriever.relations.keys import KEYS
from services.retriever.relations.relating import Relating, Seed
from services.retriever.search.searches import LateQuery
from tests.integration.shelf import BM25, EAST, MODEL, Shelf

TOKEN_MODEL = CollectionModel(name="tokens", fingerprint="tokens@1", dimension=5, precision="fp32")
PASSAGES = [
    Passage("film", "Silent Water was made by Jane Marlow in 1931.", "Silent Water", {"kind": "film"}, EAST),
    Passage("director", "She was born in Aldershot. She studied law.", "Jane Marlow", {"kind": "person"}, EAST),
    Passage("town", "A town in the south with a large garrison.", "Aldershot", {"kind": "place"}, EAST),
    Passage("rival", "Another film that Jane Marlow directed was born of a quarrel.", "Loud Fire", {}, EAST),
    Passage("plain", "nothing in here has a name", "", {}, EAST),
]
QUESTION = "where was the director of silent water born"


@pytest.fixture
def shelf(store):
    return Shelf(store, relations=KEYS)


@pytest.fixture
def relating(store, shelf):
    return Relating(store, shelf.collections)


@pytest.fixture
async def related(new_collection):
    return await new_collection(passages=PASSAGES)


async def expand(relating, collection, *seeds, question=QUESTION, hops=1, limit=10, **options):
    found = await relating.expand(
        collection,
        question,
        [Seed(name, score) for name, score in seeds],
        hops=hops,
        limit=limit,
        **{"condition": ALL, **options},
    )
    return {one.passage.id: one for one in found.passages}


async def test_a_passage_that_the_best_candidate_mentions_is_reached_with_its_text_and_path(relating, related):
    found = await expand(relating, related, ("film", 1.0), ("plain", 0.2))
    [step] = found["director"].path
    assert (step.kind, step.passage_id, step.key) == (PathKind.LINK, "film", "jane marlow")
    assert found["director"].passage.text == PASSAGES[1].text
    assert found["director"].score == pytest.approx(0.2 + RULES.weight * step.weight, abs=1e-6)
    assert "town" not in found  # two relations away


async def test_what_the_question_names_is_raised_and_a_candidate_comes_without_its_text(relating, related):
    found = await expand(relating, related, ("plain", 1.0), ("film", 0.5))
    [step] = found["film"].path
    assert (step.kind, step.passage_id, step.key) == (PathKind.NAMED, "", "silent water")
    assert found["film"].score > 0.5
    assert found["film"].passage.text == ""


async def test_a_second_hop_starts_from_what_the_first_one_reached(relating, related):
    found = await expand(relating, related, ("film", 1.0), hops=2)
    assert [step.key for step in found["town"].path] == ["jane marlow", "aldershot"]
    assert [step.passage_id for step in found["town"].path] == ["film", "director"]


async def test_no_passage_passes_the_one_that_leads_to_it(relating, related):
    found = await expand(relating, related, ("film", 1.0), ("director", 0.9))
    assert found["director"].score == pytest.approx(RULES.ceiling * found["film"].score, rel=1e-6)


async def test_of_two_that_mention_the_same_the_one_that_goes_on_with_the_question_gains_more(relating, new_collection):
    collection = await new_collection(
        passages=[
            Passage("film", "Silent Water was made by Jane Marlow.", "Silent Water", {}, EAST),
            Passage("on", "Jane Marlow was born in the north.", "One", {}, EAST),
            Passage("off", "Jane Marlow liked cats.", "Two", {}, EAST),
        ]
    )
    found = await expand(relating, collection, ("film", 1.0))
    assert found["on"].path[0].kind is PathKind.SHARED
    assert "off" not in found or found["on"].score > found["off"].score


async def test_the_filter_of_the_request_holds_in_every_hop(relating, related, shelf):
    found = await expand(relating, related, ("film", 1.0), hops=2, condition=Filter([Equals("kind", "place")]))
    assert set(found) <= {"town"}


async def test_a_key_that_many_passages_have_leads_nowhere(relating, new_collection):
    many = [Passage(f"n{number}", "It is in Rome.", f"Town {number}", {}, EAST) for number in range(RULES.most_holders)]
    start = Passage("start", "She went to Rome.", "Start", {}, EAST)
    collection = await new_collection(passages=[start, *many])
    result = await relating.expand(collection, "x", [Seed("start", 1.0)], hops=1, limit=50, condition=ALL)
    assert not result.passages
    assert result.reached.frequent == 1


async def test_links_aliases_and_neighbours_lead_on(relating, new_collection):
    passages = [
        Passage("docs/a.md", "see [the other](b.md)", "a", {}, EAST),
        Passage("docs/b.md", "text", "b", {}, EAST),
        Passage("long", "first part", "Long", {}, EAST, Chunk(1, 2, 0, 10)),
        Passage("long##2", "second part of it", "Long", {}, EAST, Chunk(2, 2, 10, 20)),
        Passage("said", "x", "said", {}, EAST, relations=Relations(aliases=("Old Nick",), links=("docs/a.md",))),
        Passage("names", "They spoke of Old Nick.", "", {}, EAST),
    ]
    collection = await new_collection(passages=passages)
    found = await expand(relating, collection, ("docs/a.md", 1.0), question="what")
    assert found["docs/b.md"].path[0].kind is PathKind.REFERENCE
    found = await expand(relating, collection, ("long", 1.0), question="what")
    assert found["long##2"].path[0].kind is PathKind.NEIGHBOUR
    found = await expand(relating, collection, ("names", 1.0), question="what")
    assert found["said"].path[0].kind is PathKind.LINK
    found = await expand(relating, collection, ("said", 1.0), question="what")
    assert found["docs/a.md"].path[0].kind is PathKind.REFERENCE


async def test_relations_come_and_go_with_their_passages(relating, shelf, related):
    assert "director" in await expand(relating, related, ("film", 1.0))
    await shelf.passages.delete(related, ["director"])
    assert "director" not in await expand(relating, related, ("film", 1.0))
    await shelf.put(related, [PASSAGES[1]])
    assert "director" in await expand(relating, related, ("film", 1.0))
    await shelf.put(related, [replace(PASSAGES[0], text="It was made by nobody.")])
    assert "director" not in await expand(relating, related, ("film", 1.0))


async def test_a_collection_without_keys_is_refused_with_the_remedy(store, relating, new_name):
    plain = Collections(store, BM25)
    version = (await plain.create(new_name(), MODEL)).version
    with pytest.raises(FailedPrecondition, match="sluice enrich") as refused:
        await expand(relating, version, ("film", 1.0))
    assert refused.value.reason == "NOT_ENRICHED"


@pytest.mark.parametrize(
    ("seeds", "options", "field"),
    [
        ((), {}, "candidates"),
        ((("a", 1.0), ("a", 0.5)), {}, "candidates"),
        ((("a", 1.0), ("", 0.5)), {}, "candidates[1].id"),
        ((("a", 1.0),), {"hops": 3}, "max_hops"),
        ((("a", 1.0),), {"limit": 0}, "limit"),
        ((("a", 1.0),), {"question": "x" * 20_000}, "query"),
    ],
    ids=["no candidates", "one twice", "one of no name", "too many hops", "no limit", "long question"],
)
async def test_what_makes_no_sense_is_refused_by_its_field(relating, related, seeds, options, field):
    with pytest.raises(InvalidArgument) as refused:
        await expand(relating, related, *seeds, **options)
    assert refused.value.field == field


async def test_token_vectors_compare_a_passage_by_itself_and_with_its_bridge(store, shelf, relating, new_name):
    version = (await shelf.collections.create(new_name(), MODEL, token_model=TOKEN_MODEL)).version
    rows = {
        one.id: encode(np.random.default_rng(place).normal(size=(3, 4)).astype(np.float32))
        for place, one in enumerate(PASSAGES)
    }
    await shelf.passages.upsert(
        version,
        [replace(one, tokens=rows[one.id]) for one in PASSAGES],
        model_fingerprint="tiny@1",
        token_model_fingerprint="tokens@1",
    )
    query = encode(np.random.default_rng(99).normal(size=(6, 4)).astype(np.float32))
    found = await expand(relating, version, ("film", 1.0), late=LateQuery(query, "tokens@1", 0))
    own, bridge = (best_products(query, rows[name]) for name in ("director", "film"))
    wanted = similarity(float((own + np.maximum(own, bridge)).sum() / 2), *query.shape)
    assert found["director"].late_score == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(FailedPrecondition):
        await expand(relating, version, ("film", 1.0), late=LateQuery(query, "others@1", 0))
