"""Mutual TLS between stages: both sides show a certificate of one authority.

Certificates are short-lived. A server reads its files at each handshake, and a channel is opened again when they have
changed; calls under way end on the connection that they have.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import grpc

from services.chassis import logs
from services.chassis.errors import StartupError
from services.chassis.settings import StageSettings
from services.chassis.timing import LONGEST_CALL_SECONDS

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VALIDITY = re.compile(rb"(?:\x17\x0d\d{12}|\x18\x0f\d{14})Z(?:\x17\x0d|\x18\x0f)(\d{12}|\d{14})Z")
"""Two times of DER, the beginning and the end of a certificate."""
LOOK_SECONDS = 5.0

_log = logs.get_logger("tls")


class _Files(NamedTuple):
    """Content of the three files."""

    key: bytes
    certificate: bytes
    authority: bytes

    def for_server(self) -> Any:
        """The part that gRPC exchanges while a server runs."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.authority)

    def for_channel(self) -> grpc.ChannelCredentials:
        """Credentials of a channel."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)


def server_credentials(settings: StageSettings, *, certificates: bool = True) -> grpc.ServerCredentials | None:
    """Credentials of a server, which follow the files; None if TLS is off.

    Callers must show a certificate; without `certificates` none is asked for. gRPC in Python knows no third way. Raise
    StartupError if a file cannot be read.
    """
    first = _read(settings)
    if first is None:
        return None
    held = [first]

    def renewed() -> Any:
        # Runs in a thread of gRPC at each handshake; None keeps what it has.
        found = _changed(settings, held[0])
        if found is None:
            return None
        held[0] = found
        return found.for_server()

    return grpc.dynamic_ssl_server_credentials(first.for_server(), renewed, require_client_authentication=certificates)


def channel_credentials(settings: StageSettings) -> grpc.ChannelCredentials | None:
    """Credentials of a channel as the files are now, or None if TLS is off. Raise StartupError if one is unreadable."""
    read = _read(settings)
    return read.for_channel() if read else None


def renewals(settings: StageSettings, seconds: float = LOOK_SECONDS) -> AsyncIterator[grpc.ChannelCredentials]:
    """Look at the files every few seconds, and yield the credentials whenever they have changed. Never ends.

    What counts is a change since this call. Raise StartupError if a file cannot be read.
    """
    return _renewals(settings, _read(settings), seconds)


async def _renewals(
    settings: StageSettings, held: _Files | None, seconds: float
) -> AsyncIterator[grpc.ChannelCredentials]:
    if held is None:
        await asyncio.Event().wait()
        return
    while True:
        await asyncio.sleep(seconds)
        found = await asyncio.to_thread(_changed, settings, held)
        if found is not None:
            held = found
            _log.info("certificate renewed")
            yield held.for_channel()


class RenewedChannel(grpc.aio.Channel):
    """A channel that can change its credentials: new calls go over a new channel, those under way end on the old."""

    def __init__(
        self, opened: Callable[[grpc.ChannelCredentials], grpc.aio.Channel], first: grpc.ChannelCredentials
    ) -> None:
        self._opened = opened
        self._ending: set[asyncio.Task[None]] = set()
        self.current = opened(first)

    def renew(self, credentials: grpc.ChannelCredentials) -> None:
        """Use other credentials from the next call on."""
        before, self.current = self.current, self._opened(credentials)
        ending = asyncio.create_task(before.close(LONGEST_CALL_SECONDS))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def __aenter__(self) -> RenewedChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close it, and what still ends."""
        for ending in tuple(self._ending):
            ending.cancel()
        await self.current.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """State of the channel in use."""
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait for the channel in use."""
        await self.current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait for the channel in use."""
        await self.current.channel_ready()

    def unary_unary(self, *given: Any, **named: Any) -> Any:
        """Make the call of a method, for the channel in use at each call."""
        return self._following(lambda channel: channel.unary_unary(*given, **named))

    def unary_stream(self, *given: Any, **named: Any) -> Any:
        """Make the call of a method, for the channel in use at each call."""
        return self._following(lambda channel: channel.unary_stream(*given, **named))

    def stream_unary(self, *given: Any, **named: Any) -> Any:
        """Make the call of a method, for the channel in use at each call."""
        return self._following(lambda channel: channel.stream_unary(*given, **named))

    def stream_stream(self, *given: Any, **named: Any) -> Any:
        """Make the call of a method, for the channel in use at each call."""
        return self._following(lambda channel: channel.stream_stream(*given, **named))

    def _following(self, made: Callable[[grpc.aio.Channel], Any]) -> Callable[..., Any]:
        known: list[Any] = [self.current, made(self.current)]

        def call(*given: Any, **named: Any) -> Any:
            if known[0] is not self.current:
                known[:] = [self.current, made(self.current)]
            return known[1](*given, **named)

        return call


def expiry(settings: StageSettings) -> float:
    """Return the Unix time at which the certificate expires; 0 if TLS is off, or if the file is no certificate."""
    read = _read(settings)
    found = _CERTIFICATE.search(read.certificate) if read else None
    if found is None:
        return 0.0
    validity = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(found[0].decode()))
    if validity is None:
        return 0.0
    until = validity[1].decode()
    if len(until) == len("yymmddHHMMSS"):  # a year from 1950 to 2049
        until = ("20" if until < "50" else "19") + until
    return datetime.strptime(until, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


def _changed(settings: StageSettings, held: _Files) -> _Files | None:
    """The files if they have changed and belong together; between two writes they may not."""
    try:
        found = _read(settings)
        if found is None or found == held:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(settings.grpc_tls_certificate), str(settings.grpc_tls_key))
        context.load_verify_locations(str(settings.grpc_tls_authority))
        # What was checked is what was read.
        return found if found == _read(settings) else None
    except (OSError, StartupError):  # ssl.SSLError is an OSError
        return None


def _read(settings: StageSettings) -> _Files | None:
    """Content of the files, or None if TLS is off."""
    if not (settings.grpc_tls_key and settings.grpc_tls_certificate and settings.grpc_tls_authority):
        return None
    try:
        return _Files(
            settings.grpc_tls_key.read_bytes(),
            settings.grpc_tls_certificate.read_bytes(),
            settings.grpc_tls_authority.read_bytes(),
        )
    except OSError as error:
        raise StartupError(
            f"{error.filename} cannot be read: {error.strerror}",
            remedy="Let GRPC_TLS_CERTIFICATE, GRPC_TLS_KEY and GRPC_TLS_AUTHORITY name PEM files that it may read.",
        ) from error
