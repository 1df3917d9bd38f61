"""A caller that takes all it can get, in a process of its own (see `apart`).

`python -m drills.parts.hog ADDRESS TOKEN CONNECTIONS CALLS` keeps so many searches in flight, on so many connections.
It calls again at once, whatever it is told.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any

import grpc

from drills.parts.apart import apart, until_told
from drills.parts.flood import passage
from services.chassis.status import error_from
from sluice.gateway.v1 import search_pb2, search_pb2_grpc

_CALL_SECONDS = 10.0


def hog(address: str, token: str, connections: int, calls: int) -> AbstractAsyncContextManager[Counter[str]]:
    """So many searches in flight; how they ended is known afterwards."""
    return apart("drills.parts.hog", address, token, connections, calls)


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
    await until_told([caller(channels[number % connections]) for number in range(calls)], ended)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
