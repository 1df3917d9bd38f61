"""Token vectors: which versions hold them, what is refused, and how they order what a search finds."""

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.late import codes
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.documents import Passage
from services.retriever.search.searches import LateQuery, QueryVariant
from tests.integration.shelf import EAST, MODEL, NORTH, OTHER, ids

TOKENS = CollectionModel(name="late", fingerprint="late@1", dimension=65, precision="fp32")
OTHER_TOKENS = CollectionModel(name="late two", fingerprint="late@2", dimension=65, precision="fp32")
# Orthogonal, and without large values, which the codes would cut.
DIRECTIONS = np.linalg.qr(np.random.default_rng(7).normal(size=(64, 4)))[0].T.astype(np.float32)
WIDER = codes.encode(np.ones((1, 65), dtype=np.float32))


def tokens(*directions):
    """Vectors of tokens, each one of four directions."""
    return codes.encode(DIRECTIONS[list(directions)])


PASSAGES = [
    Passage("both", "red green", vector=EAST, tokens=tokens(0, 1)),
    Passage("one", "red blue", vector=EAST, tokens=tokens(0, 2)),
    Passage("none", "blue", vector=NORTH, tokens=tokens(2, 3)),
]
QUESTION = QueryVariant("red", EAST)


@pytest.fixture
async def put(shelf):
    async def put(collection, passages, fingerprint=TOKENS.fingerprint):
        await shelf.passages.upsert(
            collection, passages, model_fingerprint=MODEL.fingerprint, token_model_fingerprint=fingerprint
        )

    return put


@pytest.fixture
async def late(shelf, new_name, put):
    """A collection with token vectors."""
    name = new_name()
    await shelf.collections.create(name, MODEL, token_model=TOKENS)
    await put(name, PASSAGES)
    return name


@pytest.fixture
async def plain(shelf, new_name):
    """A collection without."""
    name = new_name()
    await shelf.collections.create(name, MODEL)
    return name


def asked(count=10, fingerprint=TOKENS.fingerprint, vectors=None):
    return LateQuery(tokens(0, 1) if vectors is None else vectors, fingerprint, count)


async def test_a_version_says_whose_token_vectors_it_holds(shelf, late, plain):
    assert (await shelf.collections.get(late)).token_model == TOKENS
    assert (await shelf.collections.get(plain)).token_model is None


async def test_candidates_carry_the_mean_cosine_of_the_best_matches(shelf, late):
    found = await shelf.search(late, QUESTION, late=asked())
    scores = {candidate.passage.id: candidate.late_score for candidate in found.candidates}
    assert scores == {
        "both": pytest.approx(1, abs=0.02), "one": pytest.approx(0.5, abs=0.02), "none": pytest.approx(0, abs=0.02)
    }  # fmt: skip


async def test_only_the_best_are_compared_and_the_order_stays(shelf, late):
    plain = await shelf.search(late, QUESTION)
    found = await shelf.search(late, QUESTION, late=asked(2))
    assert ids(found) == ids(plain)
    assert [candidate.late_score is not None for candidate in found.candidates] == [True, True, False]
    assert all(candidate.late_score is None for candidate in plain.candidates)
    none = await shelf.search(late, QUESTION, late=asked(0))
    assert all(candidate.late_score is None for candidate in none.candidates)


async def test_token_vectors_of_another_model_are_compared_with_none(shelf, late, plain):
    for name in (late, plain):
        with pytest.raises(FailedPrecondition) as caught:
            await shelf.search(name, QUESTION, late=asked(fingerprint="late@2"))
        assert caught.value.reason == "TOKEN_MODEL_MISMATCH"


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (asked(fingerprint=""), "token_model_fingerprint"),
        (asked(count=-1), "late_count"),
        (asked(count=1001), "late_count"),
        (asked(vectors=WIDER), "tokens"),
    ],
)
async def test_a_comparison_that_makes_no_sense_names_the_field(shelf, late, question, field):
    with pytest.raises(InvalidArgument) as caught:
        await shelf.search(late, QUESTION, late=question)
    assert caught.value.field == field


@pytest.mark.parametrize("vectors", [None, WIDER])
async def test_a_passage_is_stored_with_token_vectors_that_fit_or_not_at_all(shelf, late, put, vectors):
    fitting = Passage("fitting", "fits", vector=EAST, tokens=tokens(0))
    with pytest.raises(InvalidArgument) as caught:
        await put(late, [fitting, Passage("new", "does not", vector=EAST, tokens=vectors)])
    assert caught.value.field == "passages[1].tokens"
    assert await shelf.count(late) == len(PASSAGES)


async def test_token_vectors_of_another_model_are_not_stored(late, plain, put):
    for name in (late, plain):
        with pytest.raises(FailedPrecondition) as caught:
            await put(name, PASSAGES, "late@2")
        assert caught.value.reason == "TOKEN_MODEL_MISMATCH"


async def test_a_version_without_a_token_model_takes_no_token_vectors(plain, put):
    with pytest.raises(InvalidArgument) as caught:
        await put(plain, PASSAGES, "")
    assert caught.value.field == "passages[0].tokens"


async def test_a_version_with_token_vectors_is_built_beside_one_without(shelf, plain, put):
    await put(plain, [Passage("p", "text", vector=EAST)], "")
    built, live = await shelf.versions.create(plain, MODEL, token_model=TOKENS)
    assert (built.token_model, live.token_model) == (TOKENS, None)
    again, _ = await shelf.versions.create(plain, MODEL, token_model=TOKENS)
    assert again.version == built.version
    for model, token_model in ((MODEL, None), (MODEL, OTHER_TOKENS), (OTHER, TOKENS)):
        with pytest.raises(FailedPrecondition) as caught:
            await shelf.versions.create(plain, model, token_model=token_model)
        assert caught.value.reason == "BUILD_UNDER_WAY"


async def test_a_version_that_is_by_the_same_models_is_not_built_again(shelf, late):
    built, live = await shelf.versions.create(late, MODEL, token_model=TOKENS)
    assert built == live
    built, live = await shelf.versions.create(late, MODEL)
    assert built.version != live.version
    assert built.token_model is None
