"""One side of a comparison: starts the stack of its checkout, and asks it the questions of standard input.

It runs under two commits, so it uses only what both have. Every line in and out is JSON: first the set-up, answered by
{}, then windows of searches until the input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
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


def cpu_seconds() -> float:
    """Processor time of this process's children, the stages (proc(5): utime and stime)."""
    stats = (stat.read_text().rpartition(")")[2].split() for stat in Path("/proc").glob("[0-9]*/stat"))
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in stats if int(fields[1]) == os.getpid())
    return ticks / os.sysconf("SC_CLK_TCK")


async def window(client: Any, asked: dict[str, Any]) -> dict[str, float]:
    """Ask questions one after the other; milliseconds of a search."""
    features = Features(**asked["features"])
    before, seconds = cpu_seconds(), []
    for question in asked["questions"]:
        started = time.perf_counter()
        await client.search(question, features=features)
        seconds.append(time.perf_counter() - started)
    return {"p50": statistics.median(seconds) * 1000, "processor time": (cpu_seconds() - before) * 1000 / len(seconds)}


async def main() -> None:
    """Serve until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    setup = json.loads(sys.stdin.readline())
    stack = LocalStack(name=setup["name"], environment=setup["environment"], data=Path(setup["data"]))
    async with stack, Client(stack.address("gateway"), timeout=30) as client:
        await client.index_all(Document(str(number), "", text) for number, text in enumerate(setup["documents"]))
        print("{}", file=answers, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await window(client, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
