"""Files and addresses that are read again while a stage runs."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.chassis.access.callers import Unreadable

_MOST_BYTES = 4 * 2**20
_FETCH_SECONDS = 5.0


@dataclass
class Source:
    """A file, or an `https://` address, and its content as it was last read."""

    variable: str
    """The setting that names it."""
    place: str
    content: bytes = field(default=b"", repr=False)

    @property
    def remote(self) -> bool:
        """True if it is an address."""
        return self.place.startswith("https://")

    def look(self) -> bool:
        """Read it; return True if it has changed. Raises Unreadable. Blocks."""
        try:
            read: Callable[[], bytes] = self._fetched if self.remote else Path(self.place).read_bytes
            found = read()
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
            raise Unreadable(f"cannot be read: {reason}") from None
        if len(found) > _MOST_BYTES:
            raise Unreadable(f"is larger than {_MOST_BYTES // 2**20} MiB")
        changed, self.content = found != self.content, found
        return changed

    def _fetched(self) -> bytes:
        with urllib.request.urlopen(self.place, timeout=_FETCH_SECONDS) as reply:  # noqa: S310  https alone
            read: bytes = reply.read(_MOST_BYTES + 1)
        return read
