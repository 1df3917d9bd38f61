"""Calls of the double: counted, disturbed by the test's fault, and refused as Qdrant refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import grpc

from tests.qdrant_server.cluster import Cluster, Node, Refusal, View

if TYPE_CHECKING:
    from tests.qdrant_server.server import QdrantServer

Fault = Callable[[str, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]
"""Awaited before each call with the method's name; it may wait, or abort the call."""


class Servicer:
    """A service of one node; or, without a node, of a balancer in front of all, which asks another with each call."""

    def __init__(self, server: QdrantServer, node: Node | None) -> None:
        self.server = server
        self._node = node

    @property
    def cluster(self) -> Cluster:
        return self.server.cluster

    def node(self) -> Node:
        """Choose the node that answers a call."""
        return self._node or self.cluster.next_node()

    def view(self) -> View:
        """Return what the node that answers knows."""
        return self.cluster.view(self.node())


def rpc(handler: Callable[[Any, Any], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Make a method of a servicer from one without its context."""

    @wraps(handler)
    async def method(self: Servicer, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
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
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.message)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {error}")
        except NotImplementedError as error:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the double of Qdrant does not know {error}")

    return method
