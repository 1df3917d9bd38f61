"""`python -m drills.feedback.sender ADDRESS NAME FILE RATE BATCH ENDLESS`: one client that has events recorded.

The requests are those of a file, which were made before: the drill measures the services, not the making of tokens. It
says "ready", waits for a line, and sends RATE events a second; with ENDLESS, further ones until its input ends. Every
request is sent again until it is answered. At the end it prints what came of it, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from drills.feedback.sent import read
from sluice.gateway.v1 import feedback_pb2 as pb

METHOD = "/sluice.gateway.v1.FeedbackService/RecordEvents"
MOST_AT_ONCE = 8
_CALL_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)


class Sender:
    """Sends requests side by side."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = channel.unary_unary(METHOD, response_deserializer=pb.RecordEventsResponse.FromString)
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.acknowledged: list[int] = []
        """Numbers of the requests that were answered."""
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []

    async def send(self, number: int, raw: bytes) -> None:
        """Begin to send one, when there is a place."""
        await self._places.acquire()
        task = asyncio.create_task(self._insist(number, raw))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def all_answered(self) -> None:
        """Return when all are answered; raise what one of them has failed with."""
        await asyncio.gather(*self._tasks)

    async def _insist(self, number: int, raw: bytes) -> None:
        try:
            while True:
                started = time.perf_counter()
                try:
                    reply = await self._call(raw, timeout=_CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    self.counts[error.code().name] += 1
                    if error.code() not in _RETRIED:
                        raise
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                self.seconds.append(time.perf_counter() - started)
                self.counts["stored"] += reply.stored_count
                self.counts["duplicates"] += reply.duplicate_count
                self.counts["rejected"] += len(reply.rejections)
                self.acknowledged.append(number)
                return
        finally:
            self._places.release()


async def main(address: str, name: str, file: str, rate: float, batch: int, endless: bool) -> None:
    """Send, and say what came of it."""
    made = list(read(Path(file)))
    async with grpc.aio.insecure_channel(address) as channel:
        sender = Sender(channel)
        print("ready", flush=True)  # noqa: T201  # what the other side waits for
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.readline)
        ended = loop.run_in_executor(None, sys.stdin.read)
        started = time.perf_counter()
        for place, raw in enumerate(_with_more(made, name, batch) if endless else made):
            await asyncio.sleep(max(0.0, started + place * batch / rate - time.perf_counter()))
            if endless and ended.done():
                break
            await sender.send(place, raw)
        await sender.all_answered()
        seconds = time.perf_counter() - started
    report = {
        "name": name,
        "seconds": seconds,
        "acknowledged": sender.acknowledged,
        "counts": sender.counts,
        "call_seconds": sorted(sender.seconds),
    }
    print(json.dumps(report), flush=True)  # noqa: T201  # what the other side waits for


def _with_more(made: list[bytes], name: str, batch: int) -> Iterator[bytes]:
    yield from made
    # Takes seconds to import, and is rarely needed.
    from drills.feedback.traffic import requests  # noqa: PLC0415

    yield from requests(name, batch, len(made))


if __name__ == "__main__":
    _address, _name, _file, _rate, _batch, _endless = sys.argv[1:]
    asyncio.run(main(_address, _name, _file, float(_rate), int(_batch), _endless == "endless"))
