"""Callers that never let up, in a process of their own: what they cost is not to slow down who measures.

Such a program calls until its standard input ends, and then prints how the calls ended, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def apart(module: str, *arguments: object) -> AsyncIterator[Counter[str]]:
    """Run a program of callers beside the block; the outcomes are known afterwards."""
    ended: Counter[str] = Counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *map(str, arguments),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield ended
        said, _errors = await process.communicate(b"")
        ended.update(json.loads(said))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_told(callers: Iterable[Coroutine[Any, Any, None]], ended: Counter[str]) -> None:
    """Let callers call until the other side has had enough, and tell it how the calls ended."""
    tasks = [asyncio.create_task(caller) for caller in callers]
    print("calling", flush=True)  # noqa: T201  # what the other side waits for
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(ended))  # noqa: T201
