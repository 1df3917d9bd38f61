"""The chain of an audit log: each line ends with a digest of itself and of the digest before.

So a line that was changed, taken out, put in or moved is found by `sluice audit verify`. A file beside the log, the
head, has the last number and digest: by it lines that were cut off at the end are found, too. With a key (HMAC) nobody
without it can make another chain; without one, whoever may write both files can. A new file begins with a line that
has the last digest of the one before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIGEST = "chain"
_TAIL_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class State:
    """The end of a chain."""

    number: int = 0
    digest: str = "0" * 64


class Chain:
    """The chain of one log. `key` may be empty."""

    def __init__(self, key: bytes) -> None:
        self.state = State()
        self._key = key
        self._head = Path()

    def linked(self, line: bytes) -> bytes:
        """Return a line, a JSON object, with its number and digest."""
        number = self.state.number + 1
        body = b'{"number":%d,%b' % (number, line[1:])
        digest = _digest(self._key, self.state.digest.encode() + body)
        self.state = State(number, digest)
        return b'%b,"%b":"%b"}' % (body[:-1], DIGEST.encode(), digest.encode())

    def begin(self, log: Path, torn_bytes: int) -> dict[str, Any]:
        """Return the record that goes on with a log, whose last line lost so many bytes of a torn one."""
        self._head = log.with_name(f"{log.name}.head")
        self.state = max(self.state, _read_head(self._head), _read_end(log), key=lambda state: state.number)
        record: dict[str, Any] = {"event": "begin", "previous": self.state.digest}
        return record | ({"torn_bytes": torn_bytes} if torn_bytes else {})

    def keep(self) -> None:
        """Write the head, in place: it has always the same length."""
        line = f'{{"number":{self.state.number:>20},"{DIGEST}":"{self.state.digest}"}}\n'
        descriptor = os.open(self._head, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def _digest(key: bytes, message: bytes) -> str:
    return hmac.digest(key, message, "sha256").hex() if key else hashlib.sha256(message).hexdigest()


def _read_head(head: Path) -> State:
    try:
        found = json.loads(head.read_text(encoding="utf-8"))
        return State(int(found["number"]), str(found[DIGEST]))
    except (OSError, ValueError, KeyError, TypeError):
        return State()


def _read_end(log: Path) -> State:
    """The state after the last line of a log; that of no chain if it has none."""
    try:
        with log.open("rb") as opened:
            opened.seek(-min(_TAIL_BYTES, opened.seek(0, os.SEEK_END)), os.SEEK_END)
            last = json.loads(opened.read().splitlines()[-1])
        return State(int(last["number"]), str(last[DIGEST]))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return State()
