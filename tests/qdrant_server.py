"""Qdrant's own gRPC protocol over its embedded engine: the network path to Qdrant, where no Qdrant is installed.

It answers the calls that the retriever makes, with the codes of a real server, and remembers its callers. A test may
put a fault in front of every call.
"""

# ruff: noqa: N802  Qdrant's protocol names the methods

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self
from urllib.parse import urlsplit

import grpc
from qdrant_client import AsyncQdrantClient, models
from qdrant_client import grpc as api
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

Fault = Callable[[str, grpc.aio.ServicerContext], Awaitable[None]]
"""Awaited before each call with the method's name; it may wait, or abort the call."""


@dataclass(frozen=True)
class RealQdrant:
    """A Qdrant server that takes part in tests and drills."""

    url: str
    """Its HTTP address: QDRANT_TEST_URL."""
    grpc_port: int
    """QDRANT_TEST_GRPC_PORT, 6334 by default."""

    @classmethod
    def from_environment(cls) -> Self | None:
        """The server that the environment names, or None."""
        url = os.environ.get("QDRANT_TEST_URL")
        return cls(url, int(os.environ.get("QDRANT_TEST_GRPC_PORT", "6334"))) if url else None

    @property
    def grpc_target(self) -> str:
        """Host and gRPC port."""
        return f"{urlsplit(self.url).hostname}:{self.grpc_port}"


Snapshot = tuple[api.SnapshotDescription, models.CollectionConfig, list[models.PointStruct]]


class QdrantServer:
    """`async with QdrantServer() as server:` serves on a free loopback port; the data outlives `stop` and `start`."""

    def __init__(self) -> None:
        self.engine = AsyncQdrantClient(location=":memory:")
        self.port = 0
        self.calls: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.peers: set[str] = set()
        self.version = "1.20.0"
        self.snapshots: dict[tuple[str, str], Snapshot] = {}
        self.rest_port = 0
        self.shards = (1, 0)
        """Shards of every collection on this node, and on others."""
        self._rest: asyncio.Server | None = None
        self.fault: Fault | None = None
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self.engine.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serves, on the same port as before if it served before."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
        api.add_PointsServicer_to_server(_Points(self), self._server)
        api.add_CollectionsServicer_to_server(_Collections(self), self._server)
        api.add_SnapshotsServicer_to_server(_Snapshots(self), self._server)
        api.add_QdrantServicer_to_server(_Root(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        self._rest = await asyncio.start_server(self._answer_rest, "127.0.0.1", self.rest_port)
        self.rest_port = self._rest.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Goes away at once; calls under way fail."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
        if self._rest is not None:
            self._rest.close()
            self._rest = None

    @property
    def rest_url(self) -> str:
        """Of the few calls that Qdrant has over HTTP alone."""
        return f"http://127.0.0.1:{self.rest_port}"

    async def _answer_rest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`PUT /collections/NAME/snapshots/recover`, and nothing else: a snapshot that is found by its address."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:"))
        location = json.loads(await reader.readexactly(length))["location"]
        name = head.split()[1].split("/")[2]
        _, _, _, _, version, _, snapshot = location.split("/")
        _, config, points = self.snapshots[version, snapshot]
        if not await self.engine.collection_exists(name):
            await self.engine.create_collection(
                name,
                vectors_config=config.params.vectors,
                sparse_vectors_config=config.params.sparse_vectors,
                metadata=config.metadata,
            )
        await self.engine.upsert(name, points)
        body = b'{"result": true, "status": "ok", "time": 0.0}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()


def _rpc(handler: Callable[[Any, Any], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A method of a servicer, without its context: counts, injects the fault, and names errors as Qdrant does."""

    @wraps(handler)
    async def method(self: _Servicer, request: Any, context: grpc.aio.ServicerContext) -> Any:
        server, name = self.server, handler.__name__
        server.calls[name] += 1
        server.peers.add(context.peer())
        try:
            if server.fault is not None:
                await server.fault(name, context)
            return await handler(self, request)
        except asyncio.CancelledError:
            server.cancelled[name] += 1
            raise
        except ValueError as error:
            await context.abort(_code_of(str(error)), f"Wrong input: {error}")

    return method


def _code_of(message: str) -> grpc.StatusCode:
    if "not found" in message:
        return grpc.StatusCode.NOT_FOUND
    if "already exists" in message:
        return grpc.StatusCode.ALREADY_EXISTS
    return grpc.StatusCode.INVALID_ARGUMENT


class _Servicer:
    def __init__(self, server: QdrantServer) -> None:
        self.server = server

    @property
    def engine(self) -> AsyncQdrantClient:
        return self.server.engine


class _Points(_Servicer, api.PointsServicer):
    @_rpc
    async def QueryBatch(self, request: api.QueryBatchPoints) -> api.QueryBatchResponse:
        queries = [GrpcToRest.convert_query_points(query) for query in request.query_points]
        found = await self.engine.query_batch_points(request.collection_name, queries)
        return api.QueryBatchResponse(
            result=[api.BatchResult(result=map(RestToGrpc.convert_scored_point, each.points)) for each in found]
        )

    @_rpc
    async def Upsert(self, request: api.UpsertPoints) -> api.PointsOperationResponse:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        condition = GrpcToRest.convert_filter(request.update_filter) if request.HasField("update_filter") else None
        mode = GrpcToRest.convert_update_mode(request.update_mode) if request.HasField("update_mode") else None
        return _operation(
            await self.engine.upsert(request.collection_name, points, update_filter=condition, update_mode=mode)
        )

    @_rpc
    async def Scroll(self, request: api.ScrollPoints) -> api.ScrollResponse:
        records, following = await self.engine.scroll(
            request.collection_name,
            scroll_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        for record in records:
            record.payload = record.payload or {}
        return api.ScrollResponse(
            result=map(RestToGrpc.convert_record, records),
            next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
        )

    @_rpc
    async def Delete(self, request: api.DeletePoints) -> api.PointsOperationResponse:
        selector = GrpcToRest.convert_points_selector(request.points)
        return _operation(await self.engine.delete(request.collection_name, selector))

    @_rpc
    async def Get(self, request: api.GetPoints) -> api.GetResponse:
        records = await self.engine.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(point_id) for point_id in request.ids],
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        for record in records:
            record.payload = record.payload or {}
        return api.GetResponse(result=map(RestToGrpc.convert_record, records))

    @_rpc
    async def Count(self, request: api.CountPoints) -> api.CountResponse:
        count_filter = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
        counted = await self.engine.count(request.collection_name, count_filter)
        return api.CountResponse(result=RestToGrpc.convert_count_result(counted))

    @_rpc
    async def CreateFieldIndex(self, request: api.CreateFieldIndexCollection) -> api.PointsOperationResponse:
        # The embedded engine has no payload indexes, and would warn about it.
        await self.engine.get_collection(request.collection_name)
        return _operation(models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED))


class _Collections(_Servicer, api.CollectionsServicer):
    @_rpc
    async def Create(self, request: api.CreateCollection) -> api.CollectionOperationResponse:
        done = await self.engine.create_collection(
            request.collection_name,
            vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
            sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config),
            metadata=GrpcToRest.convert_payload(request.metadata),
        )
        return api.CollectionOperationResponse(result=done)

    @_rpc
    async def Get(self, request: api.GetCollectionInfoRequest) -> api.GetCollectionInfoResponse:
        info = await self.engine.get_collection(request.collection_name)
        return api.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    @_rpc
    async def CollectionClusterInfo(
        self, request: api.CollectionClusterInfoRequest
    ) -> api.CollectionClusterInfoResponse:
        await self.engine.get_collection(request.collection_name)
        here, there = self.server.shards
        active = api.ReplicaState.Active
        return api.CollectionClusterInfoResponse(
            peer_id=1,
            shard_count=here + there,
            local_shards=[api.LocalShardInfo(shard_id=number, state=active) for number in range(here)],
            remote_shards=[
                api.RemoteShardInfo(shard_id=here + number, peer_id=2, state=active) for number in range(there)
            ],
        )

    @_rpc
    async def List(self, _request: api.ListCollectionsRequest) -> api.ListCollectionsResponse:
        names = [collection.name for collection in (await self.engine.get_collections()).collections]
        return api.ListCollectionsResponse(collections=[api.CollectionDescription(name=name) for name in names])

    @_rpc
    async def Update(self, request: api.UpdateCollection) -> api.CollectionOperationResponse:
        metadata = GrpcToRest.convert_payload(request.metadata)
        done = await self.engine.update_collection(request.collection_name, metadata=metadata)
        return api.CollectionOperationResponse(result=done)

    @_rpc
    async def Delete(self, request: api.DeleteCollection) -> api.CollectionOperationResponse:
        return api.CollectionOperationResponse(result=await self.engine.delete_collection(request.collection_name))

    @_rpc
    async def CollectionExists(self, request: api.CollectionExistsRequest) -> api.CollectionExistsResponse:
        exists = await self.engine.collection_exists(request.collection_name)
        return api.CollectionExistsResponse(result=api.CollectionExists(exists=exists))

    @_rpc
    async def ListAliases(self, _request: api.ListAliasesRequest) -> api.ListAliasesResponse:
        aliases = (await self.engine.get_aliases()).aliases
        return api.ListAliasesResponse(aliases=map(RestToGrpc.convert_alias_description, aliases))

    @_rpc
    async def UpdateAliases(self, request: api.ChangeAliases) -> api.CollectionOperationResponse:
        operations = [GrpcToRest.convert_alias_operations(action) for action in request.actions]
        return api.CollectionOperationResponse(result=await self.engine.update_collection_aliases(operations))


class _Snapshots(_Servicer, api.SnapshotsServicer):
    @_rpc
    async def Create(self, request: api.CreateSnapshotRequest) -> api.CreateSnapshotResponse:
        config = (await self.engine.get_collection(request.collection_name)).config
        records, _ = await self.engine.scroll(request.collection_name, limit=1_000_000, with_vectors=True)
        points = [models.PointStruct(id=kept.id, payload=kept.payload, vector=kept.vector) for kept in records]
        name = f"{request.collection_name}-{len(self.server.snapshots)}.snapshot"
        description = api.SnapshotDescription(name=name, size=1)
        description.creation_time.GetCurrentTime()
        self.server.snapshots[request.collection_name, name] = description, copy.deepcopy(config), points
        return api.CreateSnapshotResponse(snapshot_description=description)

    @_rpc
    async def List(self, request: api.ListSnapshotsRequest) -> api.ListSnapshotsResponse:
        kept = self.server.snapshots.items()
        found = [description for (version, _), (description, _, _) in kept if version == request.collection_name]
        return api.ListSnapshotsResponse(snapshot_descriptions=found)

    @_rpc
    async def Delete(self, request: api.DeleteSnapshotRequest) -> api.DeleteSnapshotResponse:
        del self.server.snapshots[request.collection_name, request.snapshot_name]
        return api.DeleteSnapshotResponse()


class _Root(_Servicer, api.QdrantServicer):
    @_rpc
    async def HealthCheck(self, _request: api.HealthCheckRequest) -> api.HealthCheckReply:
        return api.HealthCheckReply(title="qdrant (embedded engine)", version=self.server.version)


def _operation(result: models.UpdateResult) -> api.PointsOperationResponse:
    return api.PointsOperationResponse(result=RestToGrpc.convert_update_result(result))
