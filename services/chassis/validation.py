"""Checks of requests; each problem is an InvalidArgument that names the field."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from services.chassis.errors import InvalidArgument

MAX_QUERY_BYTES = 8192
_TWIN_OF_STRING = "TwinOfString"


def check_text(field: str, text: str, most_bytes: int) -> None:
    """Raise InvalidArgument if a text is blank or longer than `most_bytes` in UTF-8."""
    if not text or text.isspace():
        raise InvalidArgument(field, "is empty")
    size = len(text.encode())
    if size > most_bytes:
        raise InvalidArgument(field, f"is {size} bytes long; at most {most_bytes} are taken")


def check_count(field: str, count: int, most: int) -> None:
    """Raise InvalidArgument unless 1 <= count <= most."""
    if not 1 <= count <= most:
        raise InvalidArgument(field, f"must hold between 1 and {most} entries, not {count}")


def undecodable(request_type: type[Message], raw: bytes) -> InvalidArgument:
    """The error for bytes that do not decode as `request_type`, naming the first field that is not UTF-8.

    protobuf refuses a message with a broken `string` field without naming it. A twin of the message type, with every
    `string` turned into `bytes`, decodes the same bytes and shows the field.
    """
    try:
        # mypy takes the class of a message to be as unhashable as a message.
        twin = _twin(request_type).FromString(raw)  # type: ignore[arg-type]
    except DecodeError:
        return InvalidArgument("request", f"is not a valid {request_type.DESCRIPTOR.full_name} message")
    path = next(_broken_text(twin), "request")
    return InvalidArgument(path, "is not valid UTF-8; encode text as UTF-8", reason="NOT_UTF8")


def _broken_text(twin: Message, prefix: str = "") -> Iterator[str]:
    for field, value in twin.ListFields():
        for path, item in _items(f"{prefix}{field.name}", value, repeated=field.is_repeated):
            if isinstance(item, Message):
                yield from _broken_text(item, f"{path}.")
            elif field.json_name.startswith(_TWIN_OF_STRING) and not _is_utf8(item):
                yield path


def _items(path: str, value: Any, *, repeated: bool) -> Iterator[tuple[str, Any]]:
    if not repeated:
        yield path, value
    elif hasattr(value, "items"):
        yield from ((f"{path}.{key}", item) for key, item in value.items())
    else:
        yield from ((f"{path}[{position}]", item) for position, item in enumerate(value))


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def _twin(request_type: type[Message]) -> type[Message]:
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: Any) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        for message in proto.message_type:
            _strings_to_bytes(message)
        pool.Add(proto)

    add(request_type.DESCRIPTOR.file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(request_type.DESCRIPTOR.full_name))


def _strings_to_bytes(message: descriptor_pb2.DescriptorProto) -> None:
    for nested in message.nested_type:
        # The key of a map cannot be bytes; a broken key is reported as a broken request.
        if not nested.options.map_entry:
            _strings_to_bytes(nested)
    for number, field in enumerate(message.field):
        if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
            field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
            # Marks the twins; a field that was bytes from the start may hold anything.
            field.json_name = f"{_TWIN_OF_STRING}{number}"
