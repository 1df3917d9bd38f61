"""Clients in a process of their own, the same for our stages and for other servers.

They share the machine with the server, so they do as little as possible: requests are serialized before the clock
starts, and replies are taken as bytes. What the clients themselves cost is in the report (`cpu_seconds`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

import grpc

OK = "OK"
_CLIENTS_A_CHANNEL = 8
_CONNECT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A call of a server."""

    protocol: Literal["grpc", "http"]
    address: str
    """`host:port`."""
    path: str
    """The method's full name, or the path to post JSON to."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Of each call by gRPC."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as bytes."""

    payload: bytes
    rows: int
    """Texts, or passages, in it."""


class Sample(NamedTuple):
    """A call that ended, on the monotonic clock, which all processes of a machine share."""

    ended: float
    seconds: float
    rows: int
    code: str


@dataclass(slots=True)
class Report:
    """Calls as the clients saw them."""

    started: float
    """End of the warm-up."""
    ended: float
    samples: list[Sample] = field(default_factory=list)
    """Every call that ended in between."""
    cpu_seconds: float = 0.0
    """Processor time of the clients, warm-up included."""
    reply: bytes = b""
    """One of the replies, to look into."""
    ran_dry: bool = False
    """True if there were too few different calls for the time."""

    def rate(self, since: float | None = None, until: float | None = None) -> float:
        """Rows a second that were answered well, of all the time or a part of it."""
        since = self.started if since is None else since
        until = self.ended if until is None else until
        rows = sum(sample.rows for sample in self.samples if sample.code == OK and since < sample.ended <= until)
        return rows / (until - since)

    def milliseconds(self, code: str = OK) -> list[float]:
        """Durations of the calls that ended with this code."""
        return [sample.seconds * 1000 for sample in self.samples if sample.code == code]

    def codes(self) -> dict[str, int]:
        """Number of calls by code."""
        return dict(Counter(sample.code for sample in self.samples))


class LoadProcess:
    """A process that runs one load at a time. A context manager."""

    def __init__(self) -> None:
        self._executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __enter__(self) -> Self:
        self._executor.submit(_ready).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def closed_loop(
        self,
        endpoint: Endpoint,
        calls: Sequence[Call],
        *,
        concurrency: int,
        seconds: float,
        warm_up_seconds: float = 0.5,
    ) -> Future[Report]:
        """A number of clients, each of which sends its next call when the last one is answered."""
        return self._executor.submit(_closed_loop, endpoint, calls, concurrency, seconds, warm_up_seconds)

    def every(self, endpoint: Endpoint, calls: Sequence[Call], *, concurrency: int) -> Future[Report]:
        """Send all calls, from a number of clients."""
        return self._executor.submit(_closed_loop, endpoint, calls, concurrency, None, 0.0)

    def open_loop(
        self,
        endpoint: Endpoint,
        calls: Sequence[Call],
        *,
        per_second: float,
        seconds: float,
        timeout: float | None = None,
        seed: int = 0,
    ) -> Future[Report]:
        """Calls at random moments, whether or not earlier ones are answered; timed from when they were due."""
        return self._executor.submit(_open_loop, endpoint, calls, per_second, seconds, timeout, seed)


def _ready() -> None:
    """Return when the process has imported all it needs."""


class _Connection(Protocol):
    async def call(self, payload: bytes, timeout: float | None) -> bytes:
        """The reply; raises _FailedError."""


class _FailedError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class _GrpcConnection:
    """One connection, for several calls at once."""

    def __init__(self, channel: grpc.aio.Channel, endpoint: Endpoint) -> None:
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(endpoint.path)
        self._metadata = endpoint.metadata

    async def call(self, payload: bytes, timeout: float | None) -> bytes:
        try:
            return await self._call(payload, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _FailedError(error.code().name) from None


class _HttpConnection:
    """One connection that is kept alive, for one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: Endpoint) -> None:
        self._reader = reader
        self._writer = writer
        self._head = (
            f"POST {endpoint.path} HTTP/1.1\r\nhost: {endpoint.address}\r\ncontent-type: application/json\r\n"
            "content-length: "
        ).encode()

    async def call(self, payload: bytes, timeout: float | None) -> bytes:
        async with asyncio.timeout(timeout):
            self._writer.write(self._head + str(len(payload)).encode() + b"\r\n\r\n" + payload)
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, _, fields = head.lower().partition(b"\r\n")
            length = fields.partition(b"content-length:")[2].partition(b"\r\n")[0]
            body = await self._reader.readexactly(int(length))
        if b" 200" not in status:
            raise _FailedError(f"HTTP {status.split()[1].decode()}")
        return body


async def _connected(endpoint: Endpoint, clients: int, exits: AsyncExitStack) -> list[_Connection]:
    """A connection for each client. Of gRPC several clients share one, as in a process that calls a stage."""
    if endpoint.protocol == "http":
        host, port = endpoint.address.split(":")
        connections: list[_Connection] = []
        for _ in range(clients):
            reader, writer = await asyncio.open_connection(host, int(port))
            exits.callback(writer.close)
            connections.append(_HttpConnection(reader, writer, endpoint))
        return connections
    shared: list[_Connection] = []
    for _ in range(-(-clients // _CLIENTS_A_CHANNEL)):
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ]
        channel = await exits.enter_async_context(grpc.aio.insecure_channel(endpoint.address, options=options))
        async with asyncio.timeout(_CONNECT_SECONDS):
            await channel.channel_ready()
        shared.append(_GrpcConnection(channel, endpoint))
    return [shared[client % len(shared)] for client in range(clients)]


async def _sample(connection: _Connection, call: Call, due: float, timeout: float | None, report: Report) -> None:
    code = OK
    try:
        report.reply = await connection.call(call.payload, timeout)
    except _FailedError as error:
        code = error.code
    now = time.monotonic()
    report.samples.append(Sample(now, now - due, call.rows, code))


def _closed_loop(
    endpoint: Endpoint, calls: Sequence[Call], concurrency: int, seconds: float | None, warm_up_seconds: float
) -> Report:
    async def run(report: Report) -> None:
        waiting: Iterator[Call] = iter(calls)

        async def client(connection: _Connection) -> None:
            for call in waiting:
                await _sample(connection, call, time.monotonic(), None, report)
            report.ran_dry = True

        async with AsyncExitStack() as exits:
            connections = await _connected(endpoint, concurrency, exits)
            clients = [asyncio.create_task(client(connection)) for connection in connections]
            report.started = time.monotonic() + warm_up_seconds
            if seconds is None:
                done, pending = await asyncio.wait(clients)
            else:
                timeout = warm_up_seconds + seconds
                done, pending = await asyncio.wait(clients, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            report.ended = time.monotonic()
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for task in done:
                task.result()

    return _measured(run)


def _open_loop(
    endpoint: Endpoint, calls: Sequence[Call], per_second: float, seconds: float, timeout: float | None, seed: int
) -> Report:
    async def run(report: Report) -> None:
        chance = random.Random(seed)
        async with AsyncExitStack() as exits:
            connections = await _connected(endpoint, _CLIENTS_A_CHANNEL, exits)
            report.started = due = time.monotonic()
            async with asyncio.TaskGroup() as running:
                for number, call in enumerate(calls):
                    due += chance.expovariate(per_second)
                    if due > report.started + seconds:
                        break
                    await asyncio.sleep(due - time.monotonic())
                    connection = connections[number % len(connections)]
                    running.create_task(_sample(connection, call, due, timeout, report))
                else:
                    report.ran_dry = True
            report.ended = time.monotonic()

    return _measured(run)


def _measured(run: Callable[[Report], object]) -> Report:
    report = Report(0.0, 0.0)
    gc.collect()
    gc.disable()
    started = time.process_time()
    with contextlib.closing(asyncio.Runner()) as runner:
        runner.run(run(report))  # type: ignore[arg-type]
    report.cpu_seconds = time.process_time() - started
    gc.enable()
    report.samples = [sample for sample in report.samples if report.started < sample.ended <= report.ended]
    return report
