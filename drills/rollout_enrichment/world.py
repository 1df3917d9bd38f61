"""People and towns, questions about them that take one passage or two, and relations that may become slow."""

from __future__ import annotations

import asyncio
import math
import random

from drills.rollout_regressions.platform import World
from drills.rollout_regressions.regressions import NONE, SEARCH, SERVICE, Context, Regression, SpoilingRetriever
from sluice_client import Document

EXPAND = f"/{SERVICE}/ExpandRelations"
# Time of a search, as over an index that is larger by far; with its spread.
INDEX_SECONDS, SPREAD = 0.4, 0.25
SLOW = Regression("slow relations", slower=6.0)
_FIRST = (
    *("Adeline", "Bruno", "Cecily", "Dorian", "Esther", "Fergus", "Giselle", "Horace"),
    *("Imogen", "Jasper", "Katrin", "Leopold", "Mirela", "Norbert", "Ottilie"),
)
_LAST = (
    *("Abernathy", "Blackwood", "Castellan", "Drummond", "Eastlake"),
    *("Fairweather", "Greenhalgh", "Hollister", "Ingleby", "Jessop"),
)
_ENDS = ("ford", "wick", "mere", "holt")
_TOWNS = [f"{start}{end}" for start in ("Alder", "Bram", "Cold", "Dun", "Elm") for end in _ENDS]
_RIVERS = ["Severel", "Tamber", "Wyvale", "Ouseby", "Trenna", "Kelder", "Avonby", "Derrow"]
_TRADES = ["baker", "clockmaker", "glazier", "botanist", "cartographer", "weaver", "ferryman", "printer"]


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
    """One passage a person, which names a town, and one a town, which names a river."""
    chance = random.Random(5)
    people = [f"{first} {last}" for last in _LAST for first in _FIRST]
    return [
        *(
            Document(name, name, f"{name} is a {chance.choice(_TRADES)}. {name} was born in {chance.choice(_TOWNS)}.")
            for name in people
        ),
        *(
            Document(town, town, f"{town} is a small town on the river {_RIVERS[place % len(_RIVERS)]}.")
            for place, town in enumerate(_TOWNS)
        ),
    ]


def questions() -> list[str]:
    """Two of three questions take one passage; the third takes the person's and the town's."""
    people = [f"{first} {last}" for last in _LAST for first in _FIRST]
    return [
        question
        for place, name in enumerate(people)
        for question in (
            f"Where was {name} born?",
            f"Which river flows through {_TOWNS[place % len(_TOWNS)]}?",
            f"On which river is the town where {name} was born?",
        )
    ]


WORLD = World(
    documents,
    questions,
    Relations,
    embedder={"EMBEDDING_MODEL": "all-MiniLM-L6-v2", "INFERENCE_THREADS": "1", "CACHE_ENTRIES": "4096"},
    gateway={"TOKEN_VECTORS": "1"},
)
