"""What the gateway shows of its index before anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from prometheus_client import REGISTRY

from services.chassis.errors import Unavailable
from services.gateway.collections.embedders import EmbeddingModel
from services.gateway.rpc.index_monitor import IndexWatch
from services.gateway.rpc.stage_clients import CollectionCard, EmbedderClient, RetrieverClient


@dataclass
class World:
    """A retriever and an embedder, each as it is made to be."""

    indexed_by: str | None = "one"
    served: str | None = "one"
    version: str = "docs-v1"

    async def collection(self, name: str, *, deadline: float) -> CollectionCard | None:
        if self.indexed_by is None:
            return None
        return CollectionCard(self.version, "model", self.indexed_by, 384, 7, {}, datetime.now(UTC))

    async def model(self, *, deadline: float) -> EmbeddingModel:
        if self.served is None:
            raise Unavailable("away")
        return EmbeddingModel("model", self.served, 384, "fp32")


def watch_of(*worlds: World) -> IndexWatch:
    retriever = cast(RetrieverClient, worlds[0])
    return IndexWatch("docs", retriever, [cast(EmbedderClient, world) for world in worlds])


def mismatch() -> float | None:
    return REGISTRY.get_sample_value("sluice_fingerprint_mismatch")


def info(**labels: Any) -> float | None:
    return REGISTRY.get_sample_value("sluice_index_info", {"collection": "docs", "model": "model", **labels})


async def test_a_mismatch_is_seen_and_seen_to_be_over() -> None:
    world = World(indexed_by="one", served="another")
    watch = watch_of(world)
    await watch._look()
    assert mismatch() == 1
    world.served = "one"
    await watch._look()
    assert mismatch() == 0


async def test_one_embedder_of_several_is_enough() -> None:
    await watch_of(World(indexed_by="one", served="another"), World(served="one"))._look()
    assert mismatch() == 0


async def test_an_embedder_that_is_away_may_be_the_right_one() -> None:
    world = World(indexed_by="one", served="another")
    await watch_of(world, World(served=None))._look()
    assert mismatch() == 0


async def test_only_the_live_version_is_shown_and_none_where_there_is_none() -> None:
    world = World()
    watch = watch_of(world)
    await watch._look()
    assert info(version="docs-v1", fingerprint="one") == 1
    world.version = "docs-v2"
    await watch._look()
    assert (info(version="docs-v1", fingerprint="one"), info(version="docs-v2", fingerprint="one")) == (None, 1)
    world.indexed_by = None
    await watch._look()
    assert info(version="docs-v2", fingerprint="one") is None
    assert REGISTRY.get_sample_value("sluice_index_passages") == 0
