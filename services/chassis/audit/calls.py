"""Lines of the audit log for calls: each that may change something, each refusal, and searches where that is asked for."""

from __future__ import annotations

import time
from typing import Any

from google.protobuf.message import Message

from services.chassis.access.identity import Caller
from services.chassis.audit import entry
from services.chassis.audit.entry import Entry
from services.chassis.audit.methods import changes, object_reader
from services.chassis.audit.trail import AuditTrail, Record

_REFUSALS = {"PERMISSION_DENIED", "UNAUTHENTICATED"}
_REFUSED = {"QUOTA_EXCEEDED", "AUDIT_UNAVAILABLE"}


class AuditedMethod:
    """The calls of one RPC, for the audit log."""

    def __init__(self, trail: AuditTrail, stage: str, method: str, request_type: type[Message]) -> None:
        self._trail = trail
        self._stage = stage
        self._method = method
        self._changes = changes(method.rpartition("/")[2])
        self._waits = self._changes and trail.required
        self._object = object_reader(request_type.DESCRIPTOR)

    def begin(self) -> Entry:
        """Make the entry of a call."""
        return entry.begin()

    def check(self) -> None:
        """Raise Unavailable if the log is required and the line of this call would not be written."""
        if self._waits:
            self._trail.check()

    def see(self, made: Entry, request: Message) -> None:
        """Note the things that a request names."""
        if self._changes:
            made.object = self._object(request)

    async def done(self, made: Entry, call: AuditedCall) -> bool:
        """Write the line of a call that has succeeded and wait for it, if that is required; True if it was."""
        if self._waits:
            await self._trail.write(self._record(made, call, "OK", ""))
        return self._waits

    def ended(self, made: Entry, call: AuditedCall, code: str, reason: str) -> None:
        """Queue the line of a call, if it gets one."""
        if code in _REFUSALS or reason in _REFUSED:
            kind = (call.caller.identity or call.machine, self._method, code, reason)
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
