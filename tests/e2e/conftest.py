"""Five real processes with real models, over a small part of the demo's corpus."""

from dataclasses import dataclass

import pytest
import pytest_asyncio

from demo.corpus import Corpus, load
from demo.indexing import collection_for, store
from deploy.local import LocalStack
from sluice_client import AsyncClient

# Where the answers are, and beside them a thin slice of everything else.
RELEVANT = {
    "argparse",
    "concurrent.futures",
    "decimal",
    "difflib",
    "filecmp",
    "getopt",
    "multiprocessing.pool",
    "optparse",
    "threading",
}
RELEVANT_TITLES = {"round", "multiprocessing.Pool"}
SLICE = 40


@dataclass(frozen=True)
class Stored:
    """A stack that was started for the second time, over what was stored the first time."""

    stack: LocalStack
    corpus: Corpus
    collection: str


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    passages = load(tmp_path_factory.mktemp("corpus")).passages
    return Corpus(
        tuple(
            passage
            for number, passage in enumerate(passages)
            if passage.module in RELEVANT or passage.title in RELEVANT_TITLES or number % SLICE == 0
        )
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stored(corpus, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    async with LocalStack(name="e2e", data=data) as stack, AsyncClient(stack.address("gateway")) as client:
        collection = await collection_for(client, corpus)
        await store(client, corpus, collection)
    async with LocalStack(name="e2e", data=data) as stack:
        yield Stored(stack, corpus, collection)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(stored):
    async with AsyncClient(stored.stack.address("gateway")) as client:
        yield client
