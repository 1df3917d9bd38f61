"""What becomes of a stage as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time

from services.chassis.client import StageChannel
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


async def test_a_stage_whose_log_is_a_pipe_that_is_not_read_serves_on_and_ends_when_told_to() -> None:
    port = _free_port()
    settings = {"GRPC_PORT": str(port), "METRICS_PORT": "0", "EXPANSION_STRATEGY": "multi_query", "DRAIN_SECONDS": "0"}
    unread, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.expander", env=os.environ | settings, stderr=theirs
    )
    try:
        async with StageChannel(f"127.0.0.1:{port}") as channel:
            async with asyncio.timeout(60):
                while await channel.health("", deadline=time.monotonic() + 1) is not None:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
            stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
            request = expander_pb2.ExpandQueryRequest(query="anything")
            # A line each: four times what a pipe holds.
            for _ in range(60):
                deadline = time.monotonic() + 30
                await asyncio.gather(*(channel.call(stub.ExpandQuery, request, deadline=deadline) for _ in range(20)))
            assert await channel.health("", deadline=time.monotonic() + 30) is None
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
        os.close(unread)
        os.close(theirs)
