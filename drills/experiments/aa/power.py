"""`python -m drills.experiments.aa.power`: users that A/B and interleaving need for the same change of a ranking.

Rankings are made up here: the grades of passages with noise, of which the treatment has less. People click by the
position-based model, and the product's sequences decide. The drill does the same with real answers (`race`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from drills.experiments.people import CLICK_MODELS, Flags, Floats, Places
from drills.experiments.replay import (
    Draw,
    Look,
    click_rates,
    interleaved,
    look_interleaved,
    look_side_by_side,
    needed,
    reciprocal_ranks,
    side_by_side,
)
from services.gateway.search.order.interleaving import Coin, draft

CHANGES = {"large": 0.35, "middle": 0.5, "small": 0.6}
"""Noise of the treatment; the control has `_NOISE`."""
_NOISE = 0.7
_QUESTIONS, _PASSAGES, _PLACES, _USERS = 200, 30, 10, 16
_METRICS: dict[str, Callable[[Flags], Floats]] = {"reciprocal rank": reciprocal_ranks, "click rate": click_rates}


def rankings(noise: float, seed: int = 1) -> tuple[Floats, Floats, Places]:
    """Grades by arm, question and place; and those of interleaved answers with their teams, for some users each."""
    chance = np.random.default_rng(seed)
    grades = chance.choice([0.0, 0.5, 1.0], (_QUESTIONS, _PASSAGES), p=[0.8, 0.1, 0.1])
    first, second = (
        np.argsort(-(grades + chance.normal(0.0, each, grades.shape)), axis=1)[:, :_PLACES] for each in (_NOISE, noise)
    )
    shown, teams = [], []
    for question in range(_QUESTIONS):
        pair = (first[question].tolist(), second[question].tolist())
        for user in range(_USERS):
            coin = Coin("power", f"user-{user}", b"%d" % question)
            placed = list(islice(draft(pair, coin, set()), _PLACES))
            shown.append([grades[question, pair[one.arm][one.place]] for one in placed])
            teams.append([one.team for one in placed])
    arms = np.stack([np.take_along_axis(grades, ranking, axis=1) for ranking in (first, second)])
    return arms, np.array(shown), np.array(teams)


def power(repetitions: int, seed: int = 20) -> list[dict[str, Any]]:
    """Users needed for each change: one row a change and a method."""
    model = CLICK_MODELS[0]
    rows = []
    for change, noise in track(CHANGES.items(), "Changes"):
        arms, shown, teams = rankings(noise)
        ways: dict[str, tuple[Draw, Look]] = {
            "interleaving": (interleaved(shown, teams, model), look_interleaved),
            **{
                f"A/B, {name}": (side_by_side(arms, model, metric), look_side_by_side)
                for name, metric in _METRICS.items()
            },
        }
        for way, (draw, look) in ways.items():
            found = needed(draw, look, repetitions, seed)
            rows.append({"change": change, "way": way, "users": found.at_power, "wrong": found.wrong})
    return rows


def main(repetitions: Annotated[int, typer.Option(min=5, help="Experiments of each row.")] = 100) -> None:
    """Print users needed at power .8."""
    table = Table("change of the ranking", "way", "users", "decided for the worse")
    for row in power(repetitions):
        users = "more than 60,000" if row["users"] is None else f"{row['users']:,}"
        table.add_row(row["change"], row["way"], users, f"{row['wrong']}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
