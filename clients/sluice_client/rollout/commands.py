"""A caller whose commands have an author, a reason and an id, so that repeating them does no harm."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Unpack

import grpc
from google.protobuf.message import Message

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice_client.channel import Caller, Credentials, ReplyT
from sluice_client.errors import SluiceError
from sluice_client.messages import fill

_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2


class Commanding(Caller):
    """A caller of a rollout service."""

    def __init__(
        self, address: str, *, service: str, actor: str, timeout: float, **credentials: Unpack[Credentials]
    ) -> None:
        super().__init__(address, server="the rollout service", service=service, timeout=timeout, **credentials)
        self._actor = actor

    def _command(self, reason: str) -> pb.Command:
        return fill(pb.Command(command_id=uuid.uuid4().hex), "command", actor=self._actor, reason=reason)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT],
        request: Message,
        timeout: float | None = None,  # of the call, for the server too
    ) -> ReplyT:
        """Send a request, and repeat it without an answer: commands have ids."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return await super()._call(method, request, timeout)
            except SluiceError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        return await super()._call(method, request, timeout)
