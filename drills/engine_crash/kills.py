"""SIGKILLs of the process that computes, and of its parent, at random moments."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.local.paths import ROOT
from drills.engine_crash.writer import COMPARED, READY

_LONGEST = 1.5  # seconds between two kills, from when all is well again
_SETTLED, _PARENTS = 0.8, 0.3  # shares of the kills for which that is so, and of those of the parent
_FOREVER = 100_000.0


async def kills(folder: Path, number: int) -> dict[str, Any]:
    """Kill one of the two each time; the row."""
    killed = {"child": 0, "parent": 0}
    process = None
    while sum(killed.values()) < number:
        if process is None:
            process = await _writer(folder, _FOREVER)
        elif random.random() < _SETTLED:
            await _ready(folder, process)  # else it is killed while it comes back, too
        await asyncio.sleep(random.uniform(0, _LONGEST))
        (folder / READY).unlink(missing_ok=True)
        if random.random() < _PARENTS:
            process.kill()
            await process.wait()
            process = None
            killed["parent"] += 1
        elif child := _child(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                killed["child"] += 1
    if process is not None:
        process.kill()
        await process.wait()
    last = await _writer(folder, 3)
    status = await last.wait()
    compared = [json.loads(line) for line in (folder / COMPARED).read_text(encoding="utf-8").splitlines()]
    lost = sum(len(line["lost"]) for line in compared)
    doubled, torn = (sum(line[name] for line in compared) for name in ("doubled", "torn"))
    observed = (
        f"{lost} lost or not deleted, {doubled} doubled, {torn} of two revisions, in {len(compared)} comparisons of up "
        f"to {max(line['passages'] for line in compared)} passages; the last writer ended with {status}"
    )
    return {
        "drill": f"embedded engine: SIGKILL of its process ({killed['child']}) and of the parent "
        f"({killed['parent']}), while writing, switching, flushing",
        "kills": sum(killed.values()),
        "expected": "every acknowledged write and deletion, each passage once and whole, after every kill",
        "observed": observed,
        "ok": not (lost or doubled or torn or status) and len(compared) > killed["parent"],
    }


async def _writer(folder: Path, seconds: float) -> asyncio.subprocess.Process:
    (folder / READY).unlink(missing_ok=True)
    with (folder / "writer.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "drills.engine_crash.writer", str(folder), str(seconds)),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    await _ready(folder, process)
    return process


async def _ready(folder: Path, process: asyncio.subprocess.Process) -> None:
    """Return when the writer has compared once more."""
    async with asyncio.timeout(120):
        while not (folder / READY).exists():
            if process.returncode is not None:
                raise RuntimeError((folder / "writer.log").read_text(encoding="utf-8", errors="replace")[-3000:])
            await asyncio.sleep(0.02)


def _child(parent: int) -> int | None:
    with suppress(OSError):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
        return int(children[0]) if children else None
    return None
