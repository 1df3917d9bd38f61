"""Processes that may outlive the one that started them, safe against reused process ids."""

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
    """One process: its id together with its start, in clock ticks since the machine's."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this id now; one that has just died is not alive."""
        return cls(pid, _start_time(pid) or 0)

    @property
    def alive(self) -> bool:
        """True if it is running."""
        return _start_time(self.pid) == self.started

    @property
    def resident_mib(self) -> float:
        """Resident memory in MiB; 0 if it has ended."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        return 0

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and, as the leader of its session, the processes that it started."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


async def stop(processes: Iterable[Process], *, grace_seconds: float) -> None:
    """Stop processes: SIGTERM, then SIGKILL after the grace. On return, even by an error, all have ended."""
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
    """Return the start of a process, or None if it has ended (proc(5), fields 3 and 22)."""
    try:
        # The second field, the command's name in brackets, may contain blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
