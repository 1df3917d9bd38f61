"""The gate that every call of a stage passes: who calls, and may it?

Its files are read again when they change. While one of them cannot be read, every call is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from services.chassis import logs
from services.chassis.access.callers import KEY_PREFIX, Callers, Unreadable
from services.chassis.access.files import Source
from services.chassis.access.identity import NOBODY, Caller, caller_of, names_of
from services.chassis.access.policy import DEFAULT_POLICY, Condition, Decision, Policy
from services.chassis.access.rpcs import RPCS, Rpc
from services.chassis.access.tokens import Refused, Tokens
from services.chassis.audit.entry import note
from services.chassis.errors import PermissionDenied, StartupError, Unauthenticated
from services.chassis.settings import StageSettings
from services.chassis.validation import split_version

LOOK_SECONDS = 1.0
_FETCH_SECONDS = 60.0
_MOST_REMEMBERED = 10_000
_SEEING = RPCS["/sluice.gateway.v1.CollectionService/ListCollections"]

_log = logs.get_logger("access")


@dataclass(frozen=True, slots=True)
class Rules:
    """All that decides, as it was read last."""

    callers: Callers
    policy: Policy
    tokens: Tokens | None
    _by_token: dict[bytes, tuple[Caller, float]] = field(default_factory=dict)
    _by_names: dict[tuple[str, ...], Caller] = field(default_factory=dict)

    def of_token(self, token: str) -> Caller:
        """The caller of a key or a JWT. Raises Refused."""
        # Not the token itself, which a dump of the memory would show.
        digest = hashlib.sha256(token.encode()).digest()
        known = self._by_token.get(digest)
        if known is None or known[1] <= time.time():
            known = self._checked(token)
            _remember(self._by_token, digest, known)
        return known[0]

    def of_certificate(self, names: tuple[str, ...]) -> Caller:
        """The caller of a certificate."""
        known = self._by_names.get(names)
        if known is None:
            known = self.callers.of_certificate(names)
            _remember(self._by_names, names, known)
        return known

    def _checked(self, token: str) -> tuple[Caller, float]:
        if token.startswith(KEY_PREFIX):
            found = self.callers.of_key(token)
            if found is None:
                raise Refused("the key is unknown or has expired")
            caller, expires = found
            return caller, float("inf") if expires is None else expires.timestamp()
        if self.tokens is None:
            raise Refused("it is no key, and this stage takes no other tokens")
        return self.tokens.check(token, self.callers)


@dataclass(frozen=True, slots=True)
class _Passed:
    """A call that has passed the gate."""

    rules: Rules | None
    decision: Decision


_UNASKED = _Passed(None, Decision(True))
_passed: ContextVar[_Passed] = ContextVar("access_passed", default=_UNASKED)


def conditions_of() -> Sequence[Condition]:
    """Conditions on the documents that the call under way may see and change; all of them must hold."""
    return _passed.get().decision.conditions


def rules_of() -> Rules | None:
    """The rules that the call under way has passed; None where access control is off."""
    return _passed.get().rules


def sees_everything() -> bool:
    """True where access control is off."""
    return _passed.get().rules is None


def sees(collection: str) -> bool:
    """True if the caller of the call under way may know of a collection."""
    rules = _passed.get().rules
    name, _ = split_version(collection)
    return rules is None or rules.policy.decide(caller_of(), _SEEING, name).allowed


class Gate:
    """Tells who calls, and refuses what no policy permits."""

    def __init__(self, sources: Mapping[str, Source] | None = None, issuer: str = "", audience: str = "") -> None:
        """Without `sources` the gate is open."""
        self._sources = sources
        self._issuer = issuer
        self._audience = audience
        self._rules: Rules | None = None
        self._fetched = float("-inf")

    @classmethod
    def of(cls, settings: StageSettings) -> Gate:
        """Read the files that the settings name. Raises StartupError if one cannot be used. Blocks."""
        if not _is_on(settings):
            return cls()
        places = {
            "AUTH_CALLERS": str(settings.auth_callers or ""),
            "AUTH_JWKS": settings.auth_jwks,
            "AUTH_POLICY": str(settings.auth_policy or DEFAULT_POLICY),
        }
        sources = {variable: Source(variable, place) for variable, place in places.items() if place}
        gate = cls(sources, settings.auth_issuer, settings.auth_audience)
        try:
            gate._read()
        except Unreadable as error:
            raise StartupError(
                f"access control: {error}", remedy="Correct the file, or name another; docs/access.md has examples."
            ) from None
        if settings.grpc_tls_certificate is None and not _is_loopback(settings.grpc_host):
            _log.warning(
                "tokens cross the network in clear; set GRPC_TLS_CERTIFICATE, or have a mesh encrypt them",
                host=settings.grpc_host,
            )
        return gate

    @property
    def is_open(self) -> bool:
        """True if nobody is asked for a credential."""
        return self._sources is None

    async def kept(self) -> None:
        """Read the files again whenever they change. Never returns."""
        while not self.is_open:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await asyncio.to_thread(self._read):
                    _log.info("access control was read again")
            except Unreadable as error:
                if self._rules is not None:
                    _log.error("access control cannot be read; every call is refused", problem=str(error))
                self._rules = None
        await asyncio.Event().wait()

    def identify(
        self, auth_context: Mapping[str, Iterable[bytes]], metadata: Sequence[tuple[str, str | bytes]]
    ) -> Caller:
        """Return the caller of a call by its metadata or its connection. Raises Unauthenticated."""
        if self.is_open:
            return NOBODY
        rules = self._in_force()
        given = next((value for key, value in metadata if key == "authorization"), None)
        if isinstance(given, str):
            scheme, _, token = given.partition(" ")
            try:
                if scheme.lower() != "bearer":
                    raise Refused("it is no bearer token")
                return rules.of_token(token.strip())
            except Refused as refused:
                raise Unauthenticated(f"authorization: {refused}; send another token", reason="TOKEN_REFUSED") from None
        if names := names_of(auth_context):
            return rules.of_certificate(names)
        raise Unauthenticated(
            "this call needs a credential; send `authorization: Bearer TOKEN` (SLUICE_TOKEN of the command), or a "
            "client certificate",
            reason="NO_CREDENTIAL",
        )

    def admit(self, rpc: Rpc | None, default: str, request: Any) -> None:
        """Let a request pass, with the conditions of the policies and-ed to its filter. Raises PermissionDenied.

        `default` is the collection that is meant where the request names none.
        """
        if self.is_open:
            return
        rules, caller = self._in_force(), caller_of()
        collections = [None] if rpc is None else rpc.collections_of(request, default)
        conditions: list[Condition] = []
        for collection in collections:
            decision = Decision(False) if rpc is None else rules.policy.decide(caller, rpc, collection)
            conditions += decision.conditions
            _passed.set(_Passed(rules, replace(decision, conditions=tuple(conditions))))
            note(policies=decision.policies)
            if rpc is None or not decision.allowed:
                what = rpc.action if rpc else "this call"
                where = "" if collection is None else f" on {collection!r}"
                raise PermissionDenied(
                    f"{caller.identity} may not {what}{where}; an operator sees why with `sluice access check`"
                )
        if rpc is not None and rpc.filter_field:
            for condition in conditions:
                added = rpc.filter_of(request).must.add(field=condition.field)
                added.equals.string_value = condition.value

    def _in_force(self) -> Rules:
        if self._rules is None:
            raise PermissionDenied(
                "access control of this stage cannot be read, so every call is refused; its log says why",
                reason="ACCESS_UNREADABLE",
            )
        return self._rules

    def _read(self) -> bool:
        """Read what has changed; return True if anything has. Raises Unreadable."""
        sources = self._sources or {}
        changed = self._rules is None
        for source in sources.values():
            try:
                if not source.remote or self._is_due():
                    changed |= source.look()
            except Unreadable as error:
                # An issuer that cannot be reached takes nobody's keys back.
                if not (source.remote and source.content):
                    raise Unreadable(f"{source.variable}: {source.place}: {error}") from None
                _log.warning("the keys of tokens cannot be fetched; the last ones hold", problem=str(error))
        if changed:
            self._rules = self._made(sources)
        return changed

    def _is_due(self) -> bool:
        if time.monotonic() - self._fetched < _FETCH_SECONDS:
            return False
        self._fetched = time.monotonic()
        return True

    def _made(self, sources: Mapping[str, Source]) -> Rules:
        variable = ""
        try:
            variable = "AUTH_CALLERS"
            callers = Callers.read(sources[variable].content) if variable in sources else Callers()
            variable = "AUTH_JWKS"
            tokens = None
            if variable in sources:
                tokens = Tokens.read(sources[variable].content, self._issuer, self._audience)
            variable = "AUTH_POLICY"
            policy = Policy.read(sources[variable].content, callers)
        except Unreadable as error:
            raise Unreadable(f"{variable}: {sources[variable].place}: {error}") from None
        return Rules(callers, policy, tokens)


def _is_on(settings: StageSettings) -> bool:
    """True if callers are asked for credentials. Raises StartupError where they should be and nothing tells how."""
    configured = settings.auth_callers is not None or settings.auth_jwks != ""
    if settings.auth == "off":
        _log.info("access control is off: whoever reaches this stage may do everything", auth="off")
        return False
    if configured:
        return True
    if settings.auth == "auto" and _is_loopback(settings.grpc_host):
        _log.info("access control is off, as this stage is bound to this machine alone", host=settings.grpc_host)
        return False
    raise StartupError(
        f"AUTH: nothing tells the callers of {settings.grpc_host}",
        remedy="Name a file of callers in AUTH_CALLERS, or a key set in AUTH_JWKS; or set AUTH=off, if whoever reaches "
        "this stage may do everything. docs/access.md has examples.",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("unix:")


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
