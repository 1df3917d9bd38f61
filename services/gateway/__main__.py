"""Composition root of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.common.client import StageChannel
from services.common.server import Stage, run
from services.gateway.budgets import Budgets
from services.gateway.clients import EmbedderClient, ExpanderClient, RerankerClient, RetrieverClient
from services.gateway.indexing import Indexing
from services.gateway.pipeline import Pipeline, Stages
from services.gateway.servicer import GatewayServicer, StageClients
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import gateway_pb2, gateway_pb2_grpc


@asynccontextmanager
async def compose(settings: GatewaySettings) -> AsyncIterator[Stage]:
    """Channels to the four stages, and the pipeline over them.

    The gateway serves whether or not the stages do: what they cannot do is its answer, not its absence.
    """
    async with AsyncExitStack() as stack:

        async def channel(address: str) -> StageChannel:
            return await stack.enter_async_context(StageChannel(address, max_message_mib=settings.max_message_mib))

        clients = StageClients(
            expander=ExpanderClient(await channel(settings.expander_address)),
            embedder=EmbedderClient(await channel(settings.embedder_address)),
            retriever=RetrieverClient(await channel(settings.retriever_address)),
            reranker=RerankerClient(await channel(settings.reranker_address)),
        )
        stages = Stages(clients.expander, clients.embedder, clients.retriever, clients.reranker)
        servicer = GatewayServicer(
            Pipeline(stages, settings.weights(), Budgets()),
            Indexing(clients.embedder, clients.retriever),
            clients,
            settings,
        )
        yield Stage(
            service=gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"],
            register=lambda server: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server),
        )


if __name__ == "__main__":
    run("gateway", GatewaySettings, compose)
