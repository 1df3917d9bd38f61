"""A feature on its way to users, held, and killed, so that what is told of rollouts moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from drills.observe.platform import NOTHING, Platform
from sluice.type.v1 import arm_pb2
from sluice_client import EVERYBODY_PPM, AsyncRolloutClient, Criteria, Features, Plan, PlanStep

_KILLED, _STAYS = "words-alone", "three-variants"
_SECONDS = 120.0
_PLAN = Plan(
    "observe-check",
    [PlanStep(EVERYBODY_PPM // 2, timedelta(hours=1))],
    Criteria(error_rate_max=0.5, p95_max=timedelta(minutes=1), p99_max=timedelta(minutes=1)),
    shadow_ppm=EVERYBODY_PPM,
)


async def drive(platform: Platform, say: Callable[[str], None]) -> None:
    """Roll two features out to half of the users, leave them without requests, and kill one."""
    total = platform.prometheus.total
    async with AsyncRolloutClient(platform.stack.address("rollout"), actor="observe-check") as rollout:
        say("rolling a feature out")
        for name, features in ((_KILLED, Features(dense=False)), (_STAYS, Features(max_variant_count=3))):
            await rollout.create(name, features, reason="to be observed")
            await rollout.start(name, _PLAN, reason="to see what is told of it")
        unlucky = ""
        async with asyncio.timeout(_SECONDS):
            while not (
                await total("sluice_shadow_judgements_total")
                and await total("sluice_rollout_evidence_reports_total")
                and await platform.prometheus.query("sluice_rollout_log_evidence != 0")
            ):
                for user in (f"user-{number}" for number in range(8)):
                    answer = await platform.search(user_id=user)
                    if any(arm.arm == arm_pb2.ARM_TREATMENT for arm in answer.arms):
                        unlucky = unlucky or user
                # One who finds nothing is evidence against the feature, and not enough to take it back.
                if unlucky:
                    await platform.search(user_id=unlucky, filter=NOTHING)
        say("leaving it without a request")
        async with asyncio.timeout(_SECONDS):
            while not await total("sluice_rollout_stale_data"):
                await platform.prometheus.scraped(1)
        say("killing it")
        await rollout.kill(_KILLED, reason="seen enough")
        async with asyncio.timeout(_SECONDS):
            while not await total("sluice_rollout_zero_exposure_seconds_count"):
                await platform.prometheus.scraped(1)
