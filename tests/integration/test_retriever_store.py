"""The port `PassageStore` itself, on every engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.chassis.errors import AlreadyExists, NotFound
from services.late import codes
from services.retriever.documents import Passage, Relations
from services.retriever.fields import Equals, FieldType, Filter
from services.retriever.lexical import SparseVector
from services.retriever.store import PLAIN, Parts, Row, point_id
from tests.maxsim import maxsim

pytestmark = pytest.mark.cluster

EAST, NORTH = np.eye(2, dtype=np.float32)
TOKEN_DIMENSION = 129


def row(name, text="text", revision="r1", vector=EAST, tokens=None, **metadata):
    passage = Passage(name, text, "title", metadata, vector, tokens=tokens)
    return Row(point_id(name), passage, revision, SparseVector([7], [1.0]))


@pytest.fixture
async def version(store, new_name):
    name = f"{new_name()}-v1"
    await store.create(name, 2, PLAIN, {"made by": "a test"}, None)
    return name


@pytest.fixture
async def late_version(store, new_name):
    name = f"{new_name()}-v1"
    await store.create(name, 2, PLAIN, {}, None, TOKEN_DIMENSION)
    return name


def tokens(seed, rows):
    return codes.encode(np.random.default_rng(seed).normal(size=(rows, TOKEN_DIMENSION - 1)).astype(np.float32))


async def texts(store, version):
    rows, _ = await store.scroll(version, None, 100, Parts.PASSAGE, None)
    return {one.passage.id: (one.passage.text, one.revision) for one in rows}


async def test_a_write_takes_only_what_is_as_it_is_said_to_be(store, version):
    await store.write(version, [row("same"), row("changed", revision="r2"), row("there")], None)
    still = {point_id(name): revision for name, revision in
             {"same": "r1", "changed": "r1", "there": "", "gone": "r1", "new": ""}.items()}  # fmt: skip
    await store.write(
        version, [row(name, "later", "r3") for name in ("same", "changed", "there", "gone", "new")], None, still
    )
    assert await texts(store, version) == {
        "same": ("later", "r3"),
        "changed": ("text", "r2"),
        "there": ("text", "r1"),
        "new": ("later", "r3"),
    }


async def test_a_removal_takes_only_what_is_as_it_is_said_to_be(store, version):
    await store.write(version, [row("same"), row("changed", revision="r2"), row("other")], None)
    going = {point_id("same"): "r1", point_id("changed"): "r1"}
    await store.remove(version, list(going), None, going)
    assert set(await texts(store, version)) == {"changed", "other"}
    await store.remove(version, [point_id("changed"), point_id("never there")], None)
    assert set(await texts(store, version)) == {"other"}


async def test_a_scroll_goes_through_matching_passages_in_the_order_of_their_points(store, version):
    rows = [row(str(number), even=number % 2 == 0) for number in range(20)]
    await store.declare(version, {"even": FieldType.BOOL}, None)
    await store.write(version, rows, None)
    found, start = [], None
    while True:
        page, start = await store.scroll(version, start, 3, Parts.KEYS, None, Filter([Equals("even", True)]))
        found += [one.id for one in page]
        if start is None:
            break
    assert found == sorted(one.id for one in rows[::2])


@pytest.mark.parametrize("parts", [parts for parts in Parts if parts is not Parts.TOKENS])
async def test_what_is_read_is_what_was_asked_for(store, version, parts):
    await store.write(version, [row("a", year=1999)], None)
    [found] = await store.read(version, [point_id("a"), point_id("b")], parts, None)
    assert (found.id, found.passage.id, found.revision) == (point_id("a"), "a", "r1")
    assert (found.passage.text != "") == (parts in {Parts.PASSAGE, Parts.WORDS, Parts.VECTOR})
    assert (found.passage.vector is not None) == (parts in {Parts.DENSE, Parts.VECTOR})
    assert bool(found.words.indices) == (parts in {Parts.WORDS, Parts.VECTOR})
    assert await store.count(version, None) == 1


async def test_both_kinds_of_search_answer_at_once_each_in_its_order(store, version):
    await store.write(version, [row("east"), row("north", vector=NORTH)], None)
    by_vector, by_words, nothing = await store.search(
        version, [NORTH, SparseVector([7], [1.0]), SparseVector([8], [1.0])], 2, Filter(), None
    )
    assert list(by_vector) == [(point_id("north"), 1.0), (point_id("east"), 0.0)]
    assert {point for point, _ in by_words} == {point_id("east"), point_id("north")}
    assert nothing == []


async def test_an_alias_stands_for_the_version_that_it_was_pointed_at_last(store, version, new_name):
    alias, other = new_name(), f"{new_name()}-v1"
    await store.create(other, 2, PLAIN, {}, None)
    for target in (version, other):
        await store.point(alias, target, None)
        assert (await store.describe(alias, None)).version == target
    await store.drop(other, None)
    assert alias not in (await store.catalogue(None)).aliases
    with pytest.raises(NotFound):
        await store.describe(alias, None)


async def test_notes_merge_by_key_and_a_version_is_made_once(store, version):
    await store.note(version, {"state": "ready", "more": "x"}, None)
    await store.note(version, {"more": ""}, None)
    assert (await store.describe(version, None)).notes == {"made by": "a test", "state": "ready", "more": ""}
    with pytest.raises(AlreadyExists):
        await store.create(version, 2, PLAIN, {}, None)


@pytest.mark.parametrize("parts", list(Parts))
async def test_token_vectors_are_kept_byte_for_byte_and_read_by_themselves_or_with_everything(
    store, late_version, parts
):
    every_byte = np.arange(2 * TOKEN_DIMENSION, dtype=np.uint8).reshape(2, TOKEN_DIMENSION)
    written = {"a": tokens(1, 70), "b": every_byte, "c": tokens(2, 1), "d": None}
    await store.write(late_version, [row(name, tokens=kept) for name, kept in written.items()], None)
    rows = await store.read(late_version, list(map(point_id, written)), parts, None)
    for found in rows:
        if parts in {Parts.TOKENS, Parts.VECTOR}:
            np.testing.assert_array_equal(found.passage.tokens, written[found.passage.id])
        else:
            assert found.passage.tokens is None


async def test_holders_of_a_term_are_all_that_have_it_and_match_or_as_many_as_are_asked_for(store, version):
    await store.declare(version, {"even": FieldType.BOOL}, None)
    rows = [
        row(str(number), even=number % 2 == 0)._replace(words=SparseVector([7, 100 + number % 3], [0.5, 1.0]))
        for number in range(9)
    ]
    await store.write(version, rows, None)
    third, all_of_them, nobody = await store.holders(version, [101, 7, 8], 20, Filter(), None)
    assert set(third) == {one.id for one in rows[1::3]}
    assert set(all_of_them) == {one.id for one in rows}
    assert list(nobody) == []
    [some] = await store.holders(version, [7], 4, Filter(), None)
    assert len(set(some)) == 4
    [even] = await store.holders(version, [101], 20, Filter([Equals("even", True)]), None)
    assert set(even) == {rows[4].id}
    some_rows = [rows[place].id for place in (1, 2, 4, 7)]
    [among] = await store.holders(version, [101], 20, Filter(), None, some_rows)
    assert set(among) == {rows[1].id, rows[4].id, rows[7].id}
    [both] = await store.holders(version, [101], 20, Filter([Equals("even", True)]), None, some_rows)
    assert set(both) == {rows[4].id}


async def test_words_are_replaced_alone_and_only_where_the_passage_is_as_it_was(store, version):
    await store.write(version, [row("same", year=1), row("changed", revision="r2")], None)
    same, changed, absent = map(point_id, ("same", "changed", "absent"))
    new = SparseVector([7, 9], [0.5, 2.0])
    await store.replace_words(
        version, dict.fromkeys((same, changed, absent), new), dict.fromkeys((same, changed, absent), "r1"), None
    )
    found = {one.id: one for one in await store.read(version, [same, changed], Parts.VECTOR, None)}
    assert found.keys() == {same, changed}
    assert found[same].words == new
    assert found[changed].words == row("changed").words
    assert found[same].revision == "r1"
    assert found[same].passage.metadata == {"year": 1}
    np.testing.assert_array_equal(found[same].passage.vector, row("same").passage.vector)
    [holders] = await store.holders(version, [9], 9, Filter(), None)
    assert list(holders) == [same]


async def test_what_a_document_says_of_its_relations_is_kept(store, version):
    said = Relations(("Big Apple",), ("Hudson", "東京"), ("cities/boston.md",))
    one = row("new york")
    await store.write(version, [one._replace(passage=replace(one.passage, relations=said)), row("plain")], None)
    found = await store.read(version, [point_id("new york"), point_id("plain")], Parts.PASSAGE, None)
    assert {each.passage.id: each.passage.relations for each in found} == {"new york": said, "plain": Relations()}


async def test_passages_are_compared_by_the_bytes_of_query_and_passage(store, late_version):
    kept = {str(number): tokens(number, 1 + 3 * number) for number in range(25)}
    await store.write(late_version, [row(name, tokens=found) for name, found in kept.items()], None)
    await store.write(late_version, [row("without")], None)
    query = tokens(99, 32)
    asked = [point_id(name) for name in [*list(kept)[5:], "without", "absent"]]
    scores = await store.compare(late_version, query, asked, None)
    wanted = {point_id(name): maxsim(query, found) for name, found in list(kept.items())[5:]}
    assert scores.keys() == wanted.keys()
    # The greatest products are whole numbers; their sum has the 24 bits of a float.
    assert all(scores[point] == pytest.approx(score, rel=1e-6) for point, score in wanted.items())


async def test_a_replaced_passage_is_compared_as_it_is_now(store, late_version):
    await store.write(late_version, [row("a", tokens=tokens(1, 70)), row("b", tokens=tokens(2, 70))], None)
    await store.write(late_version, [row("a", tokens=tokens(3, 4)), row("b")], None)
    query = tokens(99, 8)
    scores = await store.compare(late_version, query, [point_id("a"), point_id("b")], None)
    assert scores == {point_id("a"): pytest.approx(maxsim(query, tokens(3, 4)), rel=1e-6)}


async def test_more_passages_than_an_engine_reads_at_once_are_read_whole_once_each(store, version):
    await store.write(version, [row(str(number)) for number in range(200)], None)
    whole, keys = ([point_id(str(number)) for number in numbers] for numbers in (range(150), range(150, 170)))
    rows = await store.read(version, whole, Parts.VECTOR, None, keys)
    assert sorted(one.id for one in rows) == sorted([*whole, *keys])
    assert {one.id for one in rows if one.passage.vector is not None} == set(whole)
    assert {one.id for one in await store.read(version, [], Parts.VECTOR, None, keys)} == set(keys)
