"""The rows: what is done to a feature, what is expected, and what was seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from drills.rollout_regressions.platform import Platform
from drills.rollout_regressions.regressions import NONE, Regression
from sluice_client import (
    EVERYBODY_PPM,
    Arm,
    Criteria,
    Features,
    FeatureState,
    HistoryAction,
    HistoryEntry,
    Plan,
    PlanStep,
    SluiceError,
)

MOST_SECONDS_TO_ZERO = 2.0
HALF = EVERYBODY_PPM // 2
WORDS_ALONE = Features(dense=False)
# The criteria of the runbook. Nothing is promoted here, so that no row depends on a dwell.
CRITERIA = Criteria(
    error_rate_max=0.02,
    p95_increase_max=0.3,
    p99_increase_max=0.4,
    p95_max=timedelta(seconds=3.5),
    p99_max=timedelta(seconds=5),
)
TAKEN_BACK = {HistoryAction.HALVED, HistoryAction.ROLLED_BACK}
DETECTED_WITHIN_REQUESTS = 8000
DETECTED_WITHIN_SECONDS = 600.0
AS_GOOD_REQUESTS = 4000
AS_GOOD_SECONDS = 90.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Seen:
    """Observation of a row."""

    ok: bool
    words: str
    feature: str = ""
    requests: int | None = None
    """Treated requests until the first detection."""
    requests_until_zero: int | None = None
    """Treated requests until the feature was taken back from all users."""
    seconds_to_zero: float | None = None
    """From the decision, or the command, until the last answer with the feature on any gateway."""


@dataclass(frozen=True)
class Row:
    """One drill."""

    name: str
    expected: str
    run: Callable[[Platform, Progress], Awaitable[Seen]]


def _plan(share: int, shadow: int) -> Plan:
    return Plan("drill", [PlanStep(share, timedelta(hours=1))], CRITERIA, shadow_ppm=shadow)


async def _begin(platform: Platform, name: str, *, shadow: int = 0, share: int = HALF) -> None:
    await platform.rollout.create(
        name, WORDS_ALONE, reason="to be drilled", description="Words alone, without vectors."
    )
    await platform.rollout.start(name, _plan(share, shadow), reason="to see what happens")
    await platform.treated_everywhere(name)


async def _history(platform: Platform, name: str) -> list[HistoryEntry]:
    return [entry async for entry in platform.rollout.history(name)]


def _treated_in(entry: HistoryEntry) -> int:
    return sum(totals.request_count for totals in entry.arms if totals.arm is Arm.TREATMENT)


def detected(regression: Regression, *, shadow: int = 0) -> Callable[[Platform, Progress], Awaitable[Seen]]:
    """A regression that begins while the feature is on its way."""

    async def run(platform: Platform, progress: Progress) -> Seen:
        name = f"words-{regression.name}"
        platform.retriever.regression = regression
        try:
            await _begin(platform, name, shadow=shadow)
            started = time.monotonic()
            while True:
                feature = (await platform.rollout.feature(name)).feature
                progress(f"{platform.treated(name):,} treated, {feature.state}, {feature.treatment_ppm // 10_000} %")
                if feature.state is FeatureState.ROLLED_BACK:
                    break
                late = time.monotonic() - started > DETECTED_WITHIN_SECONDS
                if late or platform.treated(name) > DETECTED_WITHIN_REQUESTS:
                    status = await platform.rollout.feature(name)
                    logs = {evidence.guardrail.value: round(evidence.log_evidence, 2) for evidence in status.guardrails}
                    words = f"not taken back after {platform.treated(name):,} treated requests; evidence: {logs}"
                    return Seen(False, words, name)
                await asyncio.sleep(0.2)
            last = await platform.settled(name)
        finally:
            platform.retriever.regression = NONE
        history = await _history(platform, name)
        decisions = [entry for entry in history if entry.action in TAKEN_BACK]
        back = decisions[-1]
        counts = [_treated_in(entry) for entry in decisions]
        seconds = last - back.time.timestamp()
        done = (back.done_time - back.time).total_seconds() if back.done_time else None
        by_itself = all(entry.actor == "sluice" for entry in decisions)
        ok = by_itself and seconds <= MOST_SECONDS_TO_ZERO and done is not None and done <= MOST_SECONDS_TO_ZERO
        told = "; ".join(f"{entry.action.replace('_', ' ')} ({entry.reason})" for entry in decisions)
        acknowledged = "never acknowledged" if done is None else f"acknowledged by all after {done:.2f} s"
        return Seen(ok, f"{told}; {acknowledged}", name, counts[0], sum(counts), max(0.0, seconds))

    return run


async def as_good(platform: Platform, progress: Progress) -> Seen:
    """Nothing is wrong, and nothing is taken back."""
    name = "words-as-good"
    await _begin(platform, name)
    started = time.monotonic()
    while platform.treated(name) < AS_GOOD_REQUESTS and time.monotonic() - started < AS_GOOD_SECONDS:
        progress(f"{platform.treated(name):,} treated")
        await asyncio.sleep(0.2)
    status = await platform.rollout.feature(name)
    history = await _history(platform, name)
    await platform.rollout.roll_back(name, reason="seen enough")
    await platform.settled(name)
    logs = ", ".join(f"{evidence.guardrail} {evidence.log_evidence:.2f}" for evidence in status.guardrails)
    ok = status.feature.treatment_ppm == HALF and not {entry.action for entry in history} & TAKEN_BACK
    return Seen(
        ok, f"{platform.treated(name):,} treated requests, still {status.feature.state}; evidence: {logs}", name
    )


async def kill(platform: Platform, progress: Progress) -> Seen:
    """By command, with everything in order."""
    name = "words-kill"
    await _begin(platform, name)
    given = time.time()
    await platform.rollout.kill(name, reason="to see how long it takes")
    seen = await _killed(platform, progress, name, given, "")
    await _rearm(platform, name)
    return seen


async def kill_cut_off(platform: Platform, progress: Progress) -> Seen:
    """By command, while one gateway hears nothing from the service: its lease ends."""
    name = "words-cut-off"
    await _begin(platform, name)
    deaf = platform.replicas[-1]
    deaf.way.up.blackhole = deaf.way.down.blackhole = True
    given = time.time()
    try:
        await platform.rollout.kill(name, reason="one gateway does not hear it")
        seen = await _killed(platform, progress, name, given, f"; {deaf.name} was cut off, and its lease ended")
        stale = next(one for one in (await platform.rollout.feature(name)).gateways if one.name == deaf.name)
        newest = (await platform.rollout.features()).snapshot_version
    finally:
        deaf.way.heal()
        deaf.way.reset()
    await _rearm(platform, name)
    ok = seen.ok and stale.version < newest
    return Seen(ok, seen.words, name, seconds_to_zero=seen.seconds_to_zero)


async def kill_by_override(platform: Platform, progress: Progress) -> Seen:
    """A complete feature has no lease: on a gateway that is cut off, the local override kills it."""
    name = "words-override"
    await _begin(platform, name)
    await platform.rollout.set_share(name, EVERYBODY_PPM, reason="all users, to have no lease")
    deaf = platform.replicas[-1]
    await asyncio.sleep(1.5)
    deaf.way.up.blackhole = deaf.way.down.blackhole = True
    try:
        await asyncio.sleep(4)  # longer than a lease
        before = deaf.treated[name]
        await asyncio.sleep(0.5)
        still = deaf.treated[name] > before
        given = time.time()
        deaf.overrides.write_text(f"ROLLOUT_KILL={name}\n")
        await platform.rollout.kill(name, reason="and on the others by command")
        words = f"; {deaf.name} was cut off and still served it: {still}; its override file killed it there"
        seen = await _killed(platform, progress, name, given, words)
    finally:
        deaf.way.heal()
        deaf.way.reset()
        deaf.overrides.write_text("# nothing is held here any more\n")
    await _rearm(platform, name)
    return Seen(seen.ok and still, seen.words, name, seconds_to_zero=seen.seconds_to_zero)


async def service_dead(platform: Platform, progress: Progress) -> Seen:
    """The service is killed (SIGKILL) and does not come back: leases end, and all requests are answered meanwhile."""
    name = "words-dead"
    await _begin(platform, name)
    failed = sum(replica.failed.total() for replica in platform.replicas)
    asked = platform.asked
    given = time.time()
    platform.service.kill()
    await platform.service.ended()
    try:
        with suppress(SluiceError):
            await platform.rollout.kill(name, reason="the service is dead")
        seen = await _killed(platform, progress, name, given, "; the service was dead, and leases ended")
        asked, failed = platform.asked - asked, sum(replica.failed.total() for replica in platform.replicas) - failed
    finally:
        await _back(platform)
    await platform.rollout.kill(name, reason="it hears again")
    await _rearm(platform, name)
    ok = seen.ok and failed <= asked * 0.02
    words = f"{seen.words}; {failed} of {asked:,} requests failed meanwhile (the usual share is 0.5 %)"
    return Seen(ok, words, name, seconds_to_zero=seen.seconds_to_zero)


async def dead_and_override(platform: Platform, progress: Progress) -> Seen:
    """The service is dead, a complete feature has no lease: the override files kill it on every gateway."""
    name = "words-dead-override"
    await _begin(platform, name)
    await platform.rollout.set_share(name, EVERYBODY_PPM, reason="all users, to have no lease")
    await asyncio.sleep(1.5)
    platform.service.kill()
    await platform.service.ended()
    try:
        await asyncio.sleep(4)  # longer than a lease
        await platform.treated_everywhere(name)
        given = time.time()
        for replica in platform.replicas:
            replica.overrides.write_text(f"ROLLOUT_KILL={name}\n")
        words = "; the service was dead and all gateways still served it, until their override files killed it"
        seen = await _killed(platform, progress, name, given, words)
    finally:
        await _back(platform)
    await platform.rollout.kill(name, reason="for good")
    for replica in platform.replicas:
        replica.overrides.write_text("# nothing is held here any more\n")
    await _rearm(platform, name)
    return seen


async def _back(platform: Platform) -> None:
    """The service runs again, and our own channel to it has noticed."""
    await platform.service.start()
    async with asyncio.timeout(60):
        while True:
            with suppress(SluiceError):
                await platform.rollout.features()
                return


async def _rearm(platform: Platform, name: str) -> None:
    """A feature that is killed keeps what it switches from all others, too."""
    await platform.rollout.rearm(name, reason="the next row has a feature of the same kind")


async def _killed(platform: Platform, progress: Progress, name: str, given: float, words: str) -> Seen:
    """Time until the last answer with a feature after it was given up, on each gateway."""
    progress("waiting for the last answer with it")
    last = await platform.settled(name)
    each = ", ".join(
        f"{replica.name} {max(0.0, replica.last_treated.get(name, given) - given):.2f} s"
        for replica in platform.replicas
    )
    seconds = max(0.0, last - given)
    return Seen(seconds <= MOST_SECONDS_TO_ZERO, f"last answer with it: {each}{words}", name, seconds_to_zero=seconds)


_TAKEN_BACK = "taken back without help; no answer with it on any gateway 2 s after the decision"
_ZERO = "no answer with it on any gateway 2 s later"

ROWS = (
    Row("no regression", f"up to {AS_GOOD_REQUESTS:,} treated requests, and it stays", as_good),
    Row("errors +2 points (0.5 to 2.5 %)", _TAKEN_BACK, detected(Regression("errors", errors=0.02))),
    Row("latency x 1.5", _TAKEN_BACK, detected(Regression("latency", slower=1.5))),
    Row("empty results (5 %)", _TAKEN_BACK, detected(Regression("empty", empty=0.05))),
    Row(
        "worse ranking (worst first)",
        _TAKEN_BACK,
        detected(Regression("ranking", worst_first=True), shadow=EVERYBODY_PPM),
    ),
    Row("kill by command", _ZERO, kill),
    Row("kill by command, one gateway cut off", f"{_ZERO}: its lease ends", kill_cut_off),
    Row("kill by override, one gateway cut off", f"{_ZERO}, of a feature that has no lease", kill_by_override),
    Row("service killed", f"{_ZERO}: leases end; requests go on", service_dead),
    Row("kill by override, service dead", f"{_ZERO}, of a feature that has no lease", dead_and_override),
)
