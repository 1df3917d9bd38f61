"""A stack with real models over a thousand short passages, for benchmarks that ask whole searches."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

from demo import corpus as documentation
from demo.corpus import Corpus
from demo.indexing import collection_for, is_stored, store
from deploy.local import LocalStack
from deploy.local.paths import BUILD
from deploy.local.progress import starting
from sluice_client import AsyncClient

PASSAGES = 1000
# A cross-encoder on two cores reads a dozen of these in 75 ms, and one of the long ones.
LONGEST_CHARACTERS = 320
ENVIRONMENT = {
    "LOG_LEVEL": "WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    # Every question is to cost what a new one costs.
    "CACHE_ENTRIES": "0",
    "MAX_CONNECTION_AGE_SECONDS": "86400",
}


@dataclass(frozen=True, slots=True)
class Searched:
    """A running stack and what it holds."""

    stack: LocalStack
    client: AsyncClient
    collection: str
    titles: list[str]

    def question(self) -> str:
        """A question that no one asked before."""
        return f"what does {random.choice(self.titles)} do in case {random.randrange(10**6)}"


@asynccontextmanager
async def searched(name: str, console: Console) -> AsyncIterator[Searched]:
    """Start the stack, and store the passages if an earlier run did not."""
    corpus = documentation.load(BUILD / "demo")
    short = [passage for passage in corpus.passages if len(passage.text) <= LONGEST_CHARACTERS]
    corpus = Corpus(tuple(short[:: max(1, len(short) // PASSAGES)]))
    with starting(console) as on_serving:
        stack = LocalStack(name=name, data=BUILD / "data" / name, environment=ENVIRONMENT, on_serving=on_serving)
        await stack.__aenter__()
    try:
        async with AsyncClient(stack.address("gateway"), timeout=10) as client:
            collection = await collection_for(client, corpus)
            if not await is_stored(client, corpus, collection):
                with console.status(f"Indexing {len(corpus.passages)} passages"):
                    await store(client, corpus, collection)
            yield Searched(stack, client, collection, [passage.title for passage in corpus.passages])
    finally:
        await stack.stop()
