"""The monitor of the default collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from prometheus_client import CollectorRegistry

from services.chassis.errors import NotFound, Unavailable
from services.gateway.collections.embedders import ModelEmbedder
from services.gateway.collections.index_monitor import IndexMonitor
from services.gateway.metrics import GatewayMetrics
from sluice.type.v1 import collection_pb2, model_pb2
from tests.unit.gateway.samples import model, version


@dataclass
class Embedder:
    """An embedder that serves one model, or is away."""

    serves: str | None = "one"

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        if self.serves is None:
            raise Unavailable("away")
        return model(self.serves)


@dataclass
class World:
    """A retriever with one collection, its embedders, and the metrics that show them."""

    indexed_by: str | None = "one"
    version: str = "docs-v1"
    embedders: Sequence[Embedder] = (Embedder(),)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        embedders = cast(Sequence[ModelEmbedder], self.embedders)
        self.monitor = IndexMonitor("docs", self, embedders, GatewayMetrics(self.registry))

    async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
        if self.indexed_by is None:
            raise NotFound("no such collection")
        return version(self.version, model(self.indexed_by, "model"), passage_count=7)

    async def mismatch(self) -> float | None:
        await self.monitor.check()
        return self.registry.get_sample_value("sluice_fingerprint_mismatch")

    def info(self, **labels: Any) -> float | None:
        return self.registry.get_sample_value("sluice_index_info", {"collection": "docs", "model": "model", **labels})


async def test_a_mismatch_is_shown_until_it_is_over() -> None:
    embedder = Embedder("another")
    world = World(embedders=[embedder])
    assert await world.mismatch() == 1
    embedder.serves = "one"
    assert await world.mismatch() == 0


async def test_one_embedder_of_several_is_enough() -> None:
    assert await World(embedders=[Embedder("another"), Embedder("one")]).mismatch() == 0


async def test_an_embedder_that_is_away_may_be_the_right_one() -> None:
    assert await World(embedders=[Embedder("another"), Embedder(None)]).mismatch() == 0


async def test_only_the_live_version_is_shown_and_none_where_there_is_none() -> None:
    world = World()
    await world.monitor.check()
    assert world.info(version="docs-v1", fingerprint="one") == 1
    world.version = "docs-v2"
    await world.monitor.check()
    assert (world.info(version="docs-v1", fingerprint="one"), world.info(version="docs-v2", fingerprint="one")) == (
        None,
        1,
    )
    assert world.registry.get_sample_value("sluice_index_passages") == 7
    world.indexed_by = None
    await world.monitor.check()
    assert world.info(version="docs-v2", fingerprint="one") is None
    assert world.registry.get_sample_value("sluice_index_passages") == 0
