"""Cost of token vectors at indexing: the rate with and without them, and their bytes on disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from bench.rerank.platform import Platform
from bench.rerank.results import Row, cost
from sluice_client import Document

PASSAGES = 256
ROUNDS = 3
BATCH = 64
CONCURRENCY = 2
# The folder of the engine that holds the named vector of the token vectors.
_ON_DISK = "vector_storage-late"


async def rates(platform: Platform, documents: Sequence[Document], on_round: Callable[[], None]) -> list[Row]:
    """Passages a second with and without token vectors, in rounds that take turns, each of other passages."""
    fresh = count()
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(ROUNDS):
        start = number * PASSAGES % max(1, len(documents) - PASSAGES)
        for tokens in (True, False) if number % 2 == 0 else (False, True):
            collection = f"rerank-rate-{next(fresh)}"
            await platform.client.create_collection(collection, token_vectors=tokens)
            started = time.perf_counter()
            stored = await platform.client.index_all(
                documents[start : start + PASSAGES],
                collection=collection,
                batch_size=BATCH,
                concurrency=CONCURRENCY,
            )
            found[tokens].append(stored / (time.perf_counter() - started))
            await platform.client.delete_collection(collection)
            on_round()
    with_tokens, without = (statistics.median(found[tokens]) for tokens in (True, False))
    return [
        cost("indexing, with token vectors", with_tokens, "passages/s", rounds=found[True]),
        cost("indexing, without", without, "passages/s", rounds=found[False]),
        cost("indexing, with over without", with_tokens / without, "", ">= 0.333"),
    ]


def on_disk(platform: Platform, collections: Iterable[str], passages: int) -> Row:
    """Bytes of token vectors a passage, as the file system has allocated them."""
    each = platform.size_on_disk(collections, _ON_DISK) / passages
    return cost("token vectors on disk", each, "bytes a passage", "<= 10240", passages=passages)
