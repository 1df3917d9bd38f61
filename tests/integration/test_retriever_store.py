"""The port `PassageStore` itself, on every engine."""

from __future__ import annotations

import numpy as np
import pytest

from services.chassis.errors import AlreadyExists, NotFound
from services.retriever.documents import Passage
from services.retriever.fields import Equals, FieldType, Filter
from services.retriever.lexical import SparseVector
from services.retriever.store import PLAIN, Parts, Row, point_id

pytestmark = pytest.mark.cluster

EAST, NORTH = np.eye(2, dtype=np.float32)


def row(name, text="text", revision="r1", vector=EAST, **metadata):
    return Row(point_id(name), Passage(name, text, "title", metadata, vector), revision, SparseVector([7], [1.0]))


@pytest.fixture
async def version(store, new_name):
    name = f"{new_name()}-v1"
    await store.create(name, 2, PLAIN, {"made by": "a test"}, None)
    return name


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
    assert [(hit.id, hit.score) for hit in by_vector] == [(point_id("north"), 1.0), (point_id("east"), 0.0)]
    assert {hit.id for hit in by_words} == {point_id("east"), point_id("north")}
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
