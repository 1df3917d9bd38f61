"""The process of a stage: start, serve, drain, stop.

    if __name__ == "__main__":
        run("embedder", EmbedderSettings, compose)

`compose(settings)` is an async context manager that builds the stage and yields it once it is warm. An exit code
other than 0 means: 2, it could not start (the log says why and what to do); 1, it died.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType

import grpc
import uvloop
from google.protobuf.descriptor import ServiceDescriptor

from services.chassis import UNREADABLE, health, logs, metrics, stderr, tls, tracing
from services.chassis.access.gate import Gate
from services.chassis.admission.concurrency import ConcurrencyLimit
from services.chassis.admission.memory import MessageBudget
from services.chassis.audit.calls import Audit
from services.chassis.audit.chain import Chain
from services.chassis.audit.trail import AuditTrail
from services.chassis.errors import StartupError
from services.chassis.interceptors import Admission, Quotas, StageInterceptor
from services.chassis.metrics import ServerMetrics, process_metrics
from services.chassis.settings import SettingsT, StageSettings, load_settings
from services.chassis.timing import LONGEST_CALL_SECONDS, in_background

HANDSHAKE_MS = 10_000
"""Longest time that a connection may take to say what it wants, with TLS or without."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logs.get_logger("server")


@dataclass(frozen=True)
class Stage:
    """A warm stage, ready to be served."""

    service: ServiceDescriptor
    """The gRPC service that it implements."""
    register: Callable[[grpc.aio.Server], None]
    """Adds its servicers to a server."""
    further_services: tuple[ServiceDescriptor, ...] = ()
    """More services that it implements."""
    problem: Callable[[], str | None] = lambda: None
    """The problem that keeps it from its work, or None. Must be cheap: it is polled four times a second."""
    limit: ConcurrencyLimit | None = None
    """Limit on calls under way; None for a stage with a queue of its own."""
    bulk_methods: frozenset[str] = frozenset()
    """Names of methods that wait behind all others, because no user waits for them."""
    quotas: Quotas | None = None
    """Limits of each caller; None where callers are stages."""
    edge: bool = False
    """True if its callers are no stages: they are not believed for whom they call."""
    collection: str = ""
    """The collection that is meant where a request names none."""
    end_streams: Callable[[], None] = lambda: None
    """Ends its server streams when it stops; they would otherwise outlast the grace."""
    died: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it cannot work again; the process then ends, to be started again."""


@dataclass(frozen=True)
class RunningServer:
    """A stage that accepts calls."""

    port: int
    """The port that it is bound to."""
    token_port: int = 0
    """The port for callers without a certificate; 0 for none."""


Compose = Callable[[SettingsT], AbstractAsyncContextManager[Stage]]


def run(name: str, settings_type: type[SettingsT], compose: Compose[SettingsT]) -> None:
    """Run a stage until a signal or its death, then exit the process."""
    stderr.unblock()
    # With the defaults, a problem with the environment is logged in the usual format.
    logs.configure(name, StageSettings.model_construct())
    try:
        _check_environment()
        settings = load_settings(settings_type)
        logs.configure(name, settings)
        if settings.grpc_host == "[::]" and not _has_ipv6():
            logs.get_logger("server").warning("this machine has no IPv6", grpc_host="0.0.0.0")  # noqa: S104
            settings = settings.model_copy(update={"grpc_host": "0.0.0.0"})  # noqa: S104  asked for: all addresses
        died = uvloop.run(_live(name, settings, compose))
    except StartupError as error:
        logs.get_logger("server").error("cannot start", stage=name, problem=error.message, remedy=error.remedy)
        sys.exit(2)
    sys.exit(1 if died else 0)


def _check_environment() -> None:
    """Raise StartupError for a variable that a library could only answer with a traceback."""
    if UNREADABLE:
        raise StartupError(
            f"wrong settings of libraries: {', '.join(f'{name}={value}' for name, value in UNREADABLE.items())}",
            remedy="Unset them. A limit of OpenTelemetry is a whole number; PROMETHEUS_MULTIPROC_DIR, which no stage "
            "needs, is a folder that it may write.",
        )


def _has_ipv6() -> bool:
    """True if a server can listen on `[::]`."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _end_the_start(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


async def _live(name: str, settings: SettingsT, compose: Compose[SettingsT]) -> bool:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    gate = Gate.of(settings)  # before a model is loaded for minutes
    # A start may load or make a model for minutes, and holds the loop meanwhile: there a signal ends it at once.
    for signal_number in _SIGNALS:
        signal.signal(signal_number, _end_the_start)
    with (
        metrics.exposed(name, settings),
        tracing.exporting(name, settings, process_metrics().count_spans),
    ):
        async with compose(settings) as stage, serving(stage, settings, gate=gate) as server:
            for signal_number in _SIGNALS:
                loop.add_signal_handler(signal_number, stopping.set)
            _log.info("serving", host=settings.grpc_host, port=server.port, metrics_port=settings.metrics_port)
            waits = {
                asyncio.create_task(stopping.wait()),
                asyncio.create_task(stage.died.wait()),
            }
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
            died = stage.died.is_set()
            _log.info("stopping", died=died)
    return died


@asynccontextmanager
async def serving(
    stage: Stage, settings: StageSettings, counted: ServerMetrics | None = None, gate: Gate | None = None
) -> AsyncIterator[RunningServer]:
    """Serve a stage while the block runs, then drain it.

    To drain: health says NOT_SERVING, then no new calls, then a grace for those in flight. `counted` counts its calls;
    by default the series of the process do. `gate` is made of the settings, unless it is given.
    """
    series = counted or process_metrics()
    if gate is None:
        gate = await asyncio.to_thread(Gate.of, settings)
    series.certificate_expiry.set(tls.expiry(settings))
    budget = MessageBudget.of_process(settings.memory_mib, settings.max_message_mib)
    name = stage.service.full_name.split(".")[1]
    trail = _audit_trail(name, settings)
    admission = Admission(budget, stage.limit, stage.bulk_methods, stage.quotas, stage.edge, stage.collection)
    server = grpc.aio.server(
        interceptors=[StageInterceptor(series, gate, admission, Audit(trail, name) if trail else None)],
        options=_options(settings),
    )
    stage.register(server)
    names = [service.full_name for service in (stage.service, *stage.further_services)]
    told = health.Health(names, stage.problem)
    told.register(server)
    health.add_reflection(names, server)
    port = _bound(server, "GRPC_PORT", f"{settings.grpc_host}:{settings.grpc_port}", tls.server_credentials(settings))
    token_port = 0
    if settings.grpc_token_port:
        address = f"{settings.grpc_host}:{settings.grpc_token_port}"
        token_port = _bound(server, "GRPC_TOKEN_PORT", address, tls.server_credentials(settings, certificates=False))
    await told.update()
    async with _health_alone(told, settings):
        try:
            async with told.kept(), in_background(gate.kept(), _expiry_shown(series, settings)):
                await server.start()
                yield RunningServer(port, token_port)
        finally:
            await asyncio.sleep(settings.drain_seconds)
            stage.end_streams()
            await server.stop(settings.shutdown_grace_seconds)
            if trail:
                await asyncio.to_thread(trail.close)


def _audit_trail(stage: str, settings: StageSettings) -> AuditTrail | None:
    """Open the audit log of a stage, if it has one."""
    if settings.audit_dir is None:
        return None
    chain = Chain(settings.audit_key.get_secret_value().encode()) if settings.audit_chain else None
    return AuditTrail(settings.audit_dir / f"{stage}.jsonl", chain=chain, required=settings.audit_required)


async def _expiry_shown(series: ServerMetrics, settings: StageSettings) -> None:
    async for _ in tls.renewals(settings):
        series.certificate_expiry.set(tls.expiry(settings))


@asynccontextmanager
async def _health_alone(told: health.Health, settings: StageSettings) -> AsyncIterator[None]:
    """Answer health on a port of its own, without TLS, if one is set."""
    if settings.health_port == 0:
        yield
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    told.register(server)
    _bound(server, "HEALTH_PORT", f"{settings.grpc_host}:{settings.health_port}", None)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def _bound(server: grpc.aio.Server, variable: str, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Bind a server and return its port."""
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        files = " Check that the GRPC_TLS_ files are PEM and belong together." if credentials else ""
        raise StartupError(
            f"{variable}: cannot listen on {address}",
            remedy=f"Choose a free {variable} or stop what holds it; GRPC_HOST is an address of this machine.{files}",
        ) from error


def _options(settings: StageSettings) -> list[tuple[str, int]]:
    message_bytes, metadata_bytes = settings.max_message_mib * 2**20, settings.max_metadata_kib * 2**10
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        # Otherwise a second process could bind the same port, and each would get some of the calls.
        ("grpc.so_reuseport", 0),
        # Clients ping every 20 s (services.chassis.client); a stricter server would close their connections.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Two pings that come too soon are let pass; with the third, the connection is closed.
        ("grpc.http2.max_ping_strikes", 2),
        # The second refuses; between the two, gRPC would refuse by chance.
        ("grpc.max_metadata_size", metadata_bytes),
        ("grpc.absolute_max_metadata_size", metadata_bytes),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", round(settings.max_connection_idle_seconds * 1000)),
        # Clients resolve names again when a connection ends, and so find new replicas. gRPC adds jitter.
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        # Calls that are under way then go on to their end.
        ("grpc.max_connection_age_grace_ms", round(LONGEST_CALL_SECONDS * 1000)),
        ("grpc.max_concurrent_streams", settings.max_connection_calls),
        # A message that is not read yet takes no more memory than a window.
        ("grpc.http2.bdp_probe", 0),
    ]
