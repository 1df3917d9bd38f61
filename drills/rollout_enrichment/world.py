"""Python's documentation by real models, questions about it, and relations that may become slow."""

from __future__ import annotations

import asyncio
import math

from demo import corpus as documentation
from deploy.local.paths import BUILD
from drills.rollout_regressions.platform import World
from drills.rollout_regressions.regressions import NONE, SEARCH, SERVICE, Context, Regression, SpoilingRetriever
from sluice_cli.loadtest import read_questions
from sluice_client import Document

EXPAND = f"/{SERVICE}/ExpandRelations"
# Time of a search, as over an index that is larger by far; with its spread.
INDEX_SECONDS, SPREAD = 0.4, 0.25
SLOW = Regression("slow relations", slower=6.0)
PASSAGES, LONGEST_CHARACTERS = 800, 500


class Relations(SpoilingRetriever):
    """Hands everything on to a real retriever; searches take their time, and relations too where they are spoilt."""

    async def _handle(self, method: str, raw: bytes, context: Context) -> bytes:
        if method == SEARCH:
            await asyncio.sleep(INDEX_SECONDS * math.exp(self._chance.gauss(0, SPREAD)))
        elif method == EXPAND:
            self.treated += 1
            if self.regression is not NONE:
                await asyncio.sleep(INDEX_SECONDS * (self.regression.slower - 1))
        return await self._forward(method, raw, context)


def documents() -> list[Document]:
    """A slice of Python's documentation, which names functions and modules all the time."""
    found = [one for one in documentation.load(BUILD / "demo").passages if len(one.text) <= LONGEST_CHARACTERS]
    chosen = found[:: max(1, len(found) // PASSAGES)]
    return [Document(f"p{number}", passage.title, passage.text) for number, passage in enumerate(chosen)]


WORLD = World(
    documents,
    lambda: read_questions(None),
    Relations,
    embedder={"EMBEDDING_MODEL": "all-MiniLM-L6-v2", "INFERENCE_THREADS": "1", "CACHE_ENTRIES": "4096"},
    gateway={"TOKEN_VECTORS": "1"},
    in_arms_alone=True,
)
