"""Real answers of both arms to all questions, recorded once, and what people would do with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from drills.experiments.people import Flags, Floats, Places
from drills.experiments.world import RESULTS, Collection
from services.gateway.search import interleaving
from sluice_client import AsyncClient, Features

CONTROL, TREATMENT = "dense", "hybrid"
ARMS = {CONTROL: Features(dense=True, lexical=False), TREATMENT: Features(dense=True, lexical=True)}
COINS = 64
"""Interleaved answers for each question: those of so many users."""
_CONCURRENCY = 4
# The gateway drafts from what both arms have below the page as well.
_DEPTH = 2 * RESULTS


@dataclass(frozen=True)
class Drafts:
    """Interleaved answers, COINS for each question, one after the other."""

    passages: Sequence[Sequence[str]]
    grades: Floats
    teams: Places


class Recorded:
    """Answers of both arms to all questions of a collection."""

    def __init__(self, collection: Collection, rankings: dict[str, list[list[str]]]) -> None:
        self.collection = collection
        self.rankings = rankings

    @property
    def questions(self) -> int:
        """Number of questions."""
        return len(self.collection.questions)

    @cached_property
    def grades(self) -> Floats:
        """Grades by arm (the control first), question and place."""
        return np.array(
            [
                [self.collection.grades(question, ranking) for question, ranking in enumerate(self.rankings[arm])]
                for arm in ARMS
            ]
        )

    def draft(self, question: int, salt: str, user: str) -> tuple[list[str], list[int]]:
        """Passages and teams of the answer that a user gets in an interleaved experiment, by the gateway's own code."""
        raise NotImplementedError

    @cached_property
    def drafts(self) -> Drafts:
        """Interleaved answers with the coins of COINS users."""
        passages, grades, teams = [], [], []
        for question in range(self.questions):
            for user in range(COINS):
                found, sides = self.draft(question, "replay", f"user-{user}")
                passages.append(found)
                grades.append(self.collection.grades(question, found))
                teams.append(sides + [0] * (RESULTS - len(sides)))
        return Drafts(passages, np.array(grades), np.array(teams))
