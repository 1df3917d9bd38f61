"""One side of a comparison: starts the stack of its checkout, and asks it the questions of standard input.

It runs under two commits, so it uses only what both have. Every line in and out is JSON: first the set-up, answered by
the process id of each stage, then windows of searches until the input ends.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import sluice_client
from deploy.local import LocalStack
from sluice_client import Document, Features

# The earlier commit's name of the same client.
Client: Any = vars(sluice_client).get("AsyncClient") or vars(sluice_client)["SluiceClient"]


def cpu_seconds(process_id: int) -> float:
    """Processor time that a process has used (clock_getcpuclockid(3))."""
    return time.clock_gettime(~process_id << 3 | 2)


async def window(client: Any, asked: dict[str, Any], processes: dict[str, int]) -> dict[str, float]:
    """Ask questions one after the other; milliseconds of a search."""
    features = Features(**asked["features"])
    before, seconds = sum(map(cpu_seconds, processes.values())), []
    for question in asked["questions"]:
        started = time.perf_counter()
        await client.search(question, features=features)
        seconds.append(time.perf_counter() - started)
    used = sum(map(cpu_seconds, processes.values())) - before
    return {"p50": statistics.median(seconds) * 1000, "processor time": used * 1000 / len(seconds)}


async def main() -> None:
    """Serve until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    setup = json.loads(sys.stdin.readline())
    stack = LocalStack(name=setup["name"], environment=setup["environment"], data=Path(setup["data"]))
    async with stack, Client(stack.address("gateway"), timeout=30) as client:
        await client.index_all(Document(str(number), "", text) for number, text in enumerate(setup["documents"]))
        processes = {stage: stack.pid(stage) for stage in stack.placements()}
        print(json.dumps(processes), file=answers, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await window(client, json.loads(line), processes)), file=answers, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
