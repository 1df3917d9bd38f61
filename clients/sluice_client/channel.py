"""A channel to a server, with the credentials that it asks for; calls have deadlines and ids."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from sluice_client.errors import SluiceError, error_from

ReplyT = TypeVar("ReplyT", bound=Message)
StubT = TypeVar("StubT")

_REQUEST_ID = "x-request-id"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for TLS, read when a client is opened.

    Without an authority the servers' certificates are checked by the authorities that gRPC brings. A certificate and
    its key are for servers that ask for one; both, or none of them.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError for one that cannot be read, ValueError for a certificate without its key."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key go together; give both, or none of them")
        authority, key, certificate = (
            file.read_bytes() if file else None for file in (self.authority, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(authority, key, certificate)


class Credentials(TypedDict, total=False):
    """Options of a client by which a server knows it."""

    tls: Tls | None
    """For a server that speaks TLS."""
    token: str | Callable[[], str] | None
    """A key or a token, sent as `authorization: Bearer TOKEN` with every call; or a function that returns it, called
    at each call and not to take long: for tokens that expire. Without TLS everybody on the way can read it."""
    metadata: Mapping[str, str]
    """More metadata of every call, by name in lower case."""


class Caller:
    """A caller of one server, used as `async with` on one loop."""

    def __init__(
        self,
        address: str,
        *,
        server: str,
        service: str,
        timeout: float,
        waits: bool = True,
        **credentials: Unpack[Credentials],
    ) -> None:
        """`server` is for errors; the health of `service` is watched; a busy server is waited for if it `waits`."""
        self.address = address
        self._server = f"{server} at {address}"
        self._service = service
        self._timeout = timeout
        self._waits = waits
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[Callable[[grpc.aio.Channel], Any], Any] = {}

    async def __aenter__(self) -> Self:
        self._channel = _open(self.address, self._service, self._credentials.get("tls"))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()
        self._channel = None
        self._stubs.clear()

    def _stub(self, kind: Callable[[grpc.aio.Channel], StubT]) -> StubT:
        if self._channel is None:
            raise RuntimeError(f"the client is not open; use it as `async with {type(self).__name__}(...) as client:`")
        if kind not in self._stubs:
            self._stubs[kind] = kind(self._channel)
        stub: StubT = self._stubs[kind]
        return stub

    def _metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        given = ((_REQUEST_ID, request_id), *self._credentials.get("metadata", {}).items())
        token = self._credentials.get("token")
        if token is None:
            return given
        return (*given, ("authorization", f"Bearer {token if isinstance(token, str) else token()}"))

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT],
        request: Message,
        timeout: float | None = None,  # of the call, for the server too
    ) -> ReplyT:
        """Send a request, again if a busy server says when and the time allows it. Raises SluiceError."""
        request_id = uuid.uuid4().hex
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        for attempt in count():
            try:
                left = end - time.monotonic()
                return await method(request, timeout=left, metadata=self._metadata(request_id))
            except grpc.aio.AioRpcError as error:
                found = error_from(error, self._server, request_id)
            pause = _pause(found, attempt) if self._waits else None
            if pause is None or pause >= end - time.monotonic():
                raise found from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _pages(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT],
        request: Any,
        timeout: float | None = None,  # of each call, for the server too
    ) -> AsyncIterator[ReplyT]:
        """Send a request for each page of a list, when needed."""
        while True:
            reply: Any = await self._call(method, request, timeout)
            yield reply
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def _stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Any, ReplyT],
        request: Message,
        timeout: float,  # of the call, for the server too
    ) -> AsyncGenerator[ReplyT, None]:
        """Send a request and yield the replies; closing the generator ends the call. Raises SluiceError."""
        request_id = uuid.uuid4().hex
        call = method(request, timeout=timeout, metadata=self._metadata(request_id))
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise error_from(error, self._server, request_id) from None
        finally:
            call.cancel()


def _pause(error: SluiceError, attempt: int) -> float | None:
    """Pause before a busy server is asked again, in seconds; None if it is not busy, or for good."""
    if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or error.retry_after is None:
        return None
    # Jitter keeps many callers from coming back at the same moment.
    backoff: float = 0.01 * 2 ** min(attempt, 8)
    return max(error.retry_after, backoff) * random.uniform(1, 1.5)  # noqa: S311  # no secret


def _open(address: str, service: str, tls: Tls | None) -> grpc.aio.Channel:
    """Open a channel to the replicas at an address. May raise OSError."""
    options: list[tuple[str, int | str]] = [
        # The server limits the size of its replies.
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # Replicas in turn, and only those that say SERVING: one that stops says so before it hangs up.
        (
            "grpc.service_config",
            json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": service}}),
        ),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 500),
        # The server is near; a proxy that the environment names for the web is not on the way to it.
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is not None:
        return grpc.aio.secure_channel(address, tls.credentials(), options=options)
    return grpc.aio.insecure_channel(address, options=options)
