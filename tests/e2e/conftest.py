"""Real processes with real models, over a small part of the demo's corpus.

`E2E_PROFILE=secured` has the same tests call with a key, by TLS.
"""

import os
from dataclasses import dataclass

import pytest
import pytest_asyncio

from demo.corpus import Corpus, load
from demo.indexing import collection_for, store
from deploy.local import LocalStack, secured
from deploy.local.secured import Secured
from sluice_client import AsyncClient, Credentials, Tls

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
PROFILE = os.environ.get("E2E_PROFILE", "development")


def credentials() -> Credentials:
    """Credentials of a client; the command finds them in the environment."""
    if PROFILE != secured.PROFILE:
        return {}
    files = Secured(secured.FOLDER)
    os.environ.update(files.client_environment())
    return {"tls": Tls(files.authority), "token": files.token("me")}


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
    async with (
        LocalStack(name="e2e", profile=PROFILE, data=data) as stack,
        AsyncClient(stack.address("gateway"), **credentials()) as client,
    ):
        collection = await collection_for(client, corpus)
        await store(client, corpus, collection)
    async with LocalStack(name="e2e", profile=PROFILE, data=data) as stack:
        yield Stored(stack, corpus, collection)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(stored):
    async with AsyncClient(stored.stack.address("gateway"), **credentials()) as client:
        yield client
