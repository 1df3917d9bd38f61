"""Starts of a stage where the machine or the environment is not as usual."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from services.chassis import tracing
from services.chassis.client import StageChannel
from services.chassis.settings import StageSettings
from services.retriever.engines.server.nodes import Connection
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


async def _ended(arguments: list[str], **variables: str) -> tuple[int, str]:
    """Exit status and log of a process that ends by itself."""
    settings = {"GRPC_PORT": "0", "METRICS_PORT": "0", "EXPANSION_STRATEGY": "multi_query"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=os.environ | settings | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "lots"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=lots"),
        (COLLECTOR | {"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        (COLLECTOR | {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "10s"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
        ({"PROMETHEUS_MULTIPROC_DIR": "/no/such/folder"}, "PROMETHEUS_MULTIPROC_DIR"),
        ({"GRPC_HOST": "203.0.113.7", "METRICS_PORT": "1999", "AUTH": "off"}, "Set GRPC_HOST"),
        ({"GRPC_HOST": "0.0.0.0"}, "set AUTH=off"),
        ({"AUTH": "on"}, "Name a file of callers in AUTH_CALLERS"),
        ({"AUTH_JWKS": "keys.json"}, "AUTH_JWKS needs AUTH_ISSUER and AUTH_AUDIENCE"),
        ({"AUTH_CALLERS": "/no/such/file"}, "AUTH_CALLERS: /no/such/file: cannot be read"),
    ],
)
async def test_a_variable_that_cannot_be_served_is_a_line_with_a_remedy(variables: dict[str, str], named: str) -> None:
    status, log = await _ended(["-m", "services.expander"], **variables)
    assert status == 2
    assert named in log
    assert '"remedy"' in log
    assert "Traceback" not in log


async def test_a_signal_ends_a_start_that_holds_the_event_loop() -> None:
    program = """
import contextlib, time
from services.chassis.server import run
from services.chassis.settings import StageSettings

@contextlib.asynccontextmanager
async def compose(settings):
    print("begun", flush=True)
    time.sleep(300)
    yield

run("slow", StageSettings, compose)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=os.environ | {"METRICS_PORT": "0"}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"begun\n"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_stage_for_all_addresses_serves_where_there_is_no_ipv6() -> None:
    program = """
import runpy, socket
whole = socket.socket
class Socket(whole):
    def __init__(self, family=-1, *arguments, **more):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        super().__init__(family, *arguments, **more)
socket.socket = Socket
runpy.run_module("services.expander", run_name="__main__")
"""
    port = _free_port()
    settings = {"GRPC_HOST": "[::]", "GRPC_PORT": str(port), "METRICS_PORT": str(_free_port()), "DRAIN_SECONDS": "0"}
    settings |= {"EXPANSION_STRATEGY": "multi_query", "AUTH": "off"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=os.environ | settings)
    async with StageChannel(f"127.0.0.1:{port}") as channel, asyncio.timeout(60):
        while await channel.health("", deadline=time.monotonic() + 1) is not None:
            assert process.returncode is None
            await asyncio.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_stages_and_the_collector_are_reached_without_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: asyncio.Queue[str] = asyncio.Queue()

    def listener(name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.put_nowait(name)
            writer.close()

        return connected

    async with (
        await asyncio.start_server(listener("proxy"), "127.0.0.1") as proxy,
        await asyncio.start_server(listener("collector"), "127.0.0.1") as collector,
        await asyncio.start_server(listener("qdrant"), "127.0.0.1") as qdrant,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (proxy, collector, qdrant)]
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{ports[0]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        settings = StageSettings(otel_exporter_otlp_endpoint=f"http://127.0.0.1:{ports[1]}")

        def export() -> None:
            with tracing.exporting("test", settings, lambda _fate, _count: None), tracing.server_span("call", [], "id"):
                pass

        await asyncio.to_thread(export)
        url = f"http://127.0.0.1:{ports[2]}"
        stored = RetrieverSettings(qdrant_url=url, qdrant_grpc_port=0, qdrant_pool_size=1, qdrant_timeout=1)
        pool = QdrantPool(stored, RetrieverMetrics(CollectorRegistry()))
        with contextlib.suppress(Exception):
            await pool.call(Connection.version, deadline=time.monotonic() + 2)
        await pool.close()
    names = {reached.get_nowait() for _ in range(reached.qsize())}
    assert names == {"collector", "qdrant"}
