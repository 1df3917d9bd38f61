"""The port `PassageStore` itself, on every engine."""

from __future__ import annotations

import numpy as np
import pytest

from services.chassis.errors import AlreadyExists, NotFound
from services.late import codes
from services.retriever.documents import Passage
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


@pytest.mark.parametrize("parts", list(Parts))
async def test_what_is_read_is_what_was_asked_for(store, version, parts):
    await store.write(version, [row("a", year=1999)], None)
    [found] = await store.read(version, [point_id("a"), point_id("b")], parts, None)
    assert (found.id, found.passage.id, found.revision) == (point_id("a"), "a", "r1")
    assert (found.passage.text != "") == (parts in {Parts.PASSAGE, Parts.VECTOR})
    assert (found.passage.vector is not None) == (parts in {Parts.DENSE, Parts.VECTOR})
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
async def test_token_vectors_are_kept_byte_for_byte_and_read_with_everything_alone(store, late_version, parts):
    every_byte = np.arange(2 * TOKEN_DIMENSION, dtype=np.uint8).reshape(2, TOKEN_DIMENSION)
    written = {"a": tokens(1, 70), "b": every_byte, "c": tokens(2, 1), "d": None}
    await store.write(late_version, [row(name, tokens=kept) for name, kept in written.items()], None)
    rows = await store.read(late_version, list(map(point_id, written)), parts, None)
    for found in rows:
        if parts is Parts.VECTOR:
            np.testing.assert_array_equal(found.passage.tokens, written[found.passage.id])
        else:
            assert found.passage.tokens is None


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
