from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.chassis.errors import DeadlineExceeded, Unavailable
from services.gateway.search.arms.shared_stages import shared
from services.gateway.search.flags import Features
from services.gateway.search.pipeline import Stages
from services.gateway.search.stages import Candidate, Embedded, QueryTokens, SearchVariant
from sluice.type.v1 import filter_pb2, tokens_pb2
from tests.unit.gateway.samples import embedded, model
from tests.unit.gateway.search.world import PASSAGES, World

SOON = 30.0


@dataclass
class Slow(World):
    """An embedder that answers when it is let, and notes its calls."""

    let: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[Sequence[str], float]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        self.calls.append((texts, deadline))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self.let.wait()
        except TimeoutError:
            self.ended.append("late")
            raise DeadlineExceeded("too late") from None
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        if self.embed_error:
            raise self.embed_error
        self.ended.append("done")
        return embedded([text.encode() for text in texts], model("f00d"))


def behind(world: World) -> Stages:
    return shared(Stages(world, world, world, world))


def embed(stages: Stages, *texts: str, within: float = SOON) -> asyncio.Task[Embedded]:
    async def call() -> Embedded:
        return await stages.embedder.embed_queries(texts, collection="docs", deadline=time.monotonic() + within)

    return asyncio.create_task(call())


async def begun(world: Slow, count: int = 1) -> None:
    """Wait until so many calls have begun; whoever asked before waits for them by then."""
    while len(world.calls) < count:
        await asyncio.sleep(0)


async def test_equal_calls_run_once_whatever_their_deadlines() -> None:
    world = Slow()
    stages = behind(world)
    first, second = embed(stages, "a"), embed(stages, "a", within=SOON + 1)
    other = embed(stages, "b")
    await begun(world, 2)
    world.let.set()
    assert await first is await second
    assert (await other).vectors == [b"b"]
    assert [texts for texts, _ in world.calls] == [("a",), ("b",)]
    assert (await embed(stages, "a")) is first.result()


async def test_an_error_goes_to_all_who_ask() -> None:
    world = Slow(embed_error=Unavailable("down"))
    stages = behind(world)
    asking = [embed(stages, "a"), embed(stages, "a")]
    await begun(world)
    world.let.set()
    for one in [*asking, embed(stages, "a")]:
        with pytest.raises(Unavailable, match="down"):
            await one
    assert len(world.calls) == 1


async def test_a_call_goes_on_while_somebody_waits_for_it() -> None:
    world = Slow()
    stages = behind(world)
    first, second = embed(stages, "a"), embed(stages, "a")
    await begun(world)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.let.set()
    assert (await second).vectors == [b"a"]
    assert world.ended == ["done"]


async def test_a_call_for_which_nobody_waits_is_cancelled_and_made_again_for_who_asks_then() -> None:
    world = Slow()
    stages = behind(world)
    asking = [embed(stages, "a"), embed(stages, "a")]
    await begun(world)
    for one in asking:
        one.cancel()
    await asyncio.wait(asking)
    again = embed(stages, "a")
    await begun(world, 2)
    world.let.set()
    assert (await again).vectors == [b"a"]
    assert world.ended == ["cancelled", "done"]


async def test_who_has_less_time_does_not_end_the_call_of_another() -> None:
    world = Slow()
    stages = behind(world)
    patient = embed(stages, "a")
    await begun(world)
    with pytest.raises(DeadlineExceeded):
        await embed(stages, "a", within=0.01)
    world.let.set()
    assert (await patient).vectors == [b"a"]
    assert world.ended == ["done"]


async def test_a_call_that_ended_for_want_of_time_is_made_again_for_who_has_more() -> None:
    world = Slow()
    stages = behind(world)
    hasty = embed(stages, "a", within=0.01)
    patient = embed(stages, "a")
    with pytest.raises(DeadlineExceeded):
        await hasty
    await begun(world, 2)
    world.let.set()
    assert (await patient).vectors == [b"a"]
    assert world.ended == ["late", "done"]


async def test_what_another_model_overtook_is_asked_again() -> None:
    world = Slow()
    world.let.set()
    stages = behind(world)
    await embed(stages, "a")
    stages.embedder.forget("docs")
    await embed(stages, "a")
    assert len(world.calls) == 2


def tokens(values: bytes) -> QueryTokens:
    return QueryTokens(tokens_pb2.TokenVectors(values=values, row_count=1), model("70ce"))


SEARCH: dict[str, Any] = {
    "collection": "docs",
    "variants": [SearchVariant("pool", b"1234", 1.0)],
    "filter": filter_pb2.Filter(),
    "limit": 5,
    "whole": 5,
    "dense_weight": 1.0,
    "lexical_weight": 0.5,
    "model_fingerprint": "f00d",
}
OTHERS: dict[str, Any] = {
    "collection": "books",
    "variants": [SearchVariant("pools", b"1234", 1.0)],
    "filter": filter_pb2.Filter(must=[filter_pb2.Condition(field="year")]),
    "limit": 6,
    "whole": 4,
    "dense_weight": 0.0,
    "lexical_weight": 0.0,
    "model_fingerprint": "",
    "model": "mine",
    "like": "book-1",
    "tokens": tokens(b"1"),
    "late_count": 3,
}


async def test_searches_are_equal_only_if_all_but_their_deadlines_is() -> None:
    world = World()
    stages = behind(world)
    for _ in range(2):
        await stages.retriever.search(**SEARCH, deadline=time.monotonic() + SOON)
    assert len(world.limits) == 1
    for name, other in OTHERS.items():
        for _ in range(2):
            await stages.retriever.search(**SEARCH | {name: other}, deadline=time.monotonic() + SOON)
    assert len(world.limits) == 1 + len(OTHERS)
    asked = SEARCH | {"tokens": tokens(b"2")}
    await stages.retriever.search(**asked, deadline=time.monotonic() + SOON)
    assert len(world.limits) == 2 + len(OTHERS)


CALLS: list[Callable[[Stages, float], Awaitable[Any]]] = [
    lambda stages, until: stages.expander.expand("pool", Features(expansion=True), deadline=until),
    lambda stages, until: stages.embedder.embed_query_tokens("pool", collection="docs", deadline=until),
    lambda stages, until: stages.retriever.expand_relations(
        "docs-v1", "pool", [Candidate(PASSAGES[0], 1.0)], filter=filter_pb2.Filter(), hops=1, limit=5, deadline=until
    ),
    lambda stages, until: stages.retriever.diversify("docs-v1", ["1", "2"], [1.0, 0.5], 0.5, deadline=until),
    lambda stages, until: stages.reranker.rerank("pool", ["one", "two"], partial=True, deadline=until),
]


@pytest.mark.parametrize("call", CALLS, ids=["expand", "tokens", "hop", "diversify", "rerank"])
async def test_every_stage_answers_equal_calls_with_the_same(call: Callable[[Stages, float], Awaitable[Any]]) -> None:
    world = World()
    world.embedding.set()
    stages = behind(world)
    made = [await call(stages, time.monotonic() + later) for later in (SOON, SOON / 2, SOON * 2)]
    assert made[0] is made[1] is made[2]


async def test_flags_that_the_expander_does_not_read_make_no_other_call() -> None:
    world = World()
    world.embedding.set()
    expander = behind(world).expander
    until = time.monotonic() + SOON
    one = await expander.expand("pool", Features(expansion=True), deadline=until)
    assert await expander.expand("pool", Features(expansion=True, rerank=True), deadline=until) is one
    assert await expander.expand("pool", Features(expansion=True, max_variant_count=2), deadline=until) is not one
