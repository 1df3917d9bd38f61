"""StatusService: the gateway as it is now."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from services import __version__
from services.chassis.access.gate import sees
from services.chassis.errors import NotFound, SluiceError, kind_of
from services.chassis.timing import deadline_of
from services.gateway.rollout.exposure import Exposure
from services.gateway.rpc.clients import StageClient, StageClients
from services.gateway.rpc.model_clients import EmbedderClient, RerankerClient
from services.gateway.rpc.retriever_client import RetrieverClient
from services.gateway.search.stages import Stage
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import status_pb2 as pb
from sluice.gateway.v1 import status_pb2_grpc
from sluice.type.v1 import collection_pb2

Context = grpc.aio.ServicerContext[Any, Any]

# A person waits for the answer.
CONFIG_DEADLINE_SECONDS = 2.0


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Describes the stages, the default collection and the default features."""

    def __init__(self, clients: StageClients, exposure: Exposure, settings: GatewaySettings) -> None:
        self._clients = clients
        self._exposure = exposure
        self._settings = settings

    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> pb.GetConfigResponse:
        deadline = min(deadline_of(context), time.monotonic() + CONFIG_DEADLINE_SECONDS)
        name = request.collection or self._settings.qdrant_collection
        clients = self._clients
        stages, collection = await asyncio.gather(
            asyncio.gather(*(_stage_config(stage, client, deadline) for stage, client in clients.named())),
            _live_version(clients.retriever, name, deadline),
        )
        return pb.GetConfigResponse(
            default_features=self._exposure.table.standard.to_proto(),
            stages=stages,
            collection=collection,
            release=__version__,
        )


async def _stage_config(stage: Stage, client: StageClient, deadline: float) -> pb.StageConfig:
    problem = await client.channel.health(client.service, deadline=deadline)
    config = pb.StageConfig(
        stage=stage.value, address=client.channel.address, serving=problem is None, problem=problem or ""
    )
    if config.serving and isinstance(client, EmbedderClient | RerankerClient):
        try:
            config.model.CopyFrom(await client.model(deadline=deadline))
            if isinstance(client, EmbedderClient) and (token_model := await client.token_model(deadline=deadline)).name:
                config.token_model.CopyFrom(token_model)
        except SluiceError as error:
            config.problem = error.message
    return config


async def _live_version(
    retriever: RetrieverClient, name: str, deadline: float
) -> collection_pb2.CollectionVersion | None:
    """Describe the live version; None where there is none that the caller may know of, or no retriever."""
    if not sees(name):
        return None
    try:
        return await retriever.collection(name, deadline=deadline)
    except SluiceError as error:
        if isinstance(error, NotFound) or kind_of(error).retryable:
            return None
        raise
