"""Volume: eight clients have events recorded, at a rate or as long as things are killed; then the rows are counted."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drills.feedback.traffic import RUN
from drills.feedback.world import World

SENDERS = 8
BATCH = 250
_KILL_AFTER = (0.2, 2.5)
"""Seconds from one recovery to the next kill, at random."""


@dataclass(frozen=True)
class Told:
    """What the senders say together."""

    reports: list[dict[str, Any]]

    @property
    def acknowledged(self) -> set[str]:
        """Ids of all events that were acknowledged."""
        return {
            f"{report['name']}-{number}-{place}"
            for report in self.reports
            for number in report["acknowledged"]
            for place in range(BATCH)
        }

    @property
    def counts(self) -> Counter[str]:
        """Answers by code, and what they said."""
        return sum((Counter(report["counts"]) for report in self.reports), Counter[str]())

    def call_seconds(self, percentile: int) -> float:
        """Time of a call that was answered."""
        times = [seconds for report in self.reports for seconds in report["call_seconds"]]
        return float(statistics.quantiles(times, n=100)[percentile - 1])


async def steady(world: World, seconds: float, rate: float) -> dict[str, Any]:
    """Events at a rate for a time, and nothing is killed."""
    before = world.processor_seconds()
    told = await _driven(world, "steady", rate, round(seconds * rate / SENDERS), _nothing)
    used = {name: value - before[name] for name, value in world.processor_seconds().items()}
    took = max(report["seconds"] for report in told.reports)
    events = len(told.acknowledged)
    return {
        "offered_a_second": rate,
        "events_a_second": round(events / took, 1),
        "events": events,
        "seconds": round(took, 2),
        "call_p50_ms": round(1000 * told.call_seconds(50), 1),
        "call_p95_ms": round(1000 * told.call_seconds(95), 1),
        "processor_us_an_event": {name: round(1e6 * value / events, 1) for name, value in used.items()},
        "answers": dict(told.counts),
        **_compared(world, told, "steady"),
    }


async def killed(world: World, kills: int, rate: float, on_kill: Callable[[], None]) -> dict[str, Any]:
    """Events at a rate while the service or the database is killed again and again."""
    chance = random.Random()

    async def kill_all() -> None:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(*_KILL_AFTER))
            await world.kill_one(chance)
            on_kill()

    told = await _driven(world, "killed", rate, 0, kill_all)
    return {
        "kills": sum(world.kills.values()),
        "killed": dict(world.kills),
        "offered_a_second": rate,
        "events": len(told.acknowledged),
        "answers": dict(told.counts),
        **_compared(world, told, "killed"),
    }


async def _nothing() -> None:
    pass


async def _driven(world: World, name: str, rate: float, count: int, meanwhile: Callable[[], Any]) -> Told:
    senders = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "drills.feedback.sender", world.gateway.address),
            *(f"{name}{place}", str(rate / SENDERS), str(count), str(BATCH)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )
        for place in range(SENDERS)
    ]
    try:
        for sender in senders:
            assert sender.stdout is not None
            await sender.stdout.readline()
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.write(b"go\n")
        await meanwhile()
        if not count:
            for sender in senders:
                assert sender.stdin is not None
                sender.stdin.close()
        reports = [json.loads((await sender.communicate())[0]) for sender in senders]
    finally:
        for sender in senders:
            if sender.returncode is None:
                sender.kill()
                await sender.wait()
    return Told(reports)


def _compared(world: World, told: Told, name: str) -> dict[str, Any]:
    """Differences between what was acknowledged and what is stored."""
    ours = f"FROM event e WHERE e.event_id LIKE '{name}%'"
    stored = Counter(str(row[0]) for row in world.query(f"SELECT e.event_id {ours}"))
    acknowledged = told.acknowledged
    of_event = "t.served_time = e.served_time AND t.query_id = e.query_id"
    lone = f"SELECT count(*) {ours} AND NOT EXISTS (SELECT 1 FROM impression t WHERE {of_event})"
    apart = f"SELECT count(*) {ours} AND NOT EXISTS (SELECT 1 FROM exposure t WHERE {of_event} AND t.run_id = '{RUN}')"
    return {
        "lost": len(acknowledged - stored.keys()),
        "stored_twice": sum(count > 1 for count in stored.values()),
        "never_acknowledged": len(stored.keys() - acknowledged),
        "without_answer": int(world.query(lone)[0][0]) + int(world.query(apart)[0][0]),
    }
