"""Composition root of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.chassis.server import Stage, run
from services.chassis.shedding import ConcurrencyLimit, concurrency_limit
from services.chassis.timing import in_background
from services.gateway import metrics
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.indexing import Indexing
from services.gateway.collections.reindexing import Following, Reindexing, Writing
from services.gateway.collections.verification import Verification
from services.gateway.rollout.client import RolloutClient, housekeeping, look_once, name_of_this_process
from services.gateway.rollout.evidence import Evidence
from services.gateway.rollout.exposure import Exposure
from services.gateway.rollout.local_overrides import OverridesFile
from services.gateway.rollout.shadow import Shadow
from services.gateway.rollout.snapshot import SnapshotFile
from services.gateway.rpc.channels import Channels
from services.gateway.rpc.collections_servicer import BULK_METHODS, Life
from services.gateway.rpc.index_monitor import IndexWatch
from services.gateway.rpc.search_servicer import GatewayServicer, StageClients
from services.gateway.rpc.stage_clients import EmbedderClient, ExpanderClient, RerankerClient, RetrieverClient
from services.gateway.search.budgets import Budgets
from services.gateway.search.pipeline import Pipeline, Stages
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import gateway_pb2, gateway_pb2_grpc


@asynccontextmanager
async def compose(settings: GatewaySettings) -> AsyncIterator[Stage]:
    """Channels to the four stages, and the pipeline over them.

    The gateway serves whether or not the stages do: what they cannot do is its answer, not its absence.
    """
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(Channels(settings))
        embedder, *additional_embedders = [
            EmbedderClient(channels.guarded(address, EmbedderClient.service))
            for address in settings.embedder_addresses()
        ]
        clients = StageClients(
            expander=ExpanderClient(channels.guarded(settings.expander_address, ExpanderClient.service)),
            embedder=embedder,
            retriever=RetrieverClient(channels.guarded(settings.retriever_address, RetrieverClient.service)),
            reranker=RerankerClient(channels.guarded(settings.reranker_address, RerankerClient.service)),
            additional_embedders=additional_embedders,
        )
        embedders = Embedders([embedder, *additional_embedders], clients.retriever)
        stages = Stages(clients.expander, embedders, clients.retriever, clients.reranker)
        following = Following(clients.retriever, embedders)
        writing = Writing(clients.retriever, clients.retriever, following)
        verification = Verification(clients.retriever, embedders)
        life = Life(
            embedders,
            clients.retriever,
            writing,
            Reindexing(clients.retriever, clients.retriever, embedders, following, verification),
            verification,
        )
        limit = ConcurrencyLimit(settings.limit_bounds(), concurrency_limit.set)
        exposure = await stack.enter_async_context(exposing(settings, channels))
        shadow = None
        if settings.rollout_address:
            shadow = await stack.enter_async_context(shadowing(settings, channels, exposure.evidence, limit))
        servicer = GatewayServicer(
            Pipeline(stages, settings.weights(), Budgets(), metrics.observe_stages),
            Indexing(embedders, writing),
            clients,
            life,
            settings,
            exposure,
            shadow,
        )
        watch = IndexWatch(
            settings.qdrant_collection,
            RetrieverClient(channels.opened(settings.retriever_address, RetrieverClient.service)),
            [
                EmbedderClient(channels.opened(address, EmbedderClient.service))
                for address in settings.embedder_addresses()
            ],
        )
        await stack.enter_async_context(in_background(watch.keep_looking()))
        yield Stage(
            service=gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"],
            register=lambda server: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server),
            limit=limit,
            bulk_methods=frozenset({"IndexDocuments", "DeleteDocuments"}) | BULK_METHODS,
        )


@asynccontextmanager
async def exposing(settings: GatewaySettings, channels: Channels) -> AsyncIterator[Exposure]:
    """What decides on features, kept up to date by the rollout service, a file, or neither."""
    defaults, local = settings.default_features(), settings.local_overrides()
    exposure = Exposure(defaults, local, Evidence())
    async with AsyncExitStack() as stack:
        client = None
        if settings.rollout_address:
            client = RolloutClient(
                # Of several replicas one is active, and says SERVING.
                channels.opened(settings.rollout_address, RolloutClient.service, longest_reconnect_seconds=1.0),
                exposure,
                defaults=defaults,
                gateway=settings.rollout_gateway_name or name_of_this_process(),
                file=SnapshotFile(settings.rollout_snapshot_path),
                report_seconds=settings.rollout_report_seconds,
            )
            await client.restore()
        file = None
        if settings.rollout_overrides_path:
            file = OverridesFile(settings.rollout_overrides_path, local, defaults)
            # Before the first request: it may hold a kill.
            await look_once(file, exposure, client)
        if client is not None:
            await stack.enter_async_context(client.running())
        await stack.enter_async_context(housekeeping(file, exposure, client))
        yield exposure


@asynccontextmanager
async def shadowing(
    settings: GatewaySettings, channels: Channels, evidence: Evidence, limit: ConcurrencyLimit
) -> AsyncIterator[Shadow]:
    """Treatments beside control requests, over channels of their own: no breaker counts what fails there."""
    embedders = [
        EmbedderClient(channels.opened(address, EmbedderClient.service)) for address in settings.embedder_addresses()
    ]
    retriever = RetrieverClient(channels.opened(settings.retriever_address, RetrieverClient.service))
    reranker = RerankerClient(channels.opened(settings.reranker_address, RerankerClient.service), somebody_waits=False)
    expander = ExpanderClient(channels.opened(settings.expander_address, ExpanderClient.service))
    stages = Stages(expander, Embedders(embedders, retriever), retriever, reranker)
    shadow = Shadow(Pipeline(stages, settings.weights(), Budgets()), reranker, evidence, lambda: limit.occupied)
    try:
        yield shadow
    finally:
        await shadow.close()


if __name__ == "__main__":
    run("gateway", GatewaySettings, compose)
