"""Names by which calls are told apart where they share something fairly: the identity of whoever wants them done."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from services.chassis.access.identity import Caller

STAGE_ROLES = frozenset({"gateway", "stage"})
"""Roles whose callers work for others, and are believed for whom."""

PLAIN = re.compile(r"[A-Za-z0-9._:%/@\[\]-]{1,128}")
"""Names that are taken from metadata, and written into it."""


def fair_name(caller: Caller, said: str, peer: str, *, edge: bool) -> str:
    """The name of a call's caller, for fairness.

    `said` is the name that the call itself gives, which is believed from stages only. Where access control is off,
    nobody can be told from a stage: there it is believed, but for a stage at the `edge`, whose callers are no stages.
    Without a name, the machine of the `peer` counts, and not its port.
    """
    if said and (caller.roles & STAGE_ROLES if caller.identity else not edge):
        return said
    return _plain(caller.identity) if caller.identity else machine_of(peer)


def machine_of(peer: str) -> str:
    """The machine of a peer, as gRPC gives it, without its port: `ipv4:10.0.0.7`."""
    kind, _, address = peer.partition(":")
    return f"{kind}:{address.rpartition(':')[0]}" if kind in ("ipv4", "ipv6") else peer


@lru_cache(maxsize=4096)
def _plain(identity: str) -> str:
    """Name that fits into metadata."""
    return identity if PLAIN.fullmatch(identity) else hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
