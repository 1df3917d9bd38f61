"""Checks of requests; each problem is an InvalidArgument that names the field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.chassis.errors import InvalidArgument

MAX_QUERY_BYTES = 8192
MAX_TEXT_BYTES = 262_144
"""Bytes of a text that a model stage takes: 32 for each token of a window of 8,192."""
MAX_ID_BYTES = 512
MAX_DOCUMENT_BYTES = 12 * 2**20
"""Bytes of a document's title and text; with metadata and vector it still fits into a message."""
MAX_METADATA_BYTES = 65_536

_CHUNK_ID = re.compile(r"(.+)##[1-9][0-9]*", re.DOTALL)
_VERSION = re.compile(r"(.+)-v([1-9]\d{0,8})", re.ASCII)


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


def chunk_id(document_id: str, number: int) -> str:
    """The id of a chunk of a document. No document has such an id but that of its first chunk."""
    return document_id if number == 1 else f"{document_id}##{number}"


def check_document_id(field: str, document_id: str) -> None:
    """Raise InvalidArgument for what cannot be the id of a document."""
    if not 1 <= len(document_id.encode()) <= MAX_ID_BYTES:
        raise InvalidArgument(field, f"must be 1 to {MAX_ID_BYTES} bytes long")
    if found := _CHUNK_ID.fullmatch(document_id):
        raise InvalidArgument(
            field, f"is that of a chunk of document {found[1]!r}; send the id of a document", reason="CHUNK_ID"
        )


def split_version(name: str) -> tuple[str, int]:
    """The collection and the number of a version's name; number 0 where it is not such a name."""
    found = _VERSION.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)


def check_collection(field: str, name: str) -> None:
    """Raise InvalidArgument for the name of a version, where only that of a collection will do."""
    collection, number = split_version(name)
    if number:
        raise InvalidArgument(
            field,
            f"{name!r} is the name of version {number} of {collection!r}, and cannot be that of a collection; choose "
            "a name that does not end with -v and a number",
            reason="VERSION_NAME",
        )


def check_content(field: str, title: str, text: str, metadata: Mapping[str, Message]) -> None:
    """Raise InvalidArgument for a document that has too much text or metadata to be handed on."""
    size = len(title.encode()) + len(text.encode())
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            f"{field}.text",
            f"and title are {size} bytes long; at most {MAX_DOCUMENT_BYTES} are taken",
            reason="TOO_LARGE",
        )
    size = _bytes_of(metadata.items())
    if size > MAX_METADATA_BYTES:
        raise InvalidArgument(
            f"{field}.metadata", f"is {size} bytes long; at most {MAX_METADATA_BYTES} are taken", reason="TOO_LARGE"
        )


def _bytes_of(metadata: Iterable[tuple[str, Message]]) -> int:
    return sum(len(name.encode()) + value.ByteSize() for name, value in metadata)


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
