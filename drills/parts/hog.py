"""A caller that takes all it can get, in a process of its own: what it costs is not to slow down who measures.

`python -m drills.parts.hog ADDRESS TOKEN CONNECTIONS CALLS` keeps so many searches in flight, on so many connections,
until its standard input ends, and then prints how they ended, as JSON. It calls again at once, whatever it is told.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import grpc

from drills.parts.flood import passage
from services.chassis.status import error_from
from sluice.gateway.v1 import search_pb2, search_pb2_grpc

_CALL_SECONDS = 10.0


@asynccontextmanager
async def hog(address: str, token: str, connections: int, calls: int) -> AsyncIterator[Counter[str]]:
    """So many searches in flight; how they ended is known afterwards."""
    ended: Counter[str] = Counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drills.parts.hog", address, token, str(connections), str(calls),
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


async def main(address: str, token: str, connections: int, calls: int) -> None:
    """The process."""
    ended: Counter[str] = Counter()
    numbers = count()
    metadata = (("authorization", f"Bearer {token}"),)

    async def caller(channel: grpc.aio.Channel) -> None:
        stub: Any = search_pb2_grpc.SearchServiceStub(channel)
        while True:
            request = search_pb2.SearchRequest(query=f"{passage(5)} {next(numbers)}", collection="load")
            try:
                await stub.Search(request, timeout=_CALL_SECONDS, metadata=metadata)
                ended["OK"] += 1
            except grpc.aio.AioRpcError as error:
                ended[error_from(error).reason] += 1

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(connections)]
    tasks = [asyncio.create_task(caller(channels[number % connections])) for number in range(calls)]
    print("calling", flush=True)  # noqa: T201  # what the other side waits for
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(ended))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
