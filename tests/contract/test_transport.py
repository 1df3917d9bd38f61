"""Limits of connections, spoken to by hand where no gRPC client would do that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, RemoteSettingsChanged
from h2.settings import SettingCodes
from prometheus_client import CollectorRegistry

from services.chassis.client import StageChannel
from services.chassis.metrics import ServerMetrics
from services.chassis.server import serving
from services.chassis.settings import StageSettings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from tests.contract.echo import echo_stage


async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
    return expander_pb2.ExpandQueryResponse()


@asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[int]:
    """The port of a stage with these limits."""
    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0, shutdown_grace_seconds=0.5, **limits)
    async with serving(echo_stage(fine), settings, ServerMetrics(CollectorRegistry())) as server:
        yield server.port


class Spoken:
    """A connection of which each frame is made by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.http = H2Connection(H2Configuration(client_side=True))
        self.http.initiate_connection()

    async def until(self, wanted: Callable[[Any], bool], seconds: float = 5.0) -> Any:
        """Send what was said, and read until an event is wanted; None if the connection ends before."""
        async with asyncio.timeout(seconds):
            while True:
                if data := self.http.data_to_send():
                    self._writer.write(data)
                    await self._writer.drain()
                received = await self._reader.read(65_536)
                for event in self.http.receive_data(received) if received else ():
                    if wanted(event):
                        return event
                if not received:
                    return None


@asynccontextmanager
async def spoken(port: int) -> AsyncIterator[Spoken]:
    """A connection to a stage."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Spoken(reader, writer)
    finally:
        writer.close()


async def expand(port: int, metadata: tuple[tuple[str, str], ...] = ()) -> None:
    async with StageChannel(f"127.0.0.1:{port}") as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        await stub.ExpandQuery(expander_pb2.ExpandQueryRequest(query="anything"), timeout=5, metadata=metadata)


async def test_the_calls_of_a_connection_are_bounded_and_it_is_told_so() -> None:
    async with served(max_connection_calls=7) as port, spoken(port) as connection:
        told = await connection.until(lambda event: isinstance(event, RemoteSettingsChanged))
        assert told.changed_settings[SettingCodes.MAX_CONCURRENT_STREAMS].new_value == 7


async def test_headers_that_are_too_large_are_refused_and_those_below_the_limit_never() -> None:
    async with served(max_metadata_kib=8) as port:
        for _ in range(20):
            await expand(port, (("x-large", "a" * 7_000),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await expand(port, (("x-large", "a" * 9_000),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await expand(port)


async def test_a_connection_without_calls_is_closed() -> None:
    async with served(max_connection_idle_seconds=0.1) as port, spoken(port) as connection:
        await connection.until(lambda event: isinstance(event, ConnectionTerminated))
        await expand(port)


async def test_a_connection_that_pings_and_pings_is_closed() -> None:
    async with served() as port, spoken(port) as connection:
        for number in range(100):
            connection.http.ping(number.to_bytes(8, "big"))
        ended = await connection.until(lambda event: isinstance(event, ConnectionTerminated))
        assert ended is None or ended.additional_data == b"too_many_pings"
        await expand(port)


async def test_connections_beyond_the_limit_are_closed_and_others_take_their_place() -> None:
    async with served(max_connections=3) as port:
        async with spoken(port) as first, spoken(port) as second, spoken(port) as third:
            for connection in (first, second, third):
                assert await connection.until(lambda event: isinstance(event, RemoteSettingsChanged))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(5):
                assert await reader.read(1) == b""
            writer.close()
        async with asyncio.timeout(5):
            while True:
                try:
                    await expand(port)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
