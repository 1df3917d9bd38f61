"""People, towns and Python's documentation by real models, questions about them, and relations that may become slow."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from itertools import product

from demo import corpus as documentation
from deploy.local.paths import BUILD
from drills.rollout_regressions.platform import World
from drills.rollout_regressions.regressions import NONE, SEARCH, SERVICE, Context, Regression, SpoilingRetriever
from services.experiment.bucketing import Arm, arm_of, bucket
from sluice_cli.loadtest import read_questions
from sluice_client import Document

FEATURE = "enrichment"
EXPAND = f"/{SERVICE}/ExpandRelations"
# Time of a search, as over an index that is larger by far; with its spread.
INDEX_SECONDS, SPREAD = 0.4, 0.25
SLOW = Regression("slow relations", slower=6.0)
_PASSAGES, _LONGEST_CHARACTERS = 300, 300
_USERS, _FIRST_PPM = 6000, 100_000
_FIRST = ("Adeline", "Bruno", "Cecily", "Dorian", "Esther", "Fergus", "Giselle", "Horace", "Imogen", "Jasper")
_LAST = ("Abernathy", "Blackwood", "Castellan", "Drummond", "Eastlake", "Fairweather")
_TOWNS = [f"{start}{end}" for start, end in product(("Alder", "Bram", "Cold", "Dun"), ("ford", "wick", "mere", "holt"))]
_RIVERS = ("Severel", "Tamber", "Wyvale", "Ouseby", "Trenna")
_PEOPLE = [f"{first} {last}" for last, first in product(_LAST, _FIRST)]


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
    """One passage a person, which names a town, one a town, which names a river, and a slice of Python's."""
    chance = random.Random(5)
    found = [one for one in documentation.load(BUILD / "demo").passages if len(one.text) <= _LONGEST_CHARACTERS]
    return [
        *(Document(name, name, f"{name} was born in the town of {chance.choice(_TOWNS)}.") for name in _PEOPLE),
        *(
            Document(town, town, f"{town} is a small town on the river {_RIVERS[place % len(_RIVERS)]}.")
            for place, town in enumerate(_TOWNS)
        ),
        *(
            Document(f"p{number}", passage.title, passage.text)
            for number, passage in enumerate(found[:: max(1, len(found) // _PASSAGES)])
        ),
    ]


def questions() -> list[str]:
    """Half of them have an answer in a passage or two; the others are of the kind for which the order matters."""
    asked = []
    for place, vague in enumerate(read_questions(None)):
        person, town = _PEOPLE[place % len(_PEOPLE)], _TOWNS[place % len(_TOWNS)]
        clear = (
            f"Where was {person} born?",
            f"On which river is the town where {person} was born?",
            f"Which river flows through {town}?",
        )
        asked += [clear[place % len(clear)], vague]
    return asked


def users() -> list[str]:
    """Users who are in an arm at the first share, and so at all. A pair counts once a user, so they are many."""
    found = (f"user-{number}" for number in itertools.count())
    in_arms = (user for user in found if arm_of(bucket(FEATURE, user), _FIRST_PPM, _FIRST_PPM) is not Arm.STANDARD)
    return list(itertools.islice(in_arms, _USERS))


WORLD = World(
    documents,
    questions,
    Relations,
    embedder={"EMBEDDING_MODEL": "all-MiniLM-L6-v2", "INFERENCE_THREADS": "1", "CACHE_ENTRIES": "4096"},
    gateway={"TOKEN_VECTORS": "1"},
    users=users,
    user_skew=0.0,
)
