"""A stage as a process: its logs, signals and end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from services.chassis.client import StageChannel
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


@asynccontextmanager
async def _expander(stderr: int | None = None) -> AsyncIterator[tuple[asyncio.subprocess.Process, StageChannel, int]]:
    """An expander that serves, a channel to it, and its port."""
    port = _free_port()
    settings: Mapping[str, str] = {
        "GRPC_PORT": str(port),
        "METRICS_PORT": "0",
        "EXPANSION_STRATEGY": "multi_query",
        "DRAIN_SECONDS": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.expander", env=os.environ | settings, stderr=stderr
    )
    try:
        async with StageChannel(f"127.0.0.1:{port}") as channel:
            async with asyncio.timeout(60):
                while await channel.health("", deadline=time.monotonic() + 1) is not None:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
            yield process, channel, port
    finally:
        if process.returncode is None:
            process.kill()


async def _expand(channel: StageChannel, seconds: float = 30.0) -> None:
    stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
    await channel.call(
        stub.ExpandQuery, expander_pb2.ExpandQueryRequest(query="anything"), deadline=time.monotonic() + seconds
    )


async def test_a_stage_whose_log_is_a_pipe_that_is_not_read_serves_on_and_ends_when_told_to() -> None:
    unread, theirs = os.pipe()
    try:
        async with _expander(theirs) as (process, channel, _port):
            # A line each: four times what a pipe holds.
            for _ in range(60):
                await asyncio.gather(*(_expand(channel) for _ in range(20)))
            assert await channel.health("", deadline=time.monotonic() + 30) is None
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        os.close(unread)
        os.close(theirs)


async def _reset_at_once(port: int, requests: int) -> None:
    """Begin requests on one connection and reset each at once, until the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/sluice.expander.v1.ExpanderService/ExpandQuery"),
        (":authority", "expander"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]

    async def drop_answers() -> None:
        while await reader.read(65536):
            pass

    answers = asyncio.create_task(drop_answers())
    try:
        for number in range(requests):
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, headers)
            connection.reset_stream(stream, ErrorCodes.CANCEL)
            if number % 50 == 0:
                writer.write(connection.data_to_send())
                await writer.drain()
    except ConnectionError:
        pass
    finally:
        answers.cancel()
        writer.close()


async def test_twenty_thousand_requests_that_are_reset_at_once_leave_other_callers_alone() -> None:
    async with _expander(asyncio.subprocess.DEVNULL) as (_process, channel, port):
        attack = asyncio.create_task(_reset_at_once(port, 20_000))
        while not attack.done():
            await _expand(channel, seconds=3)
        await attack
        for _ in range(100):
            await _expand(channel, seconds=3)
