"""From an answer to its click, to an export and to a plan: client, command and real services."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from sluice_cli import calls
from sluice_cli.main import app
from sluice_client import AsyncClient, AsyncExperimentClient, Event, EventRejectionReason, ImpressionEnding
from tests.contract.test_feedback import World, started

USERS = [f"user-{number}" for number in range(40)]
PLAN = """
name: words
hypothesis: words alone are enough
method: interleave
arms:
  - name: both
  - name: words
    overrides: {dense: false}
share: 100 %
minimum_effect: 5 %
# end of plan
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    # The command speaks on the same standard output.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with AsyncExitStack() as stack:
        yield await started(stack, tmp_path, feedback_impressions="all", feedback_queries="clear")
    structlog.reset_defaults()


async def sluice(world: World, *arguments: str) -> Result:
    """Run the command against both services, in a thread, since they live in this one's event loop."""
    room, *rest = arguments
    said = ["--gateway", world.platform["gateway"].address, room, "--service", world.platform["rollout"].address, *rest]
    return await asyncio.to_thread(CliRunner().invoke, app, said)


async def test_what_people_did_comes_back_as_ubi_and_plans_the_next_experiment(world: World, tmp_path: Path) -> None:
    async with AsyncClient(world.platform["gateway"].address, timeout=20) as client:
        answers = [await client.search("pool", user_id=user, limit=4) for user in USERS]
        clicks = [Event.click(answer, answer.results[place % 4]) for place, answer in enumerate(answers[:30])]
        rated = Event.rate(answers[0], stars=4, aspect="relevance", session_id="visit")
        recorded = await client.record_events([*clicks, rated])
        assert (recorded.stored_count, recorded.rejections) == (31, ())
        assert (await client.record_events([*clicks, rated])).duplicate_count == 31
        foreign = Event.click(answers[1], answers[1].results[0])
        stolen = Event(answers[2].request_id, foreign.action, foreign.impression_token, foreign.object_id, 1)
        refused = await client.record_events([stolen])
        assert refused.rejected_counts == {EventRejectionReason.NOT_SERVED: 1}
    await world.stored(40)

    exported = await sluice(world, "feedback", "export", str(tmp_path / "ubi"), "--json")
    assert exported.exit_code == calls.DONE, exported.stderr
    assert {name: json.loads(exported.stdout)[name] for name in ("answers", "events")} == {"answers": 40, "events": 31}
    lines = {
        name: [json.loads(line) for line in (tmp_path / "ubi" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("ubi_queries", "ubi_events")
    }
    queries = {query["query_id"]: query for query in lines["ubi_queries"]}
    assert {query["user_query"] for query in queries.values()} == {"pool"}
    assert len({query["client_id"] for query in queries.values()}) == 40
    clicked = {event["query_id"]: event for event in lines["ubi_events"] if event["action_name"] == "click"}
    for place, answer in enumerate(answers[:30]):
        shown = [result.passage.id for result in answer.results]
        assert queries[answer.request_id]["query_response_object_ids"] == shown
        attributes = clicked[answer.request_id]["event_attributes"]
        assert attributes["object"]["object_id"] == shown[place % 4]
        assert attributes["position"]["ordinal"] == place % 4 + 1
    (rating,) = [event for event in lines["ubi_events"] if event["action_name"] == "rate"]
    assert rating["event_attributes"]["rating"] == 0.75
    assert rating["session_id"].startswith("hmac:") or len(rating["session_id"]) > 8
    assert "visit" not in rating["session_id"]

    planned = await sluice(world, "experiment", "plan", "ab", "--measured", "--days", "2", "--json")
    found = json.loads(planned.stdout)
    assert found["recorded_users"] == 40
    reciprocal_ranks = [1 / (place % 4 + 1) for place in range(30)] + [0.0] * 10
    assert found["mean"] == pytest.approx(sum(reciprocal_ranks) / 40)


async def test_an_interleaved_answer_tells_its_teams_and_its_clicks_are_kept_with_them(
    world: World, tmp_path: Path
) -> None:
    plan = tmp_path / "words.yaml"
    plan.write_text(PLAN)
    made = await sluice(world, "experiment", "create", str(plan), "--reason", "to see", "--actor", "ann")
    assert made.exit_code == calls.DONE, made.stderr
    begun = await sluice(world, "experiment", "start", "words", "--reason", "to see", "--actor", "ann")
    assert begun.exit_code == calls.DONE, begun.stderr
    async with AsyncClient(world.platform["gateway"].address, timeout=20) as client:
        answer = await client.search("pool", user_id="ada", limit=8)
        while not answer.experiments:
            answer = await client.search("pool", user_id="ada", limit=8)
        (exposure,) = answer.experiments
        assert (exposure.experiment, exposure.arm) == ("words", "")
        assert {result.team for result in answer.results} <= {"", "both", "words"}
        assert (await client.record_events([Event.click(answer, answer.results[0])])).stored_count == 1
    async with AsyncExperimentClient(world.platform["rollout"].address, actor="ann") as experiments:
        while True:
            kept = [one async for one in experiments.feedback(experiment="words") if one.events]
            if kept and kept[0].served.ending is not None:
                break
            await asyncio.sleep(0.05)
    (one,) = kept
    assert one.served.impression.query_id == answer.request_id
    assert one.served.ending is ImpressionEnding.ANSWERED
    (kept_exposure,) = one.served.impression.exposures
    numbers = {"": 0, "both": 1, "words": 2}
    assert list(kept_exposure.teams) == [numbers[result.team] for result in answer.results]
    while (found := await findings(world)) is None or not found["arms"][0]["event_count"]:
        await asyncio.sleep(0.1)
    assert found["arms"][0]["user_count"] == 1
    assert found["verdict"] == "go_on"
    shown = await sluice(world, "experiment", "status", "words", "--once")
    assert "interleave: words against both" in shown.stdout
    page = tmp_path / "report.html"
    reported = await sluice(world, "experiment", "report", "words", "--html", str(page))
    assert reported.exit_code == calls.DONE, reported.stderr
    assert "Not decided yet." in page.read_text()


async def findings(world: World) -> dict[str, Any] | None:
    """Newest findings of the experiment, by the command."""
    (status,) = json.loads((await sluice(world, "experiment", "status", "words", "--json")).stdout)
    found: dict[str, Any] | None = status["findings"]
    return found
