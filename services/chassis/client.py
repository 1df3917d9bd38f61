"""Calls to a stage, with deadline, request id and trace. Failures come back as `SluiceError`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from functools import cache, partial
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis import status, tracing
from services.chassis.breaker import NOT_SERVING, STAGE_REFUSES, Breaker
from services.chassis.errors import SluiceError, Unauthenticated, Unavailable
from services.chassis.interceptors import CALLER, REQUEST_ID, caller, request_id
from services.chassis.timing import remaining
from services.chassis.tls import RenewedChannel

ReplyT = TypeVar("ReplyT", bound=Message)

# gRPC's words for a channel whose replicas are all there and say that they do not serve.
_UNHEALTHY = "backend unhealthy"
_HEALTH_SECONDS = 1.0


def _service_config(service: str, retries: bool) -> str:
    """The gRPC service config: replicas in turn, only those that are SERVING, and retries.

    UNAVAILABLE alone is retried, with jitter, within the deadline. The throttle stops retries while more than about
    one call in ten fails, so that callers do not make an outage worse.
    """
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": service},
    }
    if retries:
        policy = {
            "maxAttempts": 3,
            "initialBackoff": "0.02s",
            "maxBackoff": "0.2s",
            "backoffMultiplier": 3,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
        config["methodConfig"] = [{"name": [{"service": service}], "retryPolicy": policy}]
    return json.dumps(config)


def _metadata() -> tuple[tuple[str, str], ...]:
    """Identify the request, its caller and its trace."""
    return ((REQUEST_ID, request_id.get()), (CALLER, caller.get()), *tracing.headers().items())


def _about_stage(error: SluiceError, address: str) -> SluiceError:
    """The error as our caller should see it: that a stage does not take us is no fault of theirs."""
    if isinstance(error, Unauthenticated) or error.reason in ("PERMISSION_DENIED", "ACCESS_UNREADABLE"):
        return Unavailable(
            f"the stage at {address} does not take calls of this one: {error.message}", reason=STAGE_REFUSES
        )
    return error


@cache
def _method_of(request: Descriptor) -> str:
    """Full name of the RPC of a request type. Each RPC has its own (buf lint)."""
    return next(
        (
            f"{service.full_name}/{method.name}"
            for service in request.file.services_by_name.values()
            for method in service.methods
            if method.input_type is request
        ),
        request.full_name,
    )


class StageChannel:
    """One channel to all replicas of a stage.

    The address `dns:///embedder:50052` stands for each address of the name. `service` is the full name of the stage's
    gRPC service: its replicas are called in turn, those that are not SERVING are skipped, and UNAVAILABLE is retried,
    unless `retries` is off: a call that costs money may have been paid for.
    `breaker` guards every call, and asks the stage for its health while it is open. `credentials` are those of
    `services.chassis.tls`; without them the connection is plain.
    """

    def __init__(
        self,
        address: str,
        *,
        service: str = "",
        retries: bool = True,
        breaker: Breaker | None = None,
        max_message_mib: int = 16,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        message_bytes = max_message_mib * 2**20
        self.address = address
        self._breaker = breaker
        if breaker is not None:
            breaker.healthy = partial(self._serves, service)
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            *([("grpc.service_config", _service_config(service, retries))] if service else []),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 500),
            # A stage that starts again elsewhere has another address; gRPC would look it up twice a minute.
            ("grpc.dns_min_time_between_resolutions_ms", 1000),
            # A proxy that the environment names is for the web, and not for stages.
            ("grpc.enable_http_proxy", 0),
        ]
        self.channel: grpc.aio.Channel = (
            RenewedChannel(lambda found: grpc.aio.secure_channel(address, found, options=options), credentials)
            if credentials
            else grpc.aio.insecure_channel(address, options=options)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._breaker is not None:
            self._breaker.close()
        await self.channel.close()

    def renew(self, credentials: grpc.ChannelCredentials) -> None:
        """Use other credentials from the next call on, where it has some."""
        if isinstance(self.channel, RenewedChannel):
            self.channel.renew(credentials)

    async def call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT], request: Message, *, deadline: float
    ) -> ReplyT:
        """Send a request and return the reply. `deadline` is on the monotonic clock.

        Raise the `SluiceError` that the stage answered with; a stage that cannot be reached is Unavailable.
        """
        timeout = remaining(deadline)
        if self._breaker is None:
            return await self._send(method, request, timeout)
        with self._breaker.attempt(given_seconds=timeout):
            return await self._send(method, request, timeout)

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Any, ReplyT], request: Message, *, deadline: float
    ) -> AsyncGenerator[ReplyT, None]:
        """Send a request and yield the replies; closing the generator ends the call. Raise as `call` does.

        No breaker counts it: long work that fails says little of the calls beside it.
        """
        name = _method_of(request.DESCRIPTOR)
        with tracing.client_span(name, {"rpc.system.name": "grpc", "rpc.method": name}) as span:
            code = grpc.StatusCode.CANCELLED
            pending = method(request, timeout=remaining(deadline), metadata=_metadata())
            try:
                async for reply in pending:
                    yield reply
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                code = error.code()
                found = _about_stage(status.error_from(error), self.address)
                raise found from found.__cause__
            finally:
                pending.cancel()
                tracing.end_with_code(span, code.name)

    async def _send(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT], request: Message, timeout: float
    ) -> ReplyT:
        name = _method_of(request.DESCRIPTOR)
        with tracing.client_span(name, {"rpc.system.name": "grpc", "rpc.method": name}) as span:
            code = grpc.StatusCode.CANCELLED
            pending = method(request, timeout=timeout, metadata=_metadata())
            try:
                reply = await pending
                code = grpc.StatusCode.OK
                return reply
            except grpc.aio.AioRpcError as error:
                code = error.code()
                found = _about_stage(status.error_from(error), self.address)
                if code is grpc.StatusCode.UNAVAILABLE and _UNHEALTHY in found.message:
                    found.reason = NOT_SERVING
                raise found from found.__cause__
            except asyncio.CancelledError:
                pending.cancel()
                raise
            finally:
                tracing.end_with_code(span, code.name)

    async def _serves(self, service: str) -> bool:
        return await self.health(service, deadline=time.monotonic() + _HEALTH_SECONDS) is None

    async def health(self, service: str, *, deadline: float) -> str | None:
        """The reason why the stage is not serving, or None if it is."""
        check = cast(Any, health_pb2_grpc.HealthStub(self.channel)).Check
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            reply: health_pb2.HealthCheckResponse = await self._send(check, request, remaining(deadline))
        except SluiceError as error:
            return f"{status.code_of(error).name}: {error.message}"
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            return None
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
