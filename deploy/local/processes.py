"""Processes that may outlive whoever started them: told apart from others that got the same number later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """One process, for good: its number together with when it started, in clock ticks since the machine did."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this number now; one that has just died is never alive."""
        return cls(pid, _start_time(pid) or 0)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return _start_time(self.pid) == self.started

    @property
    def resident_mib(self) -> float:
        """Resident memory in MiB; 0 when it is gone."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        return 0

    def terminate(self) -> None:
        """Asks it to stop."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and, as the leader of its session, what it started."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


async def stop(processes: Iterable[Process], *, grace_seconds: float) -> None:
    """Stops processes: asked first, killed where the grace did not do. On return, even by an error, all are ended."""
    remaining = list(processes)
    try:
        for process in remaining:
            process.terminate()
        await _gone(remaining, grace_seconds)
    finally:
        for process in remaining:
            process.kill()
    await _gone(remaining, grace_seconds)


async def _gone(processes: Iterable[Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.alive for process in processes) and time.monotonic() < deadline:  # noqa: ASYNC110 - not ours to await
        await asyncio.sleep(_POLL_SECONDS)


def _start_time(pid: int) -> int | None:
    """When a process started, or None when there is none or only its exit status is left (proc(5), fields 3 and 22)."""
    try:
        # The second field, the command's name in brackets, may itself contain blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
