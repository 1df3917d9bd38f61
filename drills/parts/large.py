"""The largest request of every RPC, and a process that sends many of them at once.

`python -m drills.parts.large ADDRESS PATH COUNT FILE` sends the content of a file so many times, each on a connection
of its own, and prints how the calls ended, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from deploy.local.paths import ROOT

LARGEST_BYTES = 15 * 2**20
_TEXT_BYTES = 2_000
_CALL_SECONDS = 30.0


def methods() -> dict[str, tuple[str, type[Message]]]:
    """Every RPC by its path: its stage, and the class of its request."""
    found = {}
    for file in sorted(ROOT.glob("protos/gen/sluice/*/v1/*_pb2.py")):
        described = import_module(".".join(file.relative_to(ROOT / "protos" / "gen").with_suffix("").parts)).DESCRIPTOR
        for service in described.services_by_name.values():
            for method in service.methods:
                found[f"/{service.full_name}/{method.name}"] = file.parts[-3], GetMessageClass(method.input_type)
    return found


def filled(request: type[Message], size: int = LARGEST_BYTES) -> bytes:
    """A request of about this size, with content in every field that can hold much, in equal parts."""
    message = request()
    described: Any = request.DESCRIPTOR
    fields = [field for field in described.fields if _holds_much(field)]
    for field in fields:
        _fill(message, field, size // len(fields))
    return message.SerializeToString()


def _holds_much(field: FieldDescriptor, depth: int = 0) -> bool:
    if field.is_repeated or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return True
    return (
        field.message_type is not None
        and depth < 3
        and any(_holds_much(inner, depth + 1) for inner in field.message_type.fields)
    )


def _fill(message: Any, field: FieldDescriptor, size: int) -> None:
    inner = field.message_type
    if field.is_repeated:
        whole = type(message)()
        if inner is not None and inner.GetOptions().map_entry:
            return
        one = 1 if inner is None and field.cpp_type != FieldDescriptor.CPPTYPE_STRING else _TEXT_BYTES
        value = _small(inner) if inner is not None else "w " * (one // 2) if field.type == field.TYPE_STRING else 1
        value = b"x" * one if field.type == field.TYPE_BYTES else value
        getattr(whole, field.name).append(value)
        getattr(message, field.name).extend(getattr(whole, field.name)[:1] * (size // max(1, whole.ByteSize())))
    elif inner is not None:
        parts = [each for each in inner.fields if _holds_much(each)]
        for part in parts:
            _fill(getattr(message, field.name), part, size // len(parts))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        setattr(message, field.name, b"x" * size if field.type == field.TYPE_BYTES else "w " * (size // 2))


def _small(described: Descriptor, depth: int = 0) -> Message:
    """A message with something in its first fields."""
    message = GetMessageClass(described)()
    for field in described.fields:
        if field.is_repeated or field.containing_oneof is not None:
            continue
        if field.type == field.TYPE_STRING:
            setattr(message, field.name, "w " * 100)
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, b"x" * 200)
        elif field.message_type is not None and depth < 2:
            getattr(message, field.name).CopyFrom(_small(field.message_type, depth + 1))
    return message


async def send_all(address: str, path: str, count: int, raw: bytes, folder: Path) -> Counter[str]:
    """Send a request so many times at once, from another process; how the calls ended."""
    file = folder / "request"
    file.write_bytes(raw)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drills.parts.large", address, path, str(count), str(file), stdout=asyncio.subprocess.PIPE
    )
    said, _errors = await process.communicate()
    return Counter(json.loads(said))


async def _send(address: str, path: str, raw: bytes) -> str:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_stream(path)(raw, timeout=_CALL_SECONDS)
        try:
            async for _reply in call:
                break
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def main(address: str, path: str, count: int, file: Path) -> None:
    """The process."""
    raw = await asyncio.to_thread(file.read_bytes)
    ended = Counter(await asyncio.gather(*(_send(address, path, raw) for _ in range(count))))
    print(json.dumps(ended))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
