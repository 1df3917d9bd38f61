"""Nodes of Qdrant: their addresses, and the connections to each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import grpc
from qdrant_client import grpc as api

from services.chassis import logs, tracing
from services.chassis.errors import StartupError
from services.retriever.settings import RetrieverSettings

T = TypeVar("T")

_DEFAULT_PORT = 6334
_HEALTH_SECONDS = 1.0
# Pause between two questions for the health of a node that is away.
_POLL_SECONDS = 0.25
_OPTIONS = (
    # Equal channels would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy that the environment names is for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
)

_log = logs.get_logger("retriever")


class Address(NamedTuple):
    """Place at which a node of Qdrant speaks gRPC."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def addresses(settings: RetrieverSettings) -> list[Address]:
    """Return the addresses that QDRANT_URL lists, each with the port for gRPC."""
    found = []
    for url in map(str.strip, settings.qdrant_url.split(",")):
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = settings.qdrant_grpc_port or parts.port or _DEFAULT_PORT
        found.append(Address(f"[{host}]" if ":" in host else host, port, parts.scheme == "https"))
    return list(dict.fromkeys(found))


def _authorities(settings: RetrieverSettings) -> bytes | None:
    if settings.qdrant_ca_file is None:
        return None
    try:
        return settings.qdrant_ca_file.read_bytes()
    except OSError as error:
        raise StartupError(
            f"QDRANT_CA_FILE: {settings.qdrant_ca_file} cannot be read: {error.strerror}",
            remedy="Name a file with certificates in PEM, or unset QDRANT_CA_FILE.",
        ) from error


class Connection:
    """A connection to a node, which carries one call at a time."""

    def __init__(self, address: Address, settings: RetrieverSettings, authorities: bytes | None) -> None:
        if address.tls:
            credentials = grpc.ssl_channel_credentials(authorities)
            self._channel = grpc.aio.secure_channel(str(address), credentials, _OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(str(address), _OPTIONS)
        self.points: Any = api.PointsStub(self._channel)  # type: ignore[no-untyped-call]  # generated without types
        self.collections: Any = api.CollectionsStub(self._channel)  # type: ignore[no-untyped-call]
        self._service: Any = api.QdrantStub(self._channel)  # type: ignore[no-untyped-call]
        key = settings.qdrant_api_key.get_secret_value()
        self._identity = (("api-key", key),) if key else ()

    async def ask(self, method: Callable[..., Awaitable[T]], request: Any) -> T:
        """Send a request by a method of a stub; it carries the trace along."""
        return await method(request, metadata=(*self._identity, *tracing.headers().items()))

    async def shards(self, version: str) -> api.CollectionClusterInfoResponse:
        """Return what the node says about the shards of a version."""
        request = api.CollectionClusterInfoRequest(collection_name=version)
        reply: api.CollectionClusterInfoResponse = await self.ask(self.collections.CollectionClusterInfo, request)
        return reply

    async def version(self) -> str:
        """Return the version of Qdrant that answers."""
        reply: api.HealthCheckReply = await self.ask(self._service.HealthCheck, api.HealthCheckRequest())
        return reply.version

    async def info(self, name: str) -> api.CollectionInfo:
        """Describe the version of this name, or behind this alias."""
        request = api.GetCollectionInfoRequest(collection_name=name)
        found: api.CollectionInfo = (await self.ask(self.collections.Get, request)).result
        return found

    async def aliases(self) -> dict[str, str]:
        """Return all aliases, each with its version."""
        found = await self.ask(self.collections.ListAliases, api.ListAliasesRequest())
        return {alias.alias_name: alias.collection_name for alias in found.aliases}

    async def close(self) -> None:
        """Close it; a call under way fails."""
        await self._channel.close()


Operation = Callable[[Connection], Awaitable[T]]


class Node:
    """One address of Qdrant, with its connections, and its health as it was seen last."""

    def __init__(self, address: Address, settings: RetrieverSettings) -> None:
        self.address = address
        self.up = True
        """False from the moment at which it could not be reached until it answers for its health."""
        self.in_use = 0
        """Number of connections that carry a call."""
        self._settings = settings
        self._authorities = _authorities(settings) if address.tls else None
        self._free: deque[Connection] = deque()
        self._connections: list[Connection] = []
        self._polling: asyncio.Task[None] | None = None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection, a new one if all that there are carry calls."""
        if not self._free:
            self._connect()
        lent = self._free.popleft()
        self.in_use += 1
        try:
            yield lent
        finally:
            self.in_use -= 1
            self._free.append(lent)

    async def is_healthy(self) -> bool:
        """True if it answers the question for its health."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await (self._connections or [self._connect()])[0].version()
        except Exception:  # whatever it is, it is no answer
            return False
        return True

    def suspect(self) -> None:
        """Leave the node alone until it answers for its health."""
        if self.up:
            _log.warning("a node of Qdrant does not answer", address=str(self.address))
        self.up = False
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        if self._polling is not None:
            self._polling.cancel()
        for connection in self._connections:
            await connection.close()

    def _connect(self) -> Connection:
        made = Connection(self.address, self._settings, self._authorities)
        self._connections.append(made)
        self._free.append(made)
        return made

    async def _poll(self) -> None:
        with tracing.untraced():
            while True:
                if await self.is_healthy():
                    break
                await asyncio.sleep(_POLL_SECONDS)
        self.up = True
        _log.info("a node of Qdrant answers again", address=str(self.address))
