"""A feature on its way to users, held, and killed, so that what is told of rollouts moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from sluice_client import EVERYBODY_PPM, Criteria, Features, Plan, PlanStep, RolloutClient
from tests.observe.platform import Platform

_NAME = "words-alone"
_SECONDS = 120.0
_PLAN = Plan(
    "observe-check",
    [PlanStep(EVERYBODY_PPM // 2, timedelta(hours=1))],
    Criteria(error_rate_max=0.5, p95_max=60.0, p99_max=60.0),
    shadow_ppm=EVERYBODY_PPM,
)


async def drive(platform: Platform, say: Callable[[str], None]) -> None:
    """Half of the users get a feature until there is evidence, then nobody asks for a while, then it is killed."""
    total = platform.prometheus.total
    async with RolloutClient(platform.stack.address("rollout"), actor="observe-check") as rollout:
        say("rolling a feature out")
        await rollout.create(_NAME, Features(dense=False), reason="to be observed")
        await rollout.start(_NAME, _PLAN, reason="to see what is told of it")
        async with asyncio.timeout(_SECONDS):
            while not (
                await total("sluice_shadow_judgements_total")
                and await total("sluice_rollout_evidence_reports_total")
                and await platform.prometheus.query("sluice_rollout_log_evidence != 0")
            ):
                for user in range(8):
                    await platform.search(user_id=f"user-{user}")
        say("leaving it without a request")
        async with asyncio.timeout(_SECONDS):
            while not await total("sluice_rollout_stale_data"):
                await platform.prometheus.scraped(1)
        say("killing it")
        await rollout.kill(_NAME, reason="seen enough")
        async with asyncio.timeout(_SECONDS):
            while not await total("sluice_rollout_zero_exposure_seconds_count"):
                await platform.prometheus.scraped(1)
