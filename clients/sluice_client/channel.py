"""How a server is talked to: one channel, a deadline for every call, one kind of error."""

from __future__ import annotations

import json
import uuid
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from sluice_client.errors import error_from
from sluice_client.tls import Tls

ReplyT = TypeVar("ReplyT", bound=Message)

_REQUEST_ID = "x-request-id"


def open_channel(address: str, service: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel to the replicas behind an address. It belongs to the event loop that runs when it is made.

    Raises OSError where one of the files of `tls` cannot be read.
    """
    options: list[tuple[str, int | str]] = [
        # The server limits what it sends.
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # Replicas in turn, and only those that say SERVING: one that stops says so before it hangs up.
        (
            "grpc.service_config",
            json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": service}}),
        ),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A server of ours is near; a proxy that the environment names for the web is not on the way to it.
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is not None:
        return grpc.aio.secure_channel(address, tls.credentials(), options=options)
    return grpc.aio.insecure_channel(address, options=options)


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT], request: Message, *, timeout: float, server: str
) -> ReplyT:
    """The reply to a request. `server` names whom it is sent to, for people. Raises SluiceError."""
    request_id = uuid.uuid4().hex
    try:
        return await method(request, timeout=timeout, metadata=((_REQUEST_ID, request_id),))
    except grpc.aio.AioRpcError as error:
        raise error_from(error, server, request_id) from None
