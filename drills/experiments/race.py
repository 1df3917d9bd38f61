"""The table of users needed: interleaving against A/B, by collection and click model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from drills.experiments import replay
from drills.experiments.answers import Recorded
from drills.experiments.people import CLICK_MODELS, ClickModel, Flags, Floats, Places
from drills.experiments.replay import Needed, Sample
from sluice_statistics import planning

PREFERENCE, RECIPROCAL_RANK, CLICK_RATE = "preference", "reciprocal rank", "click rate"
METRICS: Mapping[str, Callable[[Flags], Floats]] = {
    RECIPROCAL_RANK: replay.reciprocal_ranks,
    CLICK_RATE: replay.click_rates,
}
"""Of the A/B experiments; the first one is what the product takes if the plan names none."""
_PILOT_USERS = 40_000
_SEED = 20
_PROCESSES = 2


@dataclass(frozen=True)
class Cell:
    """Users that one metric needs, on one collection, with one click model."""

    collection: str
    model: str
    metric: str
    effect: float
    """Of the pilot: difference of the means, or the preference."""
    relative: float | None
    """The same as a share of the control's mean; None for the preference."""
    planned: int
    """Users by `sluice_statistics.planning`, from the pilot."""
    needed: Needed


@dataclass(frozen=True)
class _Task:
    collection: str
    metric: str
    model: ClickModel
    grades: Floats
    teams: Places | None
    repetitions: int

    def run(self) -> Cell:
        """Draw a pilot, plan by it, and repeat the experiment."""
        pilot = np.random.default_rng([_SEED, 0])
        if self.teams is not None:
            draw = replay.interleaved(self.grades, self.teams, self.model)
            sample = draw(_PILOT_USERS, pilot)
            credited = sample.values[~np.isnan(sample.values)]
            effect, relative = float(credited.mean()), None
            share = len(credited) / len(sample)
            planned = planning.interleaving(effect, share, variance=float(credited.var())).users
            look = replay.look_interleaved
        else:
            draw = replay.side_by_side(self.grades, self.model, METRICS[self.metric])
            sample = draw(_PILOT_USERS, pilot)
            effect, relative, variance = _side_by_side(sample)
            planned = planning.ab_test(effect, variance).users
            look = replay.look_side_by_side
        needed = replay.needed(draw, look, self.repetitions, _SEED)
        return Cell(self.collection, self.model.name, self.metric, effect, relative, planned, needed)


def race(answers: Sequence[Recorded], repetitions: int, told: Callable[[Cell], None]) -> list[Cell]:
    """Count the users that each method needs, everywhere."""
    tasks = [
        _Task(recorded.collection.name, metric, model, grades, teams, repetitions)
        for recorded in answers
        for model in CLICK_MODELS
        for metric, grades, teams in (
            (PREFERENCE, recorded.drafts.grades, recorded.drafts.teams),
            *((metric, recorded.grades, None) for metric in METRICS),
        )
    ]
    cells = []
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as pool:
        for cell in pool.map(_Task.run, tasks):
            told(cell)
            cells.append(cell)
    return cells


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row for each collection and click model, for the table and for build/experiments.json."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells:
        row = found.setdefault(
            (cell.collection, cell.model), {"collection": cell.collection, "click_model": cell.model}
        )
        row[cell.metric] = {
            "users": cell.needed.at_power,
            "between": [round(bound) for bound in (found_between.low, found_between.high)]
            if (found_between := cell.needed.between)
            else None,
            "planned": cell.planned,
            "effect": round(cell.effect, 4),
            "relative": None if cell.relative is None else round(cell.relative, 4),
            "wrong": cell.needed.wrong,
            "median": _median(cell.needed),
        }
    for row in found.values():
        ours = row[PREFERENCE]["users"]
        for metric in METRICS:
            theirs = row[metric]["users"]
            row[metric]["times_interleaving"] = round(theirs / ours, 1) if ours and theirs else None
    return list(found.values())


def totals(rows: Sequence[Mapping[str, Any]], most_share: float) -> dict[str, Any]:
    """Users of all rows together, the A/B experiments by the metric that the product takes unless it is told another.

    Where an A/B experiment came to no decision, the most users that were tried stand for it: it needs more.
    """
    ours = sum(row[PREFERENCE]["users"] or replay.MOST_USERS for row in rows)
    theirs = sum(row[RECIPROCAL_RANK]["users"] or replay.MOST_USERS for row in rows)
    shares = [
        (row[PREFERENCE]["users"] or replay.MOST_USERS) / (row[RECIPROCAL_RANK]["users"] or replay.MOST_USERS)
        for row in rows
    ]
    return {
        "users_interleave": ours,
        "users_ab": theirs,
        "users_share": round(ours / theirs, 4),
        "rows_within_share": sum(share <= most_share for share in shares),
        "rows": len(rows),
    }


def _side_by_side(sample: Sample) -> tuple[float, float, float]:
    ours, theirs = sample.values[sample.treated], sample.values[~sample.treated]
    effect = float(ours.mean() - theirs.mean())
    return effect, effect / float(theirs.mean()), float((ours.var() + theirs.var()) / 2)


def _median(needed: Needed) -> int | None:
    middle = sorted(needed.users)[len(needed.users) // 2]
    return None if middle == replay.NEVER else middle
