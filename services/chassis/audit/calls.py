"""Lines of the audit log: calls that may change something, refusals, and searches where that is asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from services.chassis.access.identity import Caller
from services.chassis.admission.callers import machine_of
from services.chassis.audit import entry
from services.chassis.audit.entry import Entry
from services.chassis.audit.methods import changes, object_reader
from services.chassis.audit.trail import AuditTrail, Record

_REFUSALS = {"PERMISSION_DENIED", "UNAUTHENTICATED"}
_REFUSED = {"QUOTA_EXCEEDED", "AUDIT_UNAVAILABLE"}


@dataclass(frozen=True, slots=True)
class AuditedCall:
    """One call, as its connection and its metadata tell it."""

    caller: Caller
    works_for: str
    """Name of the caller that it is made for."""
    peer: str
    request_id: str


class Audit:
    """The audit log of a stage's server."""

    def __init__(self, trail: AuditTrail, stage: str) -> None:
        self._trail = trail
        self._stage = stage

    def method(self, method: str, request_type: type[Message]) -> AuditedMethod:
        """The calls of one RPC, named by its path."""
        return AuditedMethod(self._trail, self._stage, method, request_type)


class AuditedMethod:
    """The calls of one RPC, for the audit log."""

    def __init__(self, trail: AuditTrail, stage: str, method: str, request_type: type[Message]) -> None:
        self._trail = trail
        self._stage = stage
        self._method = method
        self._changes = changes(method.rpartition("/")[2])
        self._waits = self._changes and trail.required
        self._object = object_reader(cast(Descriptor, request_type.DESCRIPTOR))

    def begin(self) -> Entry:
        """Make the entry of a call."""
        return entry.begin()

    def check(self) -> None:
        """Raise Unavailable if the log is required and the line of this call would not be written."""
        if self._waits:
            self._trail.check()

    def see(self, request: Message) -> None:
        """Note the things that the request of the current call names."""
        if self._changes:
            entry.note_object(self._object(request))

    async def done(self, made: Entry, call: AuditedCall) -> None:
        """Write the line of a call that has succeeded and wait for it, if that is required."""
        if self._waits:
            made.written = True
            await self._trail.write(self._record(made, call, "OK", ""))

    def ended(self, made: Entry, call: AuditedCall, code: str, reason: str) -> None:
        """Queue the line of a call, if it gets one."""
        if made.written:
            return
        if code in _REFUSALS or reason in _REFUSED:
            kind = (call.caller.identity or machine_of(call.peer), self._method, code, reason)
            self._trail.add_refusal(kind, self._record(made, call, code, reason))
        elif self._changes or made.asked:
            self._trail.add(self._record(made, call, code, reason), change=self._changes)

    def _record(self, made: Entry, call: AuditedCall, code: str, reason: str) -> Record:
        record: dict[str, Any] = {"time": time.time(), "stage": self._stage, "identity": call.caller.identity}
        if call.caller.tenant:
            record["tenant"] = call.caller.tenant
        if call.works_for and call.works_for != call.caller.identity:
            record["for"] = call.works_for
        record |= {"peer": call.peer, "method": self._method, "object": made.object, "outcome": code}
        if reason:
            record["reason"] = reason
        return record | {"request_id": call.request_id} | made.facts
