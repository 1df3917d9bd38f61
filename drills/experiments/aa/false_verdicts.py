"""False verdicts of many A/A experiments, on all processors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.progress import track

from drills.experiments.aa.experiments import Ended, ended, served
from drills.experiments.aa.streams import Activity, Scenario
from services.rollout.experiments.experiments import Verdict
from sluice_statistics.answers import Metric
from sluice_statistics.intervals import rate

EXPERIMENTS = 2000
MOST_FALSE = 0.05
JUDGED_THROUGHOUT = 100
"""Experiments of each method that the product judges after every event, whatever their numbers say."""
AB, INTERLEAVE = "ab", "interleave"
SCENARIOS: Mapping[str, Sequence[Scenario]] = {
    AB: (
        Scenario("reciprocal rank, Zipf, history", Activity.ZIPF, 1500, 5000, 0.3, history_share=0.5),
        Scenario("reciprocal rank, log-normal", Activity.LOG_NORMAL, 1000, 5000, 0.4, spread=20.0),
        Scenario("reciprocal rank, people learn", Activity.LOG_NORMAL, 600, 5000, 0.3, learning=1.5, history_share=0.3),
        Scenario("reciprocal rank, few come back", Activity.EVEN, 150, 4000, 0.3, spread=20.0),
        Scenario("clicks 2 %, Zipf", Activity.ZIPF, 3000, 5000, 0.02, Metric.CLICK_RATE),
        Scenario(
            "clicks 2 %, log-normal, history", Activity.LOG_NORMAL, 2000, 5000, 0.02, Metric.CLICK_RATE, 20.0, 0, 0.5
        ),
        Scenario("clicks 2 %, small", Activity.EVEN, 400, 1000, 0.02, Metric.CLICK_RATE),
        Scenario("clicks 30 %, large", Activity.EVEN, 12_000, 15_000, 0.3, Metric.CLICK_RATE),
        Scenario("ratings 10 %, log-normal", Activity.LOG_NORMAL, 1500, 5000, 0.1, Metric.SATISFACTION),
    ),
    INTERLEAVE: (
        Scenario("preference, Zipf", Activity.ZIPF, 1500, 5000, 0.5, Metric.PREFERENCE),
        Scenario("preference, log-normal, alike", Activity.LOG_NORMAL, 1000, 5000, 0.5, Metric.PREFERENCE, 50.0),
        Scenario("preference, few come back", Activity.EVEN, 150, 4000, 0.5, Metric.PREFERENCE, 20.0),
        Scenario("preference, rare clicks", Activity.LOG_NORMAL, 2000, 5000, 0.1, Metric.PREFERENCE),
        Scenario("preference, small", Activity.EVEN, 200, 800, 0.5, Metric.PREFERENCE),
    ),
}


def run(experiments: int = EXPERIMENTS, console: Console | None = None) -> dict[str, Any]:
    """Run so many experiments of each method, in turn over its scenarios.

    The result has `aa_false_ab` and `aa_false_interleave`, shares of experiments that were shipped or stopped; their
    intervals; and a row for each scenario in `aa`.
    """
    jobs = [(method, place) for place in range(experiments) for method in SCENARIOS]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        done = pool.map(_ended, jobs, chunksize=4)
        found = list(zip(jobs, track(done, "A/A experiments", len(jobs), console=console), strict=True))
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for method in SCENARIOS:
        ours = [one for (name, _), one in found if name == method]
        whole = _row(method, ours)
        result |= {f"aa_false_{method}": whole["false"], f"aa_false_{method}_interval": [whole["low"], whole["high"]]}
        rows.append(whole)
        rows += [_row(one.name, [end for end in ours if end.scenario == one.name]) for one in SCENARIOS[method]]
    return result | {"aa_looks": sum(one.looks for _, one in found), "aa": [row for row in rows if row]}


def _ended(job: tuple[str, int]) -> Ended:
    method, place = job
    scenarios = SCENARIOS[method]
    return ended(served(scenarios[place % len(scenarios)], place), judged_throughout=place < JUDGED_THROUGHOUT)


def _row(name: str, ends: Sequence[Ended]) -> dict[str, Any]:
    verdicts = Counter(one.verdict for one in ends)
    wrong = verdicts[Verdict.SHIP] + verdicts[Verdict.STOP]
    found = rate(wrong, len(ends))
    if found is None:
        return {}
    return {
        "scenario": name,
        "experiments": len(ends),
        "false": found.value,
        "low": found.low,
        "high": found.high,
        "ship": verdicts[Verdict.SHIP],
        "stop": verdicts[Verdict.STOP],
        "inconclusive": verdicts[Verdict.INCONCLUSIVE],
        "causes": dict(Counter(one.cause for one in ends if one.cause and one.verdict is not Verdict.INCONCLUSIVE)),
    }
