"""The two ways to Qdrant: a pool of connections to a server, and the embedded engine in a data folder.

Both run an operation, a coroutine function that gets Qdrant's own client, and translate what goes wrong into the
errors of `services.chassis.errors`. Qdrant's messages stay out of them: they may quote what was stored.
"""

from __future__ import annotations

import asyncio
import errno
import math
import random
import re
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import httpx
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.context_headers import headers
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from services.chassis import status, tracing
from services.chassis.breaker import Breaker
from services.chassis.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SluiceError,
    StartupError,
    Unavailable,
)
from services.retriever import embedded
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings

T = TypeVar("T")
Operation = Callable[[AsyncQdrantClient], Awaitable[T]]


class QdrantPool:
    """Connections to a Qdrant server, lent one at a time, with retries under a circuit breaker.

    qdrant-client's own pool deals its channels out in turn, however many calls each of them carries; here a
    connection carries one call, so that a slow server makes callers wait, and be counted, rather than pile up.
    """

    embedded = False

    def __init__(self, settings: RetrieverSettings, metrics: RetrieverMetrics) -> None:
        """Connects with the first call; construct it inside the event loop that will use it."""
        self._settings = settings
        self._metrics = metrics
        self._clients = [_client(settings) for _ in range(settings.qdrant_pool_size)]
        self._free = deque(self._clients)
        self._permits = asyncio.Semaphore(len(self._clients))
        self._breaker = Breaker(
            "Qdrant",
            failures=settings.qdrant_breaker_failures,
            reset_seconds=settings.qdrant_breaker_reset_seconds,
            fair_seconds=min(1.0, settings.qdrant_timeout),
            on_transition=metrics.breaker_changed,
        )
        metrics.pool_size.set(len(self._clients))
        metrics.breaker_open.set(0)

    async def call(self, operation: Operation[T], *, name: str = "", deadline: float | None = None) -> T:
        """Runs the operation, again if it met an outage and the deadline (monotonic clock) leaves time for it.

        `name` is what traces call it; by default the operation's own. Whatever it does must bear being done twice.
        Raises Unavailable (reason BREAKER_OPEN at once while the breaker is open), DeadlineExceeded, or
        ResourceExhausted: POOL_EXHAUSTED, RATE_LIMITED, STORAGE_FULL.
        """
        with _observed(self._metrics, name or operation.__name__):
            return await self._persist(operation, math.inf if deadline is None else deadline)

    async def _persist(self, operation: Operation[T], end: float) -> T:
        retries = self._settings.qdrant_pool_max_retries if self._settings.qdrant_pool_retry_enabled else 0
        tried = 0
        while True:
            try:
                return await self._try(operation, end)
            except Unavailable:
                longest_pause = self._settings.qdrant_pool_retry_delay * 2**tried
                pause = random.uniform(0, longest_pause)  # noqa: S311  spreads retries, hides nothing
                if tried == retries or self._breaker.state != "closed" or time.monotonic() + pause >= end:
                    raise
            tried += 1
            self._metrics.retries.inc()
            if (span := tracing.recorded()) is not None:
                span.add_event("retry", {"sluice.retry": tried})
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Closes all connections; calls under way fail."""
        for client in self._clients:
            await client.close()

    async def _try(self, operation: Operation[T], end: float) -> T:
        self._breaker.check()
        async with self._connection(end) as client:
            timeout = min(end - time.monotonic(), self._settings.qdrant_timeout)
            with self._breaker.attempt(given_seconds=timeout), _translated():
                async with _time_limit(time.monotonic() + timeout):
                    return await operation(client)

    @asynccontextmanager
    async def _connection(self, end: float) -> AsyncIterator[AsyncQdrantClient]:
        started = time.monotonic()
        try:
            if self._permits.locked():
                await self._wait_for_permit(end)
            else:
                await self._permits.acquire()
        finally:
            self._metrics.pool_wait_seconds.observe(time.monotonic() - started)
        client = self._free.popleft()
        try:
            with self._metrics.pool_in_use.track_inprogress():
                yield client
        finally:
            self._free.append(client)
            self._permits.release()

    async def _wait_for_permit(self, end: float) -> None:
        timeout = self._settings.qdrant_pool_timeout
        self._metrics.pool_waiting.inc()
        try:
            async with _time_limit(min(end, time.monotonic() + timeout)):
                await self._permits.acquire()
        except TimeoutError:
            if time.monotonic() >= end:
                raise DeadlineExceeded("the deadline passed while waiting for a connection to Qdrant") from None
            raise ResourceExhausted(
                f"all {len(self._clients)} connections to Qdrant stayed busy for {timeout:g} s; "
                "raise QDRANT_POOL_SIZE if Qdrant has capacity left",
                reason="POOL_EXHAUSTED",
                retry_after=self._settings.qdrant_pool_retry_delay,
            ) from None
        finally:
            self._metrics.pool_waiting.dec()


class EmbeddedQdrant:
    """Qdrant's embedded engine. It computes synchronously, so it has a thread to itself: one operation at a time."""

    embedded = True

    def __init__(
        self, client: AsyncQdrantClient, thread: ThreadPoolExecutor, runner: asyncio.Runner, metrics: RetrieverMetrics
    ) -> None:
        """Use `open`."""
        self._client = client
        self._metrics = metrics
        self._thread = thread
        self._runner = runner

    @classmethod
    async def open(cls, folder: Path, metrics: RetrieverMetrics) -> EmbeddedQdrant:
        """Opens the data folder, or creates it. Raises StartupError if it cannot be had."""
        thread = ThreadPoolExecutor(1, "qdrant")

        def engine() -> AsyncQdrantClient:
            embedded.tune()
            # SQLite's connections belong to the thread that opened them.
            return AsyncQdrantClient(path=str(folder))

        try:
            client = await asyncio.get_running_loop().run_in_executor(thread, engine)
        except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
            thread.shutdown(wait=False)
            raise StartupError(
                f"QDRANT_PATH: the embedded Qdrant cannot use the folder {folder}: {error}",
                remedy="One process owns a data folder at a time: stop the other one (`make down`), choose another "
                "QDRANT_PATH, or run a Qdrant server and set QDRANT_URL.",
            ) from error
        return cls(client, thread, asyncio.Runner(), metrics)

    async def call(self, operation: Operation[T], *, name: str = "", deadline: float | None = None) -> T:
        """Runs the operation in the engine's thread; one that has begun runs to its end, whatever the deadline."""

        async def run() -> T:
            return await operation(self._client)

        submitted = time.monotonic()

        def work() -> T:
            self._metrics.pool_wait_seconds.observe(time.monotonic() - submitted)
            with self._metrics.pool_in_use.track_inprogress():
                return self._runner.run(run())

        with _observed(self._metrics, name or operation.__name__):
            try:
                async with _time_limit(math.inf if deadline is None else deadline):
                    return await self._in_thread(work)
            except TimeoutError as error:
                raise DeadlineExceeded("the embedded Qdrant did not answer in time") from error
            except (ValueError, OSError, sqlite3.Error) as error:
                raise _embedded_error(error) from error

    async def close(self) -> None:
        """Waits for the operation under way and frees the folder."""

        def close() -> None:
            self._runner.run(self._client.close())
            self._runner.close()

        await self._in_thread(close)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def open_qdrant(settings: RetrieverSettings, metrics: RetrieverMetrics) -> QdrantPool | EmbeddedQdrant:
    """The Qdrant that the settings name. A server need not be up yet; a data folder must be free."""
    if settings.qdrant_url:
        return QdrantPool(settings, metrics)
    metrics.pool_size.set(1)
    return await EmbeddedQdrant.open(settings.qdrant_path, metrics)


def _client(settings: RetrieverSettings) -> AsyncQdrantClient:
    """One connection. A channel of its own is not enough: gRPC shares connections between equal channels."""
    return AsyncQdrantClient(
        url=settings.qdrant_url,
        grpc_port=settings.qdrant_grpc_port,
        prefer_grpc=settings.qdrant_grpc_port != 0,
        api_key=settings.qdrant_api_key.get_secret_value() or None,
        timeout=math.ceil(settings.qdrant_timeout),
        check_compatibility=False,
        pool_size=1,
        grpc_options={
            "grpc.use_local_subchannel_pool": 1,
            "grpc.keepalive_time_ms": 20_000,
            "grpc.keepalive_timeout_ms": 5_000,
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.max_reconnect_backoff_ms": 5_000,
        },
    )


@contextmanager
def _observed(metrics: RetrieverMetrics, name: str) -> Iterator[None]:
    """Counts and traces one call to Qdrant, however it ends; its requests carry the trace along."""
    code = grpc.StatusCode.CANCELLED
    with (
        tracing.client_span(f"qdrant {name}", {"db.system.name": "qdrant", "db.operation.name": name}) as span,
        headers(tracing.headers()),
    ):
        try:
            yield
            code = grpc.StatusCode.OK
        except SluiceError as error:
            code = status.code_of(error)
            raise
        finally:
            metrics.calls.labels(code.name).inc()
            tracing.end_with_code(span, code.name, "db.response.status_code")


@asynccontextmanager
async def _time_limit(end: float) -> AsyncIterator[None]:
    """`asyncio.timeout_at` for a moment on the monotonic clock; none that has passed already lets anything start."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    async with asyncio.timeout(None if left == math.inf else left):
        yield


@contextmanager
def _translated() -> Iterator[None]:
    """Turns the exceptions of qdrant-client, over gRPC, over HTTP and embedded, into ours."""
    try:
        yield
    except TimeoutError as error:
        raise DeadlineExceeded("Qdrant did not answer in time") from error
    except ResourceExhaustedResponse as error:
        raise ResourceExhausted(
            "Qdrant limits the rate of requests", reason="RATE_LIMITED", retry_after=float(error.retry_after_s)
        ) from error
    except grpc.aio.AioRpcError as error:
        raise _error(error.code(), error.details() or "") from error
    except UnexpectedResponse as error:
        code = _HTTP_CODES.get(error.status_code or 500, grpc.StatusCode.INTERNAL)
        raise _error(code, error.content.decode(errors="replace")) from error
    except ResponseHandlingException as error:
        if isinstance(error.source, httpx.TimeoutException):
            raise DeadlineExceeded("Qdrant did not answer in time") from error
        if isinstance(error.source, httpx.TransportError):
            raise _error(grpc.StatusCode.UNAVAILABLE, "") from error
        raise Internal("Qdrant's answer makes no sense to this client") from error


_HTTP_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

# Qdrant reports a full disk as an internal error ("No space left on device: WAL buffer size exceeds available disk
# space"), SQLite as "database or disk is full".
_STORAGE_FULL = re.compile(r"no space left|disk is full|insufficient storage", re.IGNORECASE)


def _error(code: grpc.StatusCode, detail: str) -> SluiceError:
    """The error for a canonical code; `detail` is only looked into where a code means several things."""
    if _STORAGE_FULL.search(detail):
        return ResourceExhausted("Qdrant's storage is full; free some space or add some", reason="STORAGE_FULL")
    if "already exists" in detail:
        code = grpc.StatusCode.ALREADY_EXISTS
    make = _ERRORS.get(code)
    return make() if make else Internal(f"Qdrant failed with {code.name}")


def _unavailable() -> SluiceError:
    return Unavailable("Qdrant cannot be reached", dependency="Qdrant")


def _refused() -> SluiceError:
    return InvalidArgument("request", "Qdrant refuses it; its log says why", reason="QDRANT_REFUSED")


def _denied() -> SluiceError:
    return FailedPrecondition("Qdrant denies access; check QDRANT_API_KEY", reason="QDRANT_DENIED")


def _unable() -> SluiceError:
    return FailedPrecondition("this Qdrant cannot do that now; its log says why", reason="QDRANT_REFUSED")


_ERRORS: dict[grpc.StatusCode, Callable[[], SluiceError]] = {
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.CANCELLED: _unavailable,  # the server's doing: our own cancellations are CancelledError
    grpc.StatusCode.ABORTED: _unavailable,
    grpc.StatusCode.INVALID_ARGUMENT: _refused,
    grpc.StatusCode.OUT_OF_RANGE: _refused,
    grpc.StatusCode.UNAUTHENTICATED: _denied,
    grpc.StatusCode.PERMISSION_DENIED: _denied,
    grpc.StatusCode.FAILED_PRECONDITION: _unable,
    grpc.StatusCode.UNIMPLEMENTED: _unable,
    grpc.StatusCode.NOT_FOUND: lambda: NotFound("Qdrant does not have that"),
    grpc.StatusCode.ALREADY_EXISTS: lambda: AlreadyExists("Qdrant has that already"),
    grpc.StatusCode.DEADLINE_EXCEEDED: lambda: DeadlineExceeded("Qdrant did not answer in time"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda: ResourceExhausted(
        "Qdrant limits the rate of requests", reason="RATE_LIMITED"
    ),
}


def _embedded_error(error: ValueError | OSError | sqlite3.Error) -> SluiceError:
    """The embedded engine refuses with ValueError, and has its disk and SQLite to fail with."""
    if isinstance(error, ValueError) and "not found" in str(error):
        return _error(grpc.StatusCode.NOT_FOUND, "")
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return _error(grpc.StatusCode.INTERNAL, "no space left" if full else str(error))
