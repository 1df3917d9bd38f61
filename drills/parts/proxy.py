"""A TCP proxy on loopback with the faults of a network, in each direction, also while connections live."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

CHUNK = 64 * 1024
# Most chunks under way in a connection: beyond it the sender waits, as for a full window.
WINDOW = 256
POLL_SECONDS = 0.005


@dataclass
class Way:
    """One direction of all connections. Each field may be changed at any time, and holds from then on."""

    latency: float = 0.0
    """Delay of every byte in seconds. It does not limit the bandwidth."""
    jitter: float = 0.0
    """Most seconds of further delay, drawn for each chunk. The order stays."""
    blackhole: bool = False
    """True if nothing gets through; bytes sent meanwhile arrive once it is lifted, as by TCP's retransmissions."""
    bytes_per_second: float = 0.0
    """Bandwidth; 0 is no limit."""
    slice_bytes: int = 0
    """Largest write; 0 is no limit. With 1 it is a byte a packet."""
    slice_pause: float = 0.0
    """Seconds after each write: with small slices, a slow drip."""
    bytes: int = field(default=0, init=False)
    """Bytes delivered so far."""


class Proxy:
    """`async with Proxy("127.0.0.1:50052") as proxy:` listens on `proxy.address`. The target need not be up yet."""

    def __init__(
        self,
        target: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sleep` makes the delays, and `clock` gives the time, both in seconds."""
        self._target = target
        self._timing = _Time(sleep, clock)
        self.up = Way()
        """From client to server."""
        self.down = Way()
        """From server to client."""
        self.connections = 0
        """Connections taken so far."""
        self._live: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Address that it listens on."""
        return f"127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._live)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self) -> None:
        """Listen; on the same port as before if there was one."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    def reset(self) -> int:
        """Break all connections on both sides with RST; return their number."""
        broken = list(self._live)
        for connection in broken:
            connection.reset()
        return len(broken)

    def half_close(self) -> None:
        """Send FIN to all clients, and still accept their bytes."""
        for connection in self._live:
            connection.half_close()

    def heal(self) -> None:
        """Remove all faults; broken connections stay broken."""
        for way in (self.up, self.down):
            handed_on = way.bytes
            way.__init__()  # type: ignore[misc]  # the very object that the connections hold
            way.bytes = handed_on

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            server_reader, server_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            _reset(writer)
            return
        connection = _Connection(writer, server_writer)
        self._live.add(connection)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, server_writer, self.up, self._timing))
                pumps.create_task(_pump(server_reader, writer, self.down, self._timing))
        except* (OSError, RuntimeError):  # the second: there were bytes for an end that was half closed
            connection.reset()
        finally:
            self._live.discard(connection)
            for end in (writer, server_writer):
                end.close()


@dataclass(frozen=True)
class _Time:
    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float]


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def reset(self) -> None:
        for end in (self.client, self.server):
            _reset(end)

    def half_close(self) -> None:
        if self.client.can_write_eof() and not self.client.is_closing():
            self.client.write_eof()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way, timing: _Time) -> None:
    """Deliver one direction, to its end."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW)

    async def take() -> None:
        chunk = b"first"
        while chunk:
            chunk = await reader.read(CHUNK)
            late = way.latency + random.uniform(0, way.jitter)
            await under_way.put((timing.clock() + late, chunk))

    async with asyncio.TaskGroup() as halves:
        halves.create_task(take())
        while True:
            due, chunk = await under_way.get()
            await timing.sleep(max(0.0, due - timing.clock()))
            if not chunk:
                break
            await _deliver(chunk, writer, way, timing)
    if writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()


async def _deliver(chunk: bytes, writer: asyncio.StreamWriter, way: Way, timing: _Time) -> None:
    while chunk:
        while way.blackhole:
            await timing.sleep(POLL_SECONDS)
        size = way.slice_bytes or (max(1, int(way.bytes_per_second / 50)) if way.bytes_per_second else len(chunk))
        piece, chunk = chunk[:size], chunk[size:]
        if writer.transport.is_closing():
            raise ConnectionResetError
        writer.write(piece)
        await writer.drain()
        way.bytes += len(piece)
        pause = way.slice_pause + (len(piece) / way.bytes_per_second if way.bytes_per_second else 0.0)
        if pause:
            await timing.sleep(pause)


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    sock = writer.get_extra_info("socket")
    # Lingering for no time at all makes the kernel send RST instead of FIN.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
