"""Callers of an embedder that never let up, in a process of their own (see `apart`).

`python -m drills.parts.flood ADDRESS CALLERS TEXTS WORDS PRIORITY`
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from itertools import count

from drills.parts.apart import apart, until_told
from services.chassis.client import StageChannel
from services.chassis.errors import ResourceExhausted, SluiceError
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.type.v1 import model_pb2

WORDS = (
    "the", "storm", "drove", "the", "ship", "before", "it", "over", "a", "dark", "sea",
    "until", "the", "harbour", "light", "came", "into", "view",
)  # fmt: skip
# Callers that are told when to come back do so, but a drill has no time for the whole of it.
LONGEST_PUSHBACK_SECONDS = 0.25
_CALL_SECONDS = 20.0


def passage(words: int) -> str:
    """Words without sense."""
    return " ".join(random.choices(WORDS, k=words))


async def embed(channel: StageChannel, texts: list[str], priority: model_pb2.Priority.ValueType) -> str:
    """Embed; the outcome."""
    stub = embedder_pb2_grpc.EmbedderServiceStub(channel.channel)
    request = embedder_pb2.EmbedTextsRequest(texts=texts, kind=embedder_pb2.TEXT_KIND_DOCUMENT, priority=priority)
    try:
        await channel.call(stub.EmbedTexts, request, deadline=time.monotonic() + _CALL_SECONDS)
    except ResourceExhausted as refusal:
        await asyncio.sleep(min(LONGEST_PUSHBACK_SECONDS, refusal.retry_after or 0))
        return f"RESOURCE_EXHAUSTED with{'out' if refusal.retry_after is None else ''} pushback"
    except SluiceError as error:
        return error.reason
    return "OK"


def flood(
    address: str, callers: int, texts: int, words: int, priority: model_pb2.Priority.ValueType
) -> AbstractAsyncContextManager[Counter[str]]:
    """Callers with a number of texts of a number of words each; the outcomes are known afterwards."""
    return apart("drills.parts.flood", address, callers, texts, words, priority)


async def main(address: str, callers: int, texts: int, words: int, priority: int) -> None:
    """The process."""
    ended: Counter[str] = Counter()
    numbers, base = count(), [passage(words) for _ in range(texts)]

    async def caller(channel: StageChannel) -> None:
        while True:
            # The same text twice would be computed once.
            ended[await embed(channel, [f"{next(numbers)} {text}" for text in base], priority)] += 1  # type: ignore[arg-type]

    async with StageChannel(address) as channel:
        await until_told([caller(channel) for _ in range(callers)], ended)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
