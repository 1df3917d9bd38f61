"""`python -m drills.experiments.aa.compared`: ways to look at experiments all the time, where nothing differs.

Writes build/experiment-sequences.json: the share of experiments in which an interval ever excludes that nothing
differs, looked at after every event, and the median users until it does where something differs. ADR 84 quotes it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deploy.local.paths import BUILD, shown
from drills.experiments.aa.streams import (
    Activity,
    Flags,
    Floats,
    Scenario,
    Stream,
    answered,
    interleaved,
    known,
    proneness,
    side_by_side,
)
from sluice_statistics.answers import Metric
from sluice_statistics.sequences import Moments, deviations

RESULT = BUILD / "experiment-sequences.json"
ALPHA = 0.05
LIFT = 0.3
"""Relative effect on the click rate, where something differs."""
SCENARIOS = (
    Scenario("30 %, Zipf", Activity.ZIPF, 2000, 8000, 0.3),
    Scenario("30 %, log-normal, alike", Activity.LOG_NORMAL, 1000, 8000, 0.3, spread=50.0),
    Scenario("30 %, even, small", Activity.EVEN, 300, 2000, 0.3),
    Scenario("30 %, few people who come back", Activity.EVEN, 120, 8000, 0.3, spread=20.0),
    Scenario("30 %, large", Activity.EVEN, 20_000, 30_000, 0.3),
    Scenario("30 %, people learn", Activity.LOG_NORMAL, 1000, 8000, 0.3, learning=1.5),
    Scenario("2 %, Zipf", Activity.ZIPF, 5000, 20_000, 0.02, Metric.CLICK_RATE),
    Scenario("2 %, log-normal", Activity.LOG_NORMAL, 3000, 20_000, 0.02, Metric.CLICK_RATE, spread=20.0),
    Scenario("2 %, small", Activity.EVEN, 500, 1500, 0.02, Metric.CLICK_RATE),
    Scenario("preference, Zipf", Activity.ZIPF, 2000, 8000, 0.5, Metric.PREFERENCE),
    Scenario("preference, log-normal", Activity.LOG_NORMAL, 1000, 8000, 0.5, Metric.PREFERENCE, spread=50.0),
    Scenario("preference, small", Activity.EVEN, 300, 2000, 0.5, Metric.PREFERENCE),
    Scenario("preference, few people who come back", Activity.EVEN, 120, 8000, 0.5, Metric.PREFERENCE, spread=20.0),
)

Decided = Callable[[Stream, Moments, Moments | None, Flags], tuple[Flags, Any]]
"""From the moments after each event: an interval without zero at each look, and the users at each look."""


def asymptotic(smallest: int, expected_users: float) -> Decided:
    """The asymptotic sequence; its time is the number of users."""

    def decided(_: Stream, ours: Moments, theirs: Moments | None, __: Flags) -> tuple[Flags, Any]:
        value, error, users, enough = _difference(ours, theirs, smallest)
        return enough & (np.abs(value) > deviations(users, ALPHA, expected_users) * error), users

    return decided


def by_answers(smallest: int, expected_answers: float) -> Decided:
    """The asymptotic sequence; its time is the number of answers that count."""

    def decided(stream: Stream, ours: Moments, theirs: Moments | None, _: Flags) -> tuple[Flags, Any]:
        value, error, users, enough = _difference(ours, theirs, smallest)
        answers = np.cumsum(stream.counted)
        return enough & (np.abs(value) > deviations(answers, ALPHA, expected_answers) * error), users

    return decided


def fixed() -> Decided:
    """An interval of 95 % for one look."""

    def decided(_: Stream, ours: Moments, theirs: Moments | None, __: Flags) -> tuple[Flags, Any]:
        value, error, users, enough = _difference(ours, theirs, 50)
        return enough & (np.abs(value) > 1.96 * error), users

    return decided


def betting(stream: Stream, ours: Moments, theirs: Moments | None, treated: Flags) -> tuple[Flags, Any]:
    """Hedged bets on the first answers of users, in pairs; exact for bounded values.

    After Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSSB 2023), section 4.
    """
    pairs, users = _pairs(stream, treated, theirs is not None)
    bets = np.minimum(_bet(pairs), 1.0)
    up, down = np.cumsum(np.log1p(bets * pairs / 2)), np.cumsum(np.log1p(-bets * pairs / 2))
    return np.maximum(up, down) >= math.log(2 / ALPHA), users


def empirical_bernstein(stream: Stream, ours: Moments, theirs: Moments | None, treated: Flags) -> tuple[Flags, Any]:
    """Empirical Bernstein sequence on the first answers of users, in pairs: theorem 2 of the same paper."""
    pairs, users = _pairs(stream, treated, theirs is not None)
    values = (pairs + 1) / 2
    count = np.arange(1, len(values) + 1)
    guess = (0.5 + np.cumsum(values)) / (count + 1)
    before = np.concatenate([[0.5], guess[:-1]])
    bets = np.minimum(_bet(pairs), 0.5)
    penalty = np.cumsum(4 * (values - before) ** 2 * (-np.log1p(-bets) - bets) / 4)
    weights = np.cumsum(bets)
    value = np.cumsum(bets * values) / weights
    return np.abs(value - 0.5) > (math.log(2 / ALPHA) + penalty) / weights, users


def _difference(ours: Moments, theirs: Moments | None, smallest: int) -> tuple[Floats, Floats, Any, Flags]:
    least = ours.count if theirs is None else np.minimum(ours.count, theirs.count)
    error = ours.variance / np.maximum(ours.count, 1)
    if theirs is None:
        value, users = ours.mean, ours.count
    else:
        value, users = ours.mean - theirs.mean, ours.count + theirs.count
        error = error + theirs.variance / np.maximum(theirs.count, 1)
    return value, np.sqrt(error), users, (least >= smallest) & (error > 0)


def _pairs(stream: Stream, treated: Flags, paired: bool) -> tuple[Floats, Any]:
    """Differences, -1 to 1, of the first answers of users of both arms, in pairs; of one arm, the values."""
    comes = np.flatnonzero(stream.counted > 0)
    _, first = np.unique(stream.users[comes], return_index=True)
    events = comes[np.sort(first)]
    values: Floats = np.bincount(stream.answers, stream.changes)[stream.answers[events]].astype(np.float64)
    if not paired:
        return values, np.arange(1, len(values) + 1)
    arms = treated[events]
    number = min(int(arms.sum()), int((~arms).sum()))
    return values[arms][:number] - values[~arms][:number], 2 * np.arange(1, number + 1)


def _bet(pairs: Floats) -> Floats:
    """Bets from what was seen before: section 3 of the paper."""
    values = (pairs + 1) / 2
    count = np.arange(1, len(values) + 1)
    guess = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - guess) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    found: Floats = np.sqrt(2 * math.log(2 / ALPHA) / (before * count * np.log1p(count)))
    return found


WAYS: Mapping[str, Decided] = {
    "95 % for one look": fixed(),
    "asymptotic, from 2 users an arm": asymptotic(2, 5000),
    "asymptotic, from 20": asymptotic(20, 5000),
    "asymptotic, from 50": asymptotic(50, 5000),
    "asymptotic, from 100": asymptotic(100, 5000),
    "asymptotic, from 50, for 500 users": asymptotic(50, 500),
    "asymptotic, from 100, for 500 users": asymptotic(100, 500),
    "asymptotic, from 50, by answers": by_answers(50, 10_000),
    "betting, first answers": betting,
    "empirical Bernstein, first answers": empirical_bernstein,
}


def looked_at(scenario: Scenario, seed: tuple[int, ...], lift: float = 0.0) -> dict[str, float]:
    """Users at the first verdict of each way in one experiment; infinite where there is none."""
    chance = np.random.default_rng(seed)
    users, prone = answered(scenario, chance), proneness(scenario, chance)
    if scenario.metric is Metric.PREFERENCE:
        stream, _ = interleaved(scenario, users, prone, f"{seed}", chance, exchanged=0.5 - lift / 2)
        treated = np.ones(len(stream.users), bool)
        ours, theirs = known(stream, treated)[0], None
    else:
        arms = chance.random(scenario.people) < 0.5
        rates = np.where(arms, np.minimum(prone * (1 + lift), 1.0), prone)
        stream = side_by_side(scenario, users, rates, chance)
        treated = arms[stream.users]
        ours, theirs = known(stream, treated)[0], known(stream, ~treated)[0]
    found = {}
    for name, way in WAYS.items():
        decided, looked = way(stream, ours, theirs, treated)
        found[name] = float(looked[np.argmax(decided)]) if decided.any() else math.inf
    return found


def _false(job: tuple[int, int]) -> dict[str, float]:
    number, one = job
    return looked_at(SCENARIOS[number], (number, one))


def _moved(job: tuple[int, int]) -> dict[str, float]:
    number, one = job
    scenario = SCENARIOS[number]
    large = replace(scenario, people=4 * scenario.people, answers=4 * scenario.answers)
    return looked_at(large, (number, one, 1), LIFT)


def main(
    experiments: Annotated[int, typer.Option(min=1, help="Of each scenario, without an effect.")] = 500,
    moved: Annotated[int, typer.Option(min=1, help="Of each scenario, with an effect.")] = 40,
) -> None:
    """Compare ways to look at experiments all the time."""
    console = Console()
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for number, scenario in enumerate(track(SCENARIOS, "Scenarios")):
            calm = list(pool.map(_false, [(number, one) for one in range(experiments)], chunksize=10))
            found = list(pool.map(_moved, [(number, one) for one in range(moved)]))
            rows += [
                {
                    "scenario": scenario.name,
                    "way": name,
                    "false": float(np.mean([math.isfinite(one[name]) for one in calm])),
                    "median_users": float(np.median([one[name] for one in found])),
                }
                for name in WAYS
            ]
    table = Table("way", *(scenario.name for scenario in SCENARIOS), title="false verdicts; users with an effect")
    for name in WAYS:
        table.add_row(name, *(f"{row['false']:.1%}\n{row['median_users']:,.0f}" for row in rows if row["way"] == name))
    console.print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {shown(RESULT)}.")


if __name__ == "__main__":
    typer.run(main)
