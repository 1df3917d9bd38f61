"""`make rollout-enrichment`: runbook (b) from nobody to everybody on this machine; build/rollout-enrichment.json.

The plan is the template `ramp`, its dwells shortened to seconds, with more shadow pairs; its steps wait for a person,
whom the drill plays. At 10 % relations become slow: the feature has to be taken back by itself. Then it is armed again
and goes to 100 %. At every step it is seen that those who have the feature, and nobody else, have their relations
followed. Evidence takes some thousand requests of many users at each step, so only those ask who are in an arm from
10 % on; give it an hour, and a machine of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from deploy.local.paths import BUILD, shown
from drills.rollout_enrichment.world import FEATURE, SLOW, WORLD
from drills.rollout_regressions.platform import Platform, platform
from drills.rollout_regressions.regressions import NONE
from sluice_cli.rollout import report
from sluice_cli.rollout.plans import PLANS
from sluice_client import Arm, FeatureState, HistoryAction, Outcome, Plan, SluiceError, Stage

RESULT = BUILD / "rollout-enrichment.json"
REVIEW = BUILD / "rollout-enrichment.html"
DWELL = timedelta(seconds=20)
# Half of control's requests are answered both ways, five times as many as in the template: the drill has no two hours.
SHADOW_PPM = 500_000
# As many as leave the machine some room: where it is full, whatever works more is slower than allowed.
ASKERS = 16
# Some thousand requests in each arm show that errors are no more frequent.
STEP_SECONDS = 3600.0
TAKEN_BACK_SECONDS = 300.0
PROBES = 60
TELL_SECONDS = 60.0


def say(words: str) -> None:
    """Tell the reader how far it is."""
    print(words, flush=True)  # noqa: T201  # a drill tells what it does


async def drill() -> dict[str, object]:
    """Run it all; return the figures."""
    file = PLANS.read("ramp")
    (feature,) = file.features
    plan = file.plan(feature)
    plan = replace(plan, steps=[replace(step, dwell=DWELL) for step in plan.steps], shadow_ppm=SHADOW_PPM)
    say("three gateways, four stages and the rollout service are starting")
    async with platform(ASKERS, WORLD) as made:
        await made.rollout.create(FEATURE, feature.overrides, reason="runbook (b)", description=feature.description)
        try:
            await made.rollout.start(FEATURE, plan, reason="runbook (b), first try")
            await made.treated_everywhere(FEATURE)
            back = await _taken_back(made)
            await made.rollout.rearm(FEATURE, reason="relations are quick again")
            await made.rollout.start(FEATURE, plan, reason="runbook (b), second try")
            steps = await _to_everybody(made, plan)
        finally:
            found = await made.rollout.report(FEATURE)
            written = await asyncio.to_thread(report.write, found, html=REVIEW, markdown=REVIEW.with_suffix(".md"))
            say(f"the review: {', '.join(shown(path) for path in written)}")
        return {
            "taken_back": back,
            "steps": steps,
            "requests": made.asked,
            "failed": sum(replica.failed.total() for replica in made.replicas),
            "treated": made.treated(FEATURE),
        }


async def _taken_back(made: Platform) -> dict[str, object]:
    """Make relations slow, and wait until nobody has the feature."""
    say("at 10 %: relations become slow")
    before, started = made.treated(FEATURE), time.monotonic()
    made.retriever.regression = SLOW
    try:
        await _until(
            made, lambda state: state is FeatureState.ROLLED_BACK, TAKEN_BACK_SECONDS, "slow relations were not seen"
        )
    finally:
        made.retriever.regression = NONE
    seconds = time.monotonic() - started
    history = [entry async for entry in made.rollout.history(FEATURE)]
    decisions = [one for one in history if one.action in (HistoryAction.HALVED, HistoryAction.ROLLED_BACK)]
    if any(one.actor != "sluice" for one in decisions):
        raise RuntimeError("it was not taken back by itself")
    last = await made.settled(FEATURE)
    zero = max(0.0, last - decisions[-1].time.timestamp())
    say(f"taken back by itself after {seconds:.0f} s; from the decision to zero {zero:.1f} s")
    return {
        "treated_requests": made.treated(FEATURE) - before,
        "seconds": round(seconds, 1),
        "seconds_to_zero": round(zero, 2),
        "decisions": [f"{one.action.value}: {one.reason}" for one in decisions],
    }


async def _to_everybody(made: Platform, plan: Plan) -> list[dict[str, object]]:
    """Promote at each step as soon as that is allowed; return what was seen at each."""
    steps: list[dict[str, object]] = []
    for number, step in enumerate(plan.steps, start=1):
        await made.treated_everywhere(FEATURE)
        enriched = await _probed(made)
        started, treated = time.monotonic(), made.treated(FEATURE)
        say(f"step {number}, {step.treatment_ppm // 10_000} %: {enriched}")
        refusals = await _promoted(made, started)
        seconds = time.monotonic() - started
        status = await made.rollout.feature(FEATURE)
        steps.append(
            {
                "share_percent": step.treatment_ppm / 10_000,
                "seconds": round(seconds, 1),
                "treated_requests": made.treated(FEATURE) - treated,
                "first_refusal": refusals,
                **enriched,
            }
        )
        say(f"step {number} is over after {seconds:.0f} s: {status.feature.state.value}")
    if status.feature.state is not FeatureState.COMPLETE:
        raise RuntimeError(f"it is not complete: {status.feature.state}")
    return steps


async def _promoted(made: Platform, started: float) -> str:
    """Ask for the next step until it is allowed; return the first refusal."""
    first = problem = ""
    told = started
    while time.monotonic() - started < STEP_SECONDS:
        try:
            await made.rollout.promote(FEATURE, reason="it is shown to be no worse")
        except SluiceError as error:
            problem = error.message
            first = first or problem
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                say(f"  {made.treated(FEATURE):,} answers with it so far: {problem}")
            state = (await made.rollout.feature(FEATURE)).feature.state
            if state in (FeatureState.ROLLED_BACK, FeatureState.KILLED):
                raise RuntimeError(f"the feature is {state}: {problem}") from None
            await asyncio.sleep(1.0)
        else:
            return first
    raise RuntimeError(f"it was not promoted: {problem}")


async def _probed(made: Platform) -> dict[str, int]:
    """Ask as some users; see that those who have the feature, and only those, have relations followed."""
    seen = {"users_with": 0, "users_without": 0, "with_paths": 0}
    asked = WORLD.questions()
    for number in range(PROBES):
        client = made.replicas[number % len(made.replicas)].client
        answer = await client.search(asked[number % len(asked)], user_id=f"probe-{number}", timeout=30)
        treated = any(arm.feature == FEATURE and arm.arm is Arm.TREATMENT for arm in answer.arms)
        hop = next(one for one in answer.stages if one.stage is Stage.HOP)
        if treated != (hop.outcome is Outcome.RAN) or treated != (answer.enrichment_score is not None):
            raise RuntimeError(f"a user {'with' if treated else 'without'} the feature has hops {hop.outcome}")
        seen["users_with" if treated else "users_without"] += 1
        seen["with_paths"] += any(result.path for result in answer.results)
    return seen


async def _until(made: Platform, met: Callable[[FeatureState], bool], seconds: float, otherwise: str) -> None:
    started = time.monotonic()
    while not met((await made.rollout.feature(FEATURE)).feature.state):
        if time.monotonic() - started > seconds:
            raise RuntimeError(otherwise)
        await asyncio.sleep(0.2)


def main() -> None:
    """Run the drill. Exit code 1 if it does not go as it should."""
    try:
        found = asyncio.run(drill())
    except (RuntimeError, TimeoutError, SluiceError) as error:
        say(f"FAIL {error or type(error).__name__}")
        sys.exit(1)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(json.dumps(found, indent=2))
    say(f"ok, written to {shown(RESULT)}")


if __name__ == "__main__":
    main()
