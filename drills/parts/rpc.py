"""One RPC as drills know it: a well-formed request, and the properties of its answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True)
class Rpc:
    """One method, known by its requests: one that is well-formed, and what an OK must mean."""

    valid: Message
    sense: Callable[[Any, Any], bool]
    """True if the reply is one that this request may get; asked of answers with OK."""

    @cached_property
    def method(self) -> MethodDescriptor:
        """The method whose requests these are."""
        asked = self.valid.DESCRIPTOR
        return next(method for method in methods_of(asked.file) if method.input_type is asked)

    @property
    def stage(self) -> str:
        """The stage whose method it is."""
        return str(self.method.containing_service.file.package).split(".")[1]

    async def call(self, channel: grpc.aio.Channel, raw: bytes) -> Message:
        """The answer to these bytes, or the first of a stream; an empty one for a stream that ends without any."""
        path = f"/{self.method.containing_service.full_name}/{self.method.name}"
        reply: Any = GetMessageClass(self.method.output_type)
        if not self.method.server_streaming:
            unary: Any = channel.unary_unary(path, response_deserializer=reply.FromString)
            answer: Message = await unary(raw, timeout=20)
            return answer
        stream: Any = channel.unary_stream(path, response_deserializer=reply.FromString)(raw, timeout=20)
        async with aclosing(aiter(stream)) as answers:
            first: Message = await anext(answers, reply())
            return first


def methods_of(file: FileDescriptor) -> list[MethodDescriptor]:
    """Methods of a proto file."""
    return [method for service in file.services_by_name.values() for method in service.methods]
