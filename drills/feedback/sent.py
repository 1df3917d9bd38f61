"""Requests on their way from who makes them to who sends them: a file of lengths and bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_LENGTH = struct.Struct("<I")


def write(requests: Iterable[bytes], file: Path) -> None:
    """Write requests, in their order."""
    with file.open("wb") as out:
        for raw in requests:
            out.write(_LENGTH.pack(len(raw)))
            out.write(raw)


def read(file: Path) -> Iterator[bytes]:
    """Read them again."""
    with file.open("rb") as source:
        while length := source.read(_LENGTH.size):
            yield source.read(*_LENGTH.unpack(length))
