"""Composition root of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from services.common import tls
from services.common.breaker import Breaker
from services.common.client import StageChannel
from services.common.metrics import concurrency_limit
from services.common.server import Stage, run
from services.common.shedding import ConcurrencyLimit
from services.gateway import metrics
from services.gateway.budgets import Budgets
from services.gateway.clients import EmbedderClient, ExpanderClient, RerankerClient, RetrieverClient
from services.gateway.embedders import Embedders
from services.gateway.indexing import Indexing
from services.gateway.life import BULK_METHODS, Life
from services.gateway.pipeline import Pipeline, Stages
from services.gateway.reindexing import Following, Reindexing, Writing
from services.gateway.servicer import GatewayServicer, StageClients
from services.gateway.settings import GatewaySettings
from services.gateway.verification import Verification
from sluice.gateway.v1 import gateway_pb2, gateway_pb2_grpc

ClientT = TypeVar("ClientT", ExpanderClient, EmbedderClient, RetrieverClient, RerankerClient)


@asynccontextmanager
async def compose(settings: GatewaySettings) -> AsyncIterator[Stage]:
    """Channels to the four stages, and the pipeline over them.

    The gateway serves whether or not the stages do: what they cannot do is its answer, not its absence.
    """
    async with AsyncExitStack() as stack:

        async def connect(address: str, client: type[ClientT]) -> ClientT:
            stage = client.service.split(".")[1]
            metrics.stage_breaker_open.labels(stage).set(0)
            breaker = Breaker(
                stage,
                failures=settings.breaker_failures,
                reset_seconds=settings.breaker_reset_seconds,
                on_transition=metrics.breaker_changed,
            )
            channel = StageChannel(
                address,
                service=client.service,
                breaker=breaker,
                max_message_mib=settings.max_message_mib,
                credentials=tls.channel_credentials(settings),
            )
            return client(await stack.enter_async_context(channel))

        clients = StageClients(
            expander=await connect(settings.expander_address, ExpanderClient),
            embedder=await connect(settings.embedder_address, EmbedderClient),
            retriever=await connect(settings.retriever_address, RetrieverClient),
            reranker=await connect(settings.reranker_address, RerankerClient),
            additional_embedders=[
                await connect(address, EmbedderClient)
                for address in settings.embedder_additional_addresses.split(",")
                if address
            ],
        )
        embedders = Embedders([clients.embedder, *clients.additional_embedders], clients.retriever)
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
        servicer = GatewayServicer(
            Pipeline(stages, settings.weights(), Budgets()), Indexing(embedders, writing), clients, life, settings
        )
        yield Stage(
            service=gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"],
            register=lambda server: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server),
            limit=ConcurrencyLimit(settings.limit_bounds(), concurrency_limit.set),
            bulk_methods=frozenset({"IndexDocuments", "DeleteDocuments"}) | BULK_METHODS,
        )


if __name__ == "__main__":
    run("gateway", GatewaySettings, compose)
