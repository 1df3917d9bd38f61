"""Tuning versions, and tenants, on every engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from services.chassis.errors import InvalidArgument, NotFound
from services.retriever.collections.tuning import Tuning
from services.retriever.documents import Passage
from services.retriever.fields import ALL, AnyOf, Equals, Filter
from services.retriever.layout import Layout
from services.retriever.search.searches import QueryVariant
from sluice.type.v1 import layout_pb2 as pb
from tests.integration.shelf import EAST, MODEL, NORTH, Shelf, ids

PASSAGES = [
    Passage("a", "one text", "", {"customer": "red"}, EAST),
    Passage("b", "two texts", "", {"customer": "blue"}, NORTH),
]
ANY = QueryVariant("texts", EAST)


@pytest.fixture
def tuning(shelf: Shelf) -> Tuning:
    return Tuning(shelf.store, shelf.collections)


async def test_what_goes_with_each_search_changes_at_once_and_is_kept(
    shelf: Shelf, tuning: Tuning, collection: str
) -> None:
    await tuning.tune(collection, pb.Layout(hnsw_ef=64, rescore=False, oversampling=3))
    info = await shelf.collections.get(collection)
    assert info.layout == Layout(hnsw_ef=64, rescore=False, oversampling=3)
    assert (await shelf.search(collection, QueryVariant("", EAST))).candidates


async def test_a_version_that_requires_a_tenant_refuses_what_names_none(
    shelf: Shelf, tuning: Tuning, new_collection: Callable[..., Awaitable[str]]
) -> None:
    collection = await new_collection(passages=PASSAGES)
    await tuning.tune(collection, pb.Layout(tenant="customer", tenant_required=True))
    shelf.collections.forget()

    for condition in (ALL, Filter(should=[Equals("customer", "red")]), Filter(must_not=[Equals("customer", "red")])):
        with pytest.raises(InvalidArgument, match="names no 'customer'") as refused:
            await shelf.search(collection, ANY, condition=condition)
        assert refused.value.reason == "TENANT_REQUIRED"
        with pytest.raises(InvalidArgument, match="names no 'customer'"):
            await shelf.passages.page(collection, condition)

    red = Filter(must=[AnyOf("customer", ["red"])])
    assert ids(await shelf.search(collection, ANY, condition=red)) == ["a"]
    with pytest.raises(NotFound):
        await shelf.search(collection, like="b", condition=red)
    assert ids(await shelf.search(collection, like="a", condition=red)) == []


async def test_a_collection_is_made_with_its_layout_and_the_next_version_keeps_it(
    shelf: Shelf, new_name: Callable[[], str]
) -> None:
    name = new_name()
    layout = pb.Layout(quantization=pb.QUANTIZATION_INT8, tenant="customer")
    first = await shelf.collections.create(name, MODEL, layout=layout)
    await shelf.put(first.version, PASSAGES)
    assert ids(await shelf.search(name, ANY, condition=Filter(must=[Equals("customer", "blue")]))) == ["b"]
    number = await shelf.versions.next_number(name)
    assert number == 2
    following, _ = await shelf.versions.create(name, MODEL.__class__("tiny", "tiny@2", 3, "fp32"))
    assert following.layout == first.layout
    assert following.layout.tenant == "customer"
