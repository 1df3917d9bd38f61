"""A name server for one name: `dns://127.0.0.1:PORT/stage.test:50052` is a stage whose replicas come and go."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_TYPE_A = 1
_HEADER_BYTES = 12
# A compressed name: the one at the beginning of the question.
_SAME_NAME = b"\xc0\x0c"
_ANSWER_FLAGS = b"\x84\x00"


class NameServer(asyncio.DatagramProtocol):
    """Answers every question with all addresses, as a headless Service does, and counts the questions."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.asked = 0
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = _HEADER_BYTES
        while data[end]:
            end += data[end] + 1
        (kind,) = struct.unpack("!H", data[end + 1 : end + 3])
        question = data[_HEADER_BYTES : end + 5]
        found = self.addresses if kind == _TYPE_A else []
        self.asked += kind == _TYPE_A
        answers = b"".join(
            _SAME_NAME + struct.pack("!HHIH", _TYPE_A, 1, 1, 4) + socket.inet_aton(address) for address in found
        )
        header = data[:2] + _ANSWER_FLAGS + struct.pack("!HHHH", 1, len(found), 0, 0)
        assert self._transport is not None
        self._transport.sendto(header + question + answers, addr)


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    """Serve on loopback."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
