"""Commands of operators: who, why, and what makes a repeat harmless."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from pydantic import TypeAdapter

from services.chassis.errors import AlreadyExists, InvalidArgument
from services.rollout.storage.records import Records
from sluice.rollout.v1 import rollout_pb2 as pb

T = TypeVar("T")
OURSELVES = "sluice"
"""Actor of the service's own decisions."""
MAX_ACTOR_BYTES = 256
MAX_REASON_BYTES = 4096
MAX_COMMAND_ID_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Command:
    """Actor and reason of a command. Without a command_id a repeat counts as another command."""

    actor: str
    reason: str
    command_id: str

    @classmethod
    def from_proto(cls, message: pb.Command) -> Self:
        """Read a command; `once` checks it."""
        return cls(message.actor, message.reason, message.command_id)


def once(
    records: Records, command: Command, asked: object, work: Callable[[], T], kept: TypeAdapter[T], now: float
) -> T:
    """Carry out a command, or return what it returned the first time. `asked` tells it from others with its id."""
    _check(command)
    fingerprint = hashlib.sha256(repr(asked).encode()).hexdigest()
    if command.command_id and (earlier := records.remembered(command.command_id)) is not None:
        if earlier[0] != fingerprint:
            raise AlreadyExists(f"command_id {command.command_id!r} was another command's", reason="COMMAND_ID_REUSED")
        return kept.validate_python(earlier[1])
    returned = work()
    if command.command_id:
        records.remember(command.command_id, fingerprint, now, kept.dump_python(returned, mode="json"))
    return returned


def _check(command: Command) -> None:
    if command.actor.strip().casefold() == OURSELVES:
        raise InvalidArgument("command.actor", f"is {OURSELVES!r}, which is the name of the service's own decisions")
    if not command.actor.strip() or len(command.actor.encode()) > MAX_ACTOR_BYTES or not command.actor.isprintable():
        raise InvalidArgument("command.actor", f"must say who, in 1 to {MAX_ACTOR_BYTES} bytes of printable text")
    if not command.reason.strip() or len(command.reason.encode()) > MAX_REASON_BYTES:
        raise InvalidArgument("command.reason", f"must say why, in 1 to {MAX_REASON_BYTES:,} bytes")
    if len(command.command_id) > MAX_COMMAND_ID_CHARACTERS or "\0" in command.command_id + command.reason:
        raise InvalidArgument("command.command_id", f"must be at most {MAX_COMMAND_ID_CHARACTERS} characters")
