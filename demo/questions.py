"""Questions of the demo, and its configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.type.v1 import features_pb2
from sluice_client import Answer, AsyncClient, Features

QUESTIONS = (
    "run a function in a pool of worker threads",
    "parse command line options",
    "compare two files line by line",
    "round a number to the nearest even digit in money",
    "cache the results of a function",
    "pick a random element from a list",
    "keep a list sorted while inserting items",
    "run a shell command and read its output",
)
_LATE = features_pb2.RERANK_METHOD_LATE
CONFIGS: Mapping[str, Features] = {
    "off": Features(rerank=False, expansion=False),
    "rerank": Features(rerank=True, rerank_method=_LATE, expansion=False),
    "all": Features(rerank=True, rerank_method=_LATE, expansion=True),
}
LIMIT = 10
# The demo shares its processors with whatever else this machine does, and nobody waits for it in a hurry.
_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """One question, asked in one way."""

    question: str
    config: str
    answer: Answer


async def ask(client: AsyncClient, question: str, config: str, *, collection: str) -> Run:
    """Ask a question with a configuration of CONFIGS. Raises SluiceError."""
    answer = await client.search(
        question, limit=LIMIT, collection=collection, features=CONFIGS[config], timeout=_DEADLINE_SECONDS
    )
    return Run(question, config, answer)
