"""Collections: descriptions, aliases, pages of versions, deletion."""

import time
import uuid
from dataclasses import replace

import pytest

from services.chassis.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from services.retriever.documents import Chunk, Passage
from services.retriever.fields import FieldType
from services.retriever.search.searches import QueryVariant
from services.retriever.store import PLAIN, Row, point_id
from tests.integration.shelf import BM25, EAST, MODEL, OTHER, PASSAGES, UP, ids

pytestmark = pytest.mark.cluster


@pytest.fixture
async def point_alias(store):
    """Points an alias at a version; aliases go away with their version."""

    async def point(alias, version):
        await store.point(alias, version, None)

    return point


async def test_an_unknown_collection_is_told_with_those_that_exist(shelf, new_collection):
    known = (await new_collection()).removesuffix("-v1")
    name = f"missing-{uuid.uuid4()}"
    for call in (
        shelf.search(name, QueryVariant("word")),
        shelf.put(name, PASSAGES),
        shelf.passages.delete(name, ["a"]),
        shelf.passages.get(name, ["a"]),
        shelf.passages.page(name),
        shelf.collections.get(name),
        shelf.collections.delete(name),
        shelf.versions.create(name, MODEL),
    ):
        with pytest.raises(NotFound, match=f"{name}.* does not exist; collections: .*{known}") as refusal:
            await call
        assert refusal.value.reason == "COLLECTION_NOT_FOUND"


async def test_an_unknown_version_is_told_with_those_of_its_collection(shelf, new_collection):
    version = await new_collection()
    missing = version.removesuffix("1") + "7"
    with pytest.raises(NotFound, match=f"has no version '{missing}'; its versions: {version}$"):
        await shelf.collections.get(missing)


async def test_a_collection_of_a_release_that_knew_no_title_weight_keeps_counting_titles_once(shelf, new_name):
    info = shelf.collections.described(new_name(), 1, MODEL)
    notes = {key: value for key, value in info.to_notes().items() if key != "title_weight"}
    await shelf.store.create(info.version, 3, PLAIN, notes, None)
    assert (await shelf.collections.get(info.version)).bm25.title_weight == 1.0


async def test_chunks_that_an_old_release_stored_are_refused_with_the_way_out(shelf, new_name):
    await shelf.collections.create(name := new_name(), MODEL)
    old = [Passage("a", "lamp", vector=EAST, chunk=Chunk(1, 2, 0, 4))]
    old += [Passage("a#2", "lamp", vector=EAST, chunk=Chunk(2, 2, 4, 8))]
    await shelf.store.write(f"{name}-v1", [Row(point_id(one.id), one, "1") for one in old], None)
    for call in (shelf.search(name, QueryVariant("", EAST)), shelf.passages.page(name)):
        with pytest.raises(FailedPrecondition, match=r"'a#2'.*index its documents again") as refusal:
            await call
        assert refusal.value.reason == "CHUNK_IDS"
    await shelf.collections.delete(name)


async def test_a_collection_of_an_older_analyzer_is_written_and_searched_by_it_until_it_is_reindexed(shelf, new_name):
    name = new_name()
    notes = shelf.collections.described(name, 1, MODEL).to_notes()
    await shelf.store.create(f"{name}-v1", 3, PLAIN, notes | {"analyzer": "english-1"}, None)
    await shelf.store.point(name, f"{name}-v1", None)
    await shelf.put(name, [Passage("who", "The Who wrote getUserName in Go.", vector=EAST)])
    assert ids(await shelf.search(name, QueryVariant("names"))) == ["who"]
    assert (await shelf.search(name, QueryVariant("the who"))).fused_searches == 0
    assert str((await shelf.collections.get(name)).bm25).startswith("english-1, ")
    building, _ = await shelf.versions.create(name, MODEL)
    assert str(building.bm25).startswith("words-2 english, ")


async def test_a_collection_of_an_analyzer_that_is_not_known_is_refused(shelf, new_name):
    info = shelf.collections.described(new_name(), 1, MODEL)
    await shelf.store.create(info.version, 3, PLAIN, info.to_notes() | {"analyzer": "words-9 english"}, None)
    with pytest.raises(FailedPrecondition, match="words-9 english") as refusal:
        await shelf.collections.get(info.version)
    assert refusal.value.reason == "ANALYZER_MISMATCH"


async def test_a_collection_has_its_language_which_its_next_versions_keep(shelf, new_name):
    name = new_name()
    made = await shelf.collections.create(name, MODEL, language="german")
    assert made.bm25.analyzer.language == "german"
    await shelf.put(name, [Passage("haus", "das Haus", vector=EAST)])
    assert ids(await shelf.search(name, QueryVariant("Häuser"))) == ["haus"]
    building, _ = await shelf.versions.create(name, OTHER)
    assert (await shelf.collections.get(building.version)).bm25.analyzer.language == "german"


async def test_a_language_without_an_analyzer_is_refused(shelf, new_name):
    with pytest.raises(InvalidArgument, match=r"klingon.*none, arabic, .*yiddish") as refusal:
        await shelf.collections.create(new_name(), MODEL, language="klingon")
    assert refusal.value.field == "language"


async def test_a_collection_tells_what_it_was_made_with(shelf, collection):
    info = await shelf.collections.get(collection)
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


async def test_a_name_is_taken_only_once(shelf, new_name):
    name = new_name()
    await shelf.collections.create(name, MODEL)
    with pytest.raises(AlreadyExists, match=name):
        await shelf.collections.create(name, OTHER)


async def test_no_collection_has_the_name_of_a_version(shelf, new_name):
    name = new_name()
    for taken in (f"{name}-v1", f"{name}-v999999999"):
        with pytest.raises(InvalidArgument, match=f"is the name of version .* of '{name}'") as refused:
            await shelf.collections.create(taken, MODEL)
        assert (refused.value.field, refused.value.reason) == ("collection", "VERSION_NAME")
    for free in (f"{name}-v0", f"{name}-v01", f"{name}-v1x", f"{name}-v1234567890", f"{name}-V1"):
        await shelf.collections.create(free, MODEL)


async def test_the_longest_name_has_room_for_all_of_its_versions(shelf, new_name):
    name = new_name().ljust(128, "x")
    await shelf.collections.create(name, MODEL)
    assert (await shelf.collections.get(f"{name}-v1")).collection == name
    with pytest.raises(InvalidArgument, match="1 to 128"):
        await shelf.collections.create(name + "x", MODEL)


@pytest.mark.parametrize(
    ("model", "field"),
    [(replace(MODEL, dimension=0), "model.dimension"), (replace(MODEL, fingerprint=""), "model.fingerprint")],
)
async def test_a_collection_for_no_model_is_refused(shelf, model, field):
    with pytest.raises(InvalidArgument) as refusal:
        await shelf.collections.create("unmade", model)
    assert refusal.value.field == field


async def test_a_collection_that_others_made_is_left_alone(shelf, new_name):
    name = new_name()
    await shelf.store.create(name, 3, PLAIN, {"made by": "others"}, None)
    with pytest.raises(FailedPrecondition) as refusal:
        await shelf.search(name, QueryVariant("word"))
    assert refusal.value.reason == "FOREIGN_COLLECTION"
    assert (await shelf.collections.versions(name))[0] == []


async def test_an_alias_stands_for_the_version_behind_it(shelf, new_collection, point_alias):
    version = await new_collection(passages=PASSAGES)
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, version)

    info = await shelf.collections.get(alias)
    assert (info.name, info.version) == (alias, version)
    result = await shelf.search(alias, QueryVariant("options"))
    assert (ids(result), result.version) == (["argparse"], version)
    await shelf.put(alias, [Passage("new", "fresh", vector=UP)])
    assert await shelf.document(version, "new") != []
    assert (await shelf.passages.delete(alias, ["new"])).count == 1


async def test_an_alias_that_moves_never_mixes_models(shelf, new_collection, point_alias):
    old = await new_collection(passages=PASSAGES)
    new = await new_collection(OTHER, PASSAGES[:1])
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, old)
    assert (await shelf.search(alias, QueryVariant("", EAST))).version == old

    await point_alias(alias, new)
    # Whichever version answers, it is the one that the vector's model made.
    result = await shelf.search(alias, QueryVariant("", EAST), fingerprint=OTHER.fingerprint)
    assert (result.version, ids(result)) == (new, ["submit"])
    with pytest.raises(FailedPrecondition):
        await shelf.search(alias, QueryVariant("", EAST))


async def test_a_version_that_is_dropped_after_the_switch_fails_no_search(shelf, new_collection, point_alias):
    old, new = await new_collection(passages=PASSAGES), await new_collection(passages=PASSAGES[:1])
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, old)
    await shelf.search(alias, QueryVariant("", EAST))
    await point_alias(alias, new)
    await shelf.store.drop(old, None)
    result = await shelf.search(alias, QueryVariant("", EAST))
    assert result.version == new


async def test_writing_follows_the_alias_at_once(shelf, new_collection, point_alias):
    old, new = await new_collection(passages=PASSAGES), await new_collection()
    alias = f"alias-{uuid.uuid4()}"
    await point_alias(alias, old)
    await shelf.search(alias, QueryVariant("", EAST))
    await point_alias(alias, new)
    await shelf.put(alias, PASSAGES)
    assert await shelf.count(new) == len(PASSAGES)


async def test_a_deadline_that_has_passed_starts_nothing(shelf, collection):
    with pytest.raises(DeadlineExceeded):
        await shelf.search(collection, QueryVariant("options"), deadline=time.monotonic() - 1)


async def test_qdrant_answers_the_health_check(shelf):
    await shelf.store.check(deadline=time.monotonic() + 10)


async def test_versions_come_in_pages_sorted_by_collection_and_number(shelf, new_name):
    name = new_name()
    for number in (1, 2, 10, 3):
        await shelf.collections.make(shelf.collections.described(name, number, MODEL))
    await shelf.store.point(name, f"{name}-v3", None)
    found, token = [], ""
    while True:
        page, token = await shelf.collections.versions(name, 3, token)
        found.append([(info.version.removeprefix(name), live) for info, live in page])
        if not token:
            break
    assert found == [[("-v1", False), ("-v2", False), ("-v3", True)], [("-v10", False)]]


@pytest.mark.parametrize("name", ["no such/name", "\0", "a" * 140])
async def test_versions_of_what_cannot_be_a_collection_are_not_listed(shelf, name):
    with pytest.raises(InvalidArgument, match="must be 1 to 128 letters") as refusal:
        await shelf.collections.versions(name)
    assert refusal.value.field == "collection"


async def test_a_page_token_belongs_to_its_list(shelf, new_name):
    name = new_name()
    for number in (1, 2):
        await shelf.collections.make(shelf.collections.described(name, number, MODEL))
    _, token = await shelf.collections.versions(name, 1)
    for collection, wrong in (("", token), (name, "nonsense"), (name, token[:-4])):
        with pytest.raises(InvalidArgument) as refusal:
            await shelf.collections.versions(collection, 1, wrong)
        assert refusal.value.field == "page_token"
    with pytest.raises(InvalidArgument, match="page_size"):
        await shelf.collections.versions(name, -1)


async def test_a_deleted_collection_is_gone_with_all_its_versions(shelf, new_name):
    name, neighbour = new_name(), new_name()
    for collection in (name, neighbour):
        await shelf.collections.create(collection, MODEL)
    await shelf.put(name, PASSAGES)
    await shelf.versions.create(name, OTHER)
    assert await shelf.collections.delete(name) == [f"{name}-v2", f"{name}-v1"]
    with pytest.raises(NotFound):
        await shelf.search(name, QueryVariant("word"))
    versions, aliases = await shelf.store.catalogue(None)
    assert not [version for version in [*versions, *aliases] if version.startswith(name)]
    assert (await shelf.collections.get(neighbour)).version == f"{neighbour}-v1"
    await shelf.collections.create(name, OTHER)


async def test_a_deletion_that_was_cut_short_is_repeated(shelf, new_name):
    name = new_name()
    await shelf.collections.create(name, MODEL)
    await shelf.versions.create(name, OTHER)
    await shelf.store.drop(f"{name}-v1", None)  # and with it the alias
    assert await shelf.collections.delete(name) == [f"{name}-v2"]
    with pytest.raises(NotFound):
        await shelf.collections.delete(name)


async def test_the_name_of_a_version_does_not_delete_its_collection(shelf, collection):
    with pytest.raises(InvalidArgument, match="name the collection"):
        await shelf.collections.delete(collection)
    assert await shelf.count(collection) == len(PASSAGES)
