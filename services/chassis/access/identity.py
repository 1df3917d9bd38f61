"""The caller of a call: the party that made it, as its credential says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller, as its credential says. Values are equal for calls of one caller, and can be keys of a cache."""

    identity: str = ""
    """Name of the caller, unique over all kinds of credentials, as `spiffe://acme/gateway`, `dns:gateway` or
    `key:nightly-index`; empty where nobody is asked for one."""
    roles: frozenset[str] = frozenset()
    tenant: str = ""
    """The party that the caller belongs to; empty for none."""
    collections: tuple[str, ...] = ()
    """Patterns of the names of its collections, with `*`."""
    attributes: tuple[tuple[str, str], ...] = ()
    """More that the credential says, by name, for policies to read."""


NOBODY = Caller()
"""The caller where access control is off."""
_caller: ContextVar[Caller] = ContextVar("access_caller", default=NOBODY)


def caller_of() -> Caller:
    """The caller of the call under way. It is inherited by the tasks that the call starts."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Set the caller for the rest of the call."""
    _caller.set(caller)


def names_of(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """Names in the peer's certificate, the strongest first: SPIFFE ids, host names, then the common name.

    `auth_context` is gRPC's. gRPC gives the host names and addresses among the alternative names without their kind;
    without a certificate there are none.
    """
    if b"ssl" not in auth_context.get("transport_security_type", ()):
        return ()
    uris = [_uri(name.decode()) for name in auth_context.get("peer_uri", ())]
    hosts = [f"dns:{name.decode()}" for name in auth_context.get("peer_dns", ())]
    common = [f"cn:{name.decode()}" for name in auth_context.get("x509_common_name", ())]
    return tuple(uris + hosts + common)


def _uri(name: str) -> str:
    # Any other scheme gets a mark, so that no certificate can be called as a key is.
    return name if name.startswith("spiffe://") else f"uri:{name}"
