"""From a composed stage to a running process: serve, tell the truth about health, drain, stop.

    if __name__ == "__main__":
        run("embedder", EmbedderSettings, compose)

`compose(settings)` is an async context manager that builds the stage and yields it once it is warm. An exit code
other than 0 means: 2, it could not start (the log says why and what to do); 1, it died.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.chassis import logs, metrics, tls, tracing
from services.chassis.background import in_background
from services.chassis.errors import StartupError
from services.chassis.interceptors import StageInterceptor
from services.chassis.settings import SettingsT, StageSettings, load_settings
from services.chassis.shedding import ConcurrencyLimit

_log = logs.get_logger("server")
_HEALTH_POLL_SECONDS = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _nothing_wrong() -> str | None:
    return None


def _nothing_to_end() -> None:
    pass


@dataclass(frozen=True)
class Stage:
    """A warm stage, ready to be served."""

    service: ServiceDescriptor
    """The gRPC service that it implements."""
    register: Callable[[grpc.aio.Server], None]
    """Adds its servicer to a server."""
    further_services: tuple[ServiceDescriptor, ...] = ()
    """Others that it implements beside."""
    problem: Callable[[], str | None] = _nothing_wrong
    """Why it cannot do its work just now, or None. Cheap: it is asked twice a second."""
    limit: ConcurrencyLimit | None = None
    """Refuses calls when too many are under way; None where the stage has a better way to know."""
    bulk_methods: frozenset[str] = frozenset()
    """Names of the methods that nobody waits for: the limit refuses them first."""
    end_streams: Callable[[], None] = _nothing_to_end
    """Ends the streams that it serves, when it stops: they would otherwise outlast the grace."""
    died: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it will never work again; the process then ends, so that it is started afresh."""


@dataclass(frozen=True)
class RunningServer:
    """A stage that takes calls."""

    port: int
    """The port that it is bound to."""


Compose = Callable[[SettingsT], AbstractAsyncContextManager[Stage]]


def run(name: str, settings_type: type[SettingsT], compose: Compose[SettingsT]) -> None:
    """The whole life of a stage's process. Does not return."""
    # A wrong environment is told in the same format as everything else.
    logs.configure(name, StageSettings.model_construct())
    try:
        settings = load_settings(settings_type)
        logs.configure(name, settings)
        died = asyncio.run(_live(name, settings, compose))
    except StartupError as error:
        logs.get_logger("server").error("cannot start", stage=name, problem=error.message, remedy=error.remedy)
        sys.exit(2)
    sys.exit(1 if died else 0)


async def _live(name: str, settings: SettingsT, compose: Compose[SettingsT]) -> bool:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    with (
        metrics.exposed(name, settings.grpc_host, settings.metrics_port),
        tracing.exporting(name, settings, metrics.count_spans),
    ):
        async with compose(settings) as stage, serving(stage, settings) as server:
            _log.info("serving", host=settings.grpc_host, port=server.port, metrics_port=settings.metrics_port)
            waits = {
                asyncio.create_task(stopping.wait()),
                asyncio.create_task(stage.died.wait()),
                asyncio.create_task(tls.renewed(settings)),
            }
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
            died = stage.died.is_set()
            _log.info("stopping", died=died)
    return died


@asynccontextmanager
async def serving(stage: Stage, settings: StageSettings) -> AsyncIterator[RunningServer]:
    """Serves a stage; on leaving, drains it: NOT_SERVING first, then no new calls, then a grace for those in flight."""
    server = grpc.aio.server(
        interceptors=[StageInterceptor(stage.limit, stage.bulk_methods)], options=_options(settings)
    )
    stage.register(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (*_names(stage), health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = _bound(server, "GRPC_PORT", f"{settings.grpc_host}:{settings.grpc_port}", tls.server_credentials(settings))
    await _tell_health(servicer, stage)
    # Whoever asks for this name asks whether the process answers at all: a liveness probe.
    await servicer.set(health.SERVICE_NAME, _SERVING)
    async with _health_alone(servicer, settings):
        await server.start()
        try:
            async with in_background(_watch_health(servicer, stage)):
                yield RunningServer(port)
        finally:
            await servicer.enter_graceful_shutdown()
            await asyncio.sleep(settings.drain_seconds)
            stage.end_streams()
            await server.stop(settings.shutdown_grace_seconds)


@asynccontextmanager
async def _health_alone(servicer: health.aio.HealthServicer, settings: StageSettings) -> AsyncIterator[None]:
    """Answers health on a port of its own, without TLS, where one is set."""
    if settings.health_port == 0:
        yield
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    _bound(server, "HEALTH_PORT", f"{settings.grpc_host}:{settings.health_port}", None)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def _bound(server: grpc.aio.Server, variable: str, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """The port that the server is bound to now."""
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        files = " See that the GRPC_TLS_ files are PEM, and belong together." if credentials else ""
        raise StartupError(
            f"{variable}: cannot listen on {address}",
            remedy=f"Choose a free {variable}, or stop what holds it.{files}",
        ) from error


async def _watch_health(servicer: health.aio.HealthServicer, stage: Stage) -> None:
    last: str | None = stage.problem()
    while True:
        await asyncio.sleep(_HEALTH_POLL_SECONDS)
        problem = await _tell_health(servicer, stage)
        if problem != last:
            _log.warning("health changed", serving=problem is None, problem=problem)
            last = problem


async def _tell_health(servicer: health.aio.HealthServicer, stage: Stage) -> str | None:
    problem = stage.problem()
    state = _SERVING if problem is None else _NOT_SERVING
    for name in ("", *_names(stage)):
        await servicer.set(name, state)
    return problem


def _names(stage: Stage) -> list[str]:
    return [service.full_name for service in (stage.service, *stage.further_services)]


def _options(settings: StageSettings) -> list[tuple[str, int]]:
    message_bytes = settings.max_message_mib * 2**20
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        # Without this, a second process could bind the same port, and calls would go to either.
        ("grpc.so_reuseport", 0),
        # Clients ping every 20 s (services.chassis.client); a stricter server would hang up on them.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients resolve names anew when a connection ends, and so find replicas that were added. gRPC adds jitter.
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.shutdown_grace_seconds * 1000)),
    ]
