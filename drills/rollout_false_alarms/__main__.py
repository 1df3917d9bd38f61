"""Ramps that change nothing, looked at after every event, and ramps that do.

`make rollout-false-alarms` writes build/rollout-false-alarms.json.

What decides in the service decides here: `services.rollout.evidence` over arrays, each element the evidence after one
more event. For some ramps the service's own `decide` is asked after every event as well, and has to say the same.
Users are as uneven as they are: a few ask most, and some fail, or are slow, far more often than others.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deploy.local.paths import BUILD, shown
from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES
from services.rollout.decisions import LIMIT_THRESHOLD, MISMATCH_THRESHOLD, Action, Patience, Run, decide
from services.rollout.evidence import ALPHA, ArmTotals, log_above, log_evidence, log_sample_ratio
from services.rollout.features import Feature, FeatureState

RESULT = BUILD / "rollout-false-alarms.json"
MOST_FALSE_ALARMS = 0.05
REQUESTS = 20_000
"""Of a ramp, in both arms together."""
USERS = 4000
GUARDRAILS = (Guardrail.ERRORS, Guardrail.LATENCY, Guardrail.EMPTY_RESULTS)
RATES = {Guardrail.ERRORS: 0.005, Guardrail.LATENCY: 0.05, Guardrail.EMPTY_RESULTS: 0.01}
SPLIT = math.log(len(GUARDRAILS) / ALPHA)
NEVER = sys.maxsize
_FEATURE = Feature("a", "", "a", Overrides(rerank=True), FeatureState.RAMPING, 100_000, run=1)

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Requests:
    """The requests of a ramp, in their order."""

    users: NDArray[np.int64]
    treated: Flags
    bad: dict[Guardrail, Flags]


def drawn(chance: np.random.Generator) -> Requests:
    """A ramp that changes nothing: who is treated makes no difference to what happens."""
    weights = 1.0 / np.arange(1, USERS + 1) ** 1.1
    users = chance.choice(USERS, REQUESTS, p=weights / weights.sum())
    treated = (chance.random(USERS) < 0.5)[users]
    bad = {}
    for guardrail, rate in RATES.items():
        # A gamma of shape 0.3: the mean is the rate, and a few users have most of it.
        proneness = np.minimum(chance.gamma(0.3, rate / 0.3, USERS), 1.0)
        bad[guardrail] = chance.random(REQUESTS) < proneness[users]
    return Requests(users, treated, bad)


def first_events(ramp: Requests, guardrail: Guardrail) -> NDArray[np.int64]:
    """Places of the requests that were the first bad ones of their user."""
    places = np.flatnonzero(ramp.bad[guardrail])
    _, first = np.unique(ramp.users[places], return_index=True)
    return np.sort(places[first])


def alarm(treated: Flags, threshold: float) -> int:
    """Place of the first event after which the guardrail is breached; NEVER if none is."""
    return _first(log_evidence(np.cumsum(treated), np.cumsum(~treated)) >= threshold)


def breach(ramp: Requests) -> int:
    """The request after which the ramp is rolled back, by any guardrail or hard limit; NEVER if it is not."""
    found = NEVER
    for guardrail in GUARDRAILS:
        places = first_events(ramp, guardrail)
        event = alarm(ramp.treated[places], SPLIT)
        found = min(found, int(places[event]) if event != NEVER else NEVER)
    failures = np.flatnonzero(ramp.bad[Guardrail.ERRORS] & ramp.treated)
    seen = np.cumsum(ramp.treated)[failures]
    count = np.arange(1, len(failures) + 1)
    event = _first(log_above(count, seen - count, 0.02) >= LIMIT_THRESHOLD)
    return min(found, int(failures[event]) if event != NEVER else NEVER)


def mismatch(ramp: Requests) -> bool:
    """True if users ever seem to be missing from an arm."""
    _, first = np.unique(ramp.users, return_index=True)
    treated = ramp.treated[np.sort(first)]
    return bool((log_sample_ratio(np.cumsum(treated), np.cumsum(~treated)) >= MISMATCH_THRESHOLD).any())


def breach_by_the_service(ramp: Requests) -> int:
    """The same by `decide`, asked after every request that was bad."""
    arms = {Arm.TREATMENT: ArmTotals(), Arm.CONTROL: ArmTotals()}
    for totals in arms.values():
        totals.latency_counts = [0] * (len(EDGES) + 1)
    run = Run(1, "a", 100_000, 100_000, 0.0, None, None, 0.0, arms=arms)
    firsts = {guardrail: set(first_events(ramp, guardrail).tolist()) for guardrail in GUARDRAILS}
    for place, treated in enumerate(ramp.treated.tolist()):
        totals = arms[Arm.TREATMENT if treated else Arm.CONTROL]
        totals.request_count += 1
        bad = [guardrail for guardrail in GUARDRAILS if ramp.bad[guardrail][place]]
        for guardrail in bad:
            totals.event_counts[guardrail] = totals.event_counts.get(guardrail, 0) + 1
            if place in firsts[guardrail]:
                totals.first_counts[guardrail] = totals.first_counts.get(guardrail, 0) + 1
        if bad:
            decision = decide(_FEATURE, run, now=0.0, since=0.0, reported=0.0, patience=Patience(1.0, 1.0))
            if decision.action in (Action.HALVE, Action.ROLL_BACK):
                return place
    return NEVER


def false_alarms(ramps: int, *, checked: int, seed: int = 7, progress: bool = False) -> dict[str, Any]:
    """Count of ramps that change nothing and are rolled back, or held, however often one looks."""
    rolled_back = held = differing = every_event = 0
    places: Iterator[int] = iter(track(range(ramps), "A/A ramps") if progress else range(ramps))
    for place in places:
        ramp = drawn(np.random.default_rng([seed, place]))
        at = breach(ramp)
        rolled_back += at != NEVER
        held += mismatch(ramp)
        every_event += any(alarm(ramp.treated[ramp.bad[guardrail]], SPLIT) != NEVER for guardrail in GUARDRAILS)
        if place < checked:
            differing += breach_by_the_service(ramp) != at
    return {
        "ramps": ramps,
        "requests_each": REQUESTS,
        "rolled_back": rolled_back,
        "false_alarm_share": rolled_back / ramps,
        "held_for_mismatch_share": held / ramps,
        "share_if_every_bad_event_counted": every_event / ramps,
        "checked_against_the_service": checked,
        "differing": differing,
    }


@dataclass(frozen=True)
class Regression:
    """Something that gets worse: how often a request of either arm is a bad event."""

    name: str
    control: float
    treatment: float


def _slow_share(factor: float) -> float:
    """Requests of treatment slower than 1.1 T where all take `factor` times as long: log-normal, sigma 0.5."""
    quantile = 1.6448536269514722  # of the normal distribution: T is control's P95
    return 0.5 * math.erfc((quantile + math.log(1.1 / factor) / 0.5) / math.sqrt(2))


REGRESSIONS = (
    Regression("errors 0.5 % -> 2 %", 0.005, 0.02),
    Regression("errors 0.5 % -> 2.5 % (+2 points)", 0.005, 0.025),
    Regression("errors 0.5 % -> 5 %", 0.005, 0.05),
    Regression("latency x1.5", 0.05, _slow_share(1.5)),
    Regression("empty results 1 % -> 4 %", 0.01, 0.04),
    Regression("worse ranking: 65 % of pairs lost", 0.35, 0.65),
)


def detection(regression: Regression, ramps: int, threshold: float, seed: int = 7) -> dict[str, Any]:
    """Requests of treatment until a regression is found, where each is another user's."""
    chance = np.random.default_rng(seed)
    both = regression.treatment + regression.control
    events = 1200
    found = []
    for _ in range(ramps):
        treated = chance.random(events) < regression.treatment / both
        event = alarm(treated, threshold)
        # Between two events lie as many requests as it takes until one of the arms has another one.
        found.append(float(chance.geometric(min(1.0, both), event + 1).sum()) if event != NEVER else math.inf)
    return {
        "regression": regression.name,
        "threshold": round(threshold, 3),
        "median_treatment_requests": float(np.median(found)),
        "p90_treatment_requests": float(np.quantile(found, 0.9, method="higher")),
        "found_share": float(np.mean(np.isfinite(found))),
    }


def _first(flags: Flags) -> int:
    place = int(np.argmax(flags)) if len(flags) else 0
    return place if len(flags) and flags[place] else NEVER


def main(
    ramps: Annotated[int, typer.Option(min=1, help="Ramps that change nothing.")] = 2000,
    checked: Annotated[int, typer.Option(min=0, help="How many of them the service's own decide is asked about.")] = 20,
) -> None:
    """Simulate ramps. Exit code 1 if too many false alarms are raised, or the service decides otherwise."""
    console = Console()
    calm = false_alarms(ramps, checked=checked, progress=True)
    found = [
        {"guardrails": count, **detection(regression, 1000, math.log(count / ALPHA))}
        for regression in track(REGRESSIONS, "Regressions")
        for count in (1, len(GUARDRAILS))
    ]
    ok = calm["false_alarm_share"] <= MOST_FALSE_ALARMS and not calm["differing"]
    table = Table("ramps that change nothing", "observed", show_lines=True)
    for name, value in calm.items():
        table.add_row(name.replace("_", " "), f"{value:.2%}" if isinstance(value, float) else f"{value:,}")
    console.print(table)
    table = Table("regression", "alpha", "median requests of treatment", "nine of ten by", "found")
    for row in found:
        table.add_row(
            row["regression"],
            "0.05" if row["guardrails"] == 1 else f"0.05 / {row['guardrails']}",
            f"{row['median_treatment_requests']:,.0f}",
            f"{row['p90_treatment_requests']:,.0f}",
            f"{row['found_share']:.1%}",
        )
    console.print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"ok": ok, "unchanged": calm, "detection": found}, indent=2) + "\n", encoding="utf-8")
    console.print(f"{'ok' if ok else '[red]FAIL[/]'}: written to {shown(RESULT)}.")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    typer.run(main)
