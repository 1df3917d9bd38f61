"""Real answers of both arms to all questions, recorded once: whatever people do with them can then be replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from drills.experiments.people import Floats, Places
from drills.experiments.world import RESULTS, Collection
from services.gateway.search.order.interleaving import Coin, draft
from sluice_client import AsyncClient, Features

CONTROL, TREATMENT = "dense", "hybrid"
ARMS = {CONTROL: Features(dense=True, lexical=False), TREATMENT: Features(dense=True, lexical=True)}
COINS = 64
"""Interleaved answers to each question: those of so many users."""
_AT_ONCE = 4


@dataclass(frozen=True)
class Drafts:
    """Interleaved answers, COINS to each question, one after the other."""

    grades: Floats
    """By answer and place."""
    teams: Places


@dataclass(frozen=True)
class Recorded:
    """Answers of both arms to all questions of a collection."""

    collection: Collection
    rankings: Mapping[str, Sequence[Sequence[str]]]
    """Passages, best first, by arm and question."""

    @cached_property
    def grades(self) -> Floats:
        """Grades by arm (the control first), question and place."""
        return np.array(
            [
                [self.collection.grades(question, ranking) for question, ranking in enumerate(self.rankings[arm])]
                for arm in ARMS
            ]
        )

    @cached_property
    def drafts(self) -> Drafts:
        """Interleaved answers to all questions, with the coins of COINS users."""
        grades, teams = [], []
        for question in range(len(self.collection.questions)):
            for user in range(COINS):
                passages, sides = self.drafted(question, Coin("replay", f"user-{user}", str(question).encode()))
                grades.append(self.collection.grades(question, passages))
                teams.append([*sides, *[0] * (RESULTS - len(sides))])
        return Drafts(np.array(grades), np.array(teams))

    def drafted(self, question: int, coin: Coin) -> tuple[list[str], list[int]]:
        """Passages and teams of an interleaved answer, by the gateway's own draft."""
        rankings = self.rankings[CONTROL][question], self.rankings[TREATMENT][question]
        placed = list(islice(draft(rankings, coin, set()), RESULTS))
        return [rankings[one.arm][one.place] for one in placed], [one.team for one in placed]


async def recorded(client: AsyncClient, collection: Collection) -> Recorded:
    """Ask all questions in both arms."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def ranking(question: int, features: Features) -> list[str]:
        async with at_once:
            answer = await client.search(
                collection.text(question), limit=RESULTS, collection=collection.index, features=features
            )
        return [result.passage.id for result in answer.results]

    return Recorded(
        collection,
        {
            arm: await asyncio.gather(*(ranking(question, flags) for question in range(len(collection.questions))))
            for arm, flags in ARMS.items()
        },
    )
