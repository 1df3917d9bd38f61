"""Qdrant's gRPC protocol on loopback ports, over shards in its own engine.

It answers the calls that the retriever makes, with the codes of a real server, and remembers its callers. A test may
put a fault in front of every call. What it does not know it refuses with UNIMPLEMENTED.
"""

# ruff: noqa: N802  Qdrant's protocol names the methods

from __future__ import annotations

from collections import Counter
from typing import Any, Self

import grpc
from qdrant_client import grpc as api

from tests.qdrant_server.cluster import Cluster, Node
from tests.qdrant_server.collections import CollectionsService
from tests.qdrant_server.points import PointsService
from tests.qdrant_server.rpc import Fault, Servicer, rpc

_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class QdrantServer:
    """`async with QdrantServer() as server:` serves on a free loopback port; the data outlives `stop` and `start`.

    Several nodes are a cluster. Each has a port of its own in `ports`; `port` is that of a balancer, behind which every
    call goes to the next node that is up.
    """

    def __init__(self, nodes: int = 1, *, lag: tuple[float, float] = (0.05, 0.3)) -> None:
        """`lag` is the least and the most time, in seconds, after which other nodes make a change of a collection."""
        self.cluster = Cluster(nodes, lag)
        self.port = 0
        self.ports = [0] * nodes
        self.calls: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.peers: set[str] = set()
        self.version = "1.18.3"
        self.fault: Fault | None = None
        self._servers: dict[int | None, grpc.aio.Server] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        for points in self.cluster.points():
            if not points.dropped:
                points.drop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serves, on the same ports as before if it served before."""
        self.port = await self._serve(None, self.port)
        if len(self.ports) == 1:
            self.ports = [self.port]
        else:
            for node in self.cluster.nodes:
                if node.up:
                    self.ports[node.number] = await self._serve(node, self.ports[node.number])

    async def stop(self) -> None:
        """Goes away at once; calls under way fail."""
        while self._servers:
            await self._servers.popitem()[1].stop(grace=None)

    async def take_down(self, number: int) -> None:
        """Let a node of a cluster die, with its port and its shards."""
        self.cluster.take_down(number)
        if (server := self._servers.pop(number, None)) is not None:
            await server.stop(grace=None)

    async def bring_up(self, number: int) -> None:
        """Start a node again, which has all that it had."""
        self.cluster.bring_up(number)
        await self._serve(self.cluster.nodes[number], self.ports[number])

    async def _serve(self, node: Node | None, port: int) -> int:
        server = grpc.aio.server(options=_OPTIONS)
        services: Any = api  # generated, without types
        services.add_PointsServicer_to_server(PointsService(self, node), server)
        services.add_CollectionsServicer_to_server(CollectionsService(self, node), server)
        services.add_QdrantServicer_to_server(_Root(self, node), server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        self._servers[None if node is None else node.number] = server
        return port


class _Root(Servicer, api.QdrantServicer):
    @rpc
    async def HealthCheck(self, _request: api.HealthCheckRequest) -> api.HealthCheckReply:
        return api.HealthCheckReply(title="qdrant (a double)", version=self.server.version)
