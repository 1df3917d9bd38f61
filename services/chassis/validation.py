"""Checks of requests; each problem is an InvalidArgument that names the field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.chassis.errors import InvalidArgument

MAX_QUERY_BYTES = 8192


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
    """The error for bytes that do not decode as `request_type`.

    It names the first field that is not UTF-8. protobuf refuses a message with a broken `string` field without naming
    it. As a message without fields, the same bytes decode into unknown fields, whose content can be looked at.
    """
    described = cast(Descriptor, request_type.DESCRIPTOR)
    try:
        path = next(_broken_text(described, raw), None)
    except DecodeError:
        path = None
    if path is None:
        return InvalidArgument("request", f"is not a valid {described.full_name} message")
    return InvalidArgument(path.lstrip("."), "is not valid UTF-8; encode text as UTF-8", reason="NOT_UTF8")


def _broken_text(kind: Descriptor, raw: bytes, path: str = "") -> Iterator[str]:
    seen: Counter[int] = Counter()
    for number, data in _parts(raw):
        field = kind.fields_by_number.get(number)
        if field is None or not isinstance(data, bytes):
            continue
        here = path if _is_entry(kind) else f"{path}.{field.name}"
        if field.is_repeated:
            key = dict(_parts(data)).get(1) if _is_entry(field.message_type) else None
            here += f".{key.decode(errors='replace')}" if isinstance(key, bytes) else f"[{seen[number]}]"
            seen[number] += 1
        if field.message_type is not None:
            yield from _broken_text(field.message_type, data, here)
        elif field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(data):
            yield here


def _parts(raw: bytes) -> Iterator[tuple[int, object]]:
    for part in UnknownFieldSet(Empty.FromString(raw)):  # type: ignore[attr-defined]  # missing in its stubs
        yield part.field_number, part.data


def _is_entry(kind: Descriptor | None) -> bool:
    """True for the generated message of an entry of a map."""
    return kind is not None and kind.GetOptions().map_entry


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
