"""Calls from one process to a stage: deadline, request id and trace go along; failures come back as `SluiceError`."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import status, tracing
from services.common.errors import SluiceError
from services.common.interceptors import CALLER, REQUEST_ID, caller, request_id
from services.common.timing import remaining

ReplyT = TypeVar("ReplyT", bound=Message)


class StageChannel:
    """One channel to one stage."""

    def __init__(self, address: str, *, max_message_mib: int = 16) -> None:
        message_bytes = max_message_mib * 2**20
        self.address = address
        self.channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", message_bytes),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.lb_policy_name", "round_robin"),
                ("grpc.initial_reconnect_backoff_ms", 200),
                ("grpc.max_reconnect_backoff_ms", 5_000),
                # Stages are near; a proxy that the environment names for the web is not on the way to them.
                ("grpc.enable_http_proxy", 0),
            ],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT],
        request: Message,
        *,
        deadline: float,
    ) -> ReplyT:
        """One call. `deadline` is a moment on the monotonic clock, and every call has one.

        Raises the `SluiceError` that the stage answered with; a stage that cannot be reached is Unavailable.
        """
        timeout = remaining(deadline)
        name: bytes | str = method._method  # type: ignore[attr-defined]  # the stub knows its name, and has no public way to say it
        path = name.decode() if isinstance(name, bytes) else name
        with tracing.client_span(path) as (span, trace_metadata):
            code = grpc.StatusCode.CANCELLED
            metadata = ((REQUEST_ID, request_id.get()), (CALLER, caller.get()), *trace_metadata)
            pending = method(request, timeout=timeout, metadata=metadata)
            try:
                reply = await pending
                code = grpc.StatusCode.OK
                return reply
            except grpc.aio.AioRpcError as error:
                code = error.code()
                raise status.error_from(error) from None
            except asyncio.CancelledError:
                pending.cancel()
                raise
            finally:
                tracing.end_with_code(span, code.name)

    async def health(self, service: str, *, deadline: float) -> str | None:
        """Why the stage is not serving, or None when it is."""
        check = cast(Any, health_pb2_grpc.HealthStub(self.channel)).Check
        try:
            reply: health_pb2.HealthCheckResponse = await self.call(
                check, health_pb2.HealthCheckRequest(service=service), deadline=deadline
            )
        except SluiceError as error:
            return f"{status.code_of(error).name}: {error.message}"
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            return None
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
