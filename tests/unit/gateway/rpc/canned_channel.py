"""A channel that answers requests from a function and records them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc
from google.protobuf.message import Message

from services.chassis.client import StageChannel


class CannedChannel:
    """Stands for a `StageChannel`; no call leaves the process."""

    def __init__(self, answer: Callable[[Any], Message]) -> None:
        self.channel = grpc.aio.insecure_channel("127.0.0.1:1")
        self.requests: list[Any] = []
        self._answer = answer

    async def call(self, _method: object, request: Message, *, deadline: float) -> Message:
        self.requests.append(request)
        return self._answer(request)

    def as_channel(self) -> StageChannel:
        return cast(StageChannel, self)
