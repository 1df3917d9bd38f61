"""Token vectors: which versions hold them, what is refused, and how they order what a search finds."""

from dataclasses import replace

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.late import codes
from services.retriever.collections.building import Difference
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.collections.transfers import Transfers
from services.retriever.documents import Passage
from services.retriever.search.searches import LateQuery, QueryVariant
from services.retriever.store import Parts
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


async def kept(shelf, version):
    """Token vectors of all passages of a version."""
    rows, _ = await shelf.store.scroll(version, None, 100, Parts.VECTOR, None)
    return {row.passage.id: row.passage.tokens.tolist() for row in rows}


@pytest.fixture
def written():
    return {passage.id: passage.tokens.tolist() for passage in PASSAGES}


async def test_a_version_that_is_built_takes_token_vectors_of_its_own_model(shelf, plain, put, written):
    await put(plain, [replace(passage, tokens=None) for passage in PASSAGES], "")
    version = (await shelf.versions.create(plain, MODEL, token_model=TOKENS))[0].version
    compared = await shelf.building.compare(plain, version)
    by_id = {passage.id: passage for passage in PASSAGES}
    copies = [replace(one, passage=by_id[one.id]) for one in compared.differences]
    bare = [replace(one, passage=replace(by_id[one.id], tokens=None)) for one in copies]
    with pytest.raises(InvalidArgument) as missing:
        await shelf.building.copy(
            version, bare, model_fingerprint=MODEL.fingerprint, token_model_fingerprint=TOKENS.fingerprint
        )
    with pytest.raises(FailedPrecondition) as mismatch:
        await shelf.building.copy(
            version, copies, model_fingerprint=MODEL.fingerprint, token_model_fingerprint="late@2"
        )
    assert (missing.value.field, mismatch.value.reason) == ("passages[0].tokens", "TOKEN_MODEL_MISMATCH")
    await shelf.building.copy(
        version, copies, model_fingerprint=MODEL.fingerprint, token_model_fingerprint=TOKENS.fingerprint
    )
    assert await kept(shelf, version) == written
    gone = [replace(one, passage=None, building_revision=one.revision) for one in copies if one.id == "one"]
    await shelf.building.copy(version, gone, model_fingerprint="")
    assert (await kept(shelf, version)).keys() == {"both", "none"}


async def test_a_snapshot_has_the_token_vectors(shelf, late, written):
    restored = await shelf.snapshots.restore(late, (await shelf.snapshots.create(late)).name)
    assert restored.token_model == TOKENS
    assert await kept(shelf, restored.version) == written
    found = await shelf.search(restored.version, QUESTION, late=asked())
    assert all(candidate.late_score is not None for candidate in found.candidates)


async def test_a_transfer_takes_the_token_vectors_along(shelf, late, new_name, written):
    transfers = Transfers(shelf.store, shelf.collections, shelf.versions)
    info, notes = await transfers.describe(late)
    made = await transfers.begin(new_name(), info.version, notes)
    assert made.token_model == TOKENS
    rows, _ = await transfers.read(info.version, list(written))
    copies = [Difference(row.passage.id, row.passage, row.revision, "") for row in rows]
    await shelf.building.copy(
        made.version, copies, model_fingerprint=MODEL.fingerprint, token_model_fingerprint=TOKENS.fingerprint
    )
    assert await kept(shelf, made.version) == written
    again = await transfers.begin(made.collection, info.version, notes)
    assert again.version == made.version


async def test_a_sample_has_the_token_vectors(shelf, late, written):
    sample = await shelf.passages.sample(late, 10)
    assert {passage.id: passage.tokens.tolist() for passage in sample.passages} == written
