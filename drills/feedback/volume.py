"""Volume: eight clients have events recorded, at a rate or as long as things are killed; then the rows are counted."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.paths import BUILD
from drills.feedback.sent import write
from drills.feedback.traffic import RUN, requests
from drills.feedback.world import World

SENDERS = 8
BATCH = 250
_KILL_AFTER = (0.2, 2.5)
"""Seconds from one recovery to the next kill, at random."""
_MADE_SECONDS = 3.0
"""Seconds of traffic that are made ahead for each kill."""


@dataclass(frozen=True)
class Told:
    """Reports of all senders together."""

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
    told = await _driven(world, "steady", rate, seconds, None)
    used = {name: value - before[name] for name, value in world.processor_seconds().items()}
    # The last request begins one pause before the end.
    took = max(seconds, *(report["seconds"] for report in told.reports))
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

    told = await _driven(world, "killed", rate, kills * _MADE_SECONDS, kill_all)
    return {
        "kills": sum(world.kills.values()),
        "killed": dict(world.kills),
        "offered_a_second": rate,
        "events": len(told.acknowledged),
        "answers": dict(told.counts),
        **_compared(world, told, "killed"),
    }


async def _driven(
    world: World, name: str, rate: float, seconds: float, meanwhile: Callable[[], Awaitable[None]] | None
) -> Told:
    """Let all senders send what is made ahead; where something goes on meanwhile, until it ends."""
    count = round(seconds * rate / SENDERS / BATCH)
    with TemporaryDirectory(dir=BUILD, prefix="feedback-") as folder:
        files = {f"{name}{place}": Path(folder) / str(place) for place in range(SENDERS)}
        for sender, file in files.items():
            await asyncio.to_thread(write, islice(requests(sender, BATCH), count), file)
        endless = "endless" if meanwhile else "made"
        senders = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "drills.feedback.sender", world.gateway.address, sender, file),
                *(str(rate / SENDERS), str(BATCH), endless),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**26,
            )
            for sender, file in files.items()
        ]
        try:
            for process in senders:
                await _pipes(process)[1].readline()
            for process in senders:
                _pipes(process)[0].write(b"go\n")
            if meanwhile is not None:
                await meanwhile()
            # This ends their input, which tells those that have no end to come to one.
            said = await asyncio.gather(*(process.communicate(b"") for process in senders))
        finally:
            for process in senders:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    return Told([json.loads(out) for out, _errors in said])


def _pipes(sender: asyncio.subprocess.Process) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    assert sender.stdin is not None
    assert sender.stdout is not None
    return sender.stdin, sender.stdout


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
