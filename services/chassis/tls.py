"""Mutual TLS between stages: both sides show a certificate of one authority.

Certificates are short-lived, and gRPC reads them once. So a process whose certificate has been renewed ends, as on
SIGTERM, and is started again with the new one. This covers its server and all of its channels.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc

from services.chassis.errors import StartupError
from services.chassis.settings import StageSettings

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VALIDITY = re.compile(rb"(?:\x17\x0d\d{12}|\x18\x0f\d{14})Z(?:\x17\x0d|\x18\x0f)(\d{12}|\d{14})Z")
"""Two times of DER, the beginning and the end of a certificate."""
_LOOK_SECONDS = 30.0
_SPREAD_SECONDS = 1800.0
"""Replicas, whose certificates are renewed together, restart spread over this time."""


def server_credentials(settings: StageSettings) -> grpc.ServerCredentials | None:
    """Credentials of a server, or None if TLS is off. Raise StartupError if a file cannot be read."""
    read = _read(settings)
    if read is None:
        return None
    key, certificate, authority = read
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def channel_credentials(settings: StageSettings) -> grpc.ChannelCredentials | None:
    """Credentials of a channel, or None if TLS is off. Raise StartupError if a file cannot be read."""
    read = _read(settings)
    if read is None:
        return None
    key, certificate, authority = read
    return grpc.ssl_channel_credentials(authority, key, certificate)


def expiry(settings: StageSettings) -> float:
    """Return the Unix time at which the certificate expires; 0 if TLS is off, or if the file is no certificate."""
    read = _read(settings)
    found = _CERTIFICATE.search(read[1]) if read else None
    if found is None:
        return 0.0
    validity = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(found[0].decode()))
    if validity is None:
        return 0.0
    until = validity[1].decode()
    if len(until) == len("yymmddHHMMSS"):  # a year from 1950 to 2049
        until = ("20" if until < "50" else "19") + until
    return datetime.strptime(until, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


async def renewed(settings: StageSettings, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Wait until the certificate is replaced, and a random time longer. Never return if TLS is off."""
    file = settings.grpc_tls_certificate
    if file is None:
        await asyncio.Event().wait()
        return
    before = await asyncio.to_thread(file.read_bytes)
    while await asyncio.to_thread(_content, file) in (before, b""):
        await pause(_LOOK_SECONDS)
    await pause(random.uniform(0, _SPREAD_SECONDS))  # noqa: S311  spreads restarts, hides nothing


def _read(settings: StageSettings) -> tuple[bytes, bytes, bytes] | None:
    """Key, certificate and authority, or None if TLS is off."""
    if not (settings.grpc_tls_key and settings.grpc_tls_certificate and settings.grpc_tls_authority):
        return None
    try:
        return (
            settings.grpc_tls_key.read_bytes(),
            settings.grpc_tls_certificate.read_bytes(),
            settings.grpc_tls_authority.read_bytes(),
        )
    except OSError as error:
        raise StartupError(
            f"{error.filename} cannot be read: {error.strerror}",
            remedy="Let GRPC_TLS_CERTIFICATE, GRPC_TLS_KEY and GRPC_TLS_AUTHORITY name PEM files that it may read.",
        ) from error


def _content(file: Path) -> bytes:
    """Content of a file; empty in the moment in which it is replaced."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
