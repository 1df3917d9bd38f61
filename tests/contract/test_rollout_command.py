from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.chassis import errors
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice_cli import calls
from sluice_cli.main import app
from sluice_cli.rollout import commands, plans
from sluice_client import (
    AsyncRolloutClient,
    Criteria,
    Features,
    FeatureState,
    Guardrail,
    Plan,
    PlanStep,
    SluiceError,
    features,
)
from tests.contract.canned_operations import CannedOperations, canned_operations

Rollout = Callable[..., Awaitable[Result]]


@pytest.fixture
async def service() -> AsyncIterator[CannedOperations]:
    async with canned_operations() as running:
        running.features["rerank"] = pb.Feature(
            name="rerank",
            features=Features(rerank=True, rerank_candidate_count=50),
            state=pb.FEATURE_STATE_READY,
        )
        yield running


@pytest.fixture
def rollout(service: CannedOperations) -> Rollout:
    """Runs `sluice rollout`, in a thread, since the service lives in this one's event loop."""

    async def run(*arguments: str) -> Result:
        said = ["rollout", "--service", service.address, *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, said)

    return run


# Commands


@pytest.mark.parametrize(
    ("said", "request_type", "state"),
    [
        ("promote", pb.PromoteFeatureRequest, "ramping"),
        ("hold", pb.HoldFeatureRequest, "held"),
        ("halve", pb.HalveFeatureRequest, "held"),
        ("rollback", pb.RollBackFeatureRequest, "rolled back"),
        ("kill", pb.KillFeatureRequest, "killed"),
        ("rearm", pb.RearmFeatureRequest, "ready"),
    ],
)
async def test_a_command_says_who_and_why_and_returns_when_all_gateways_serve_it(
    service: CannedOperations, rollout: Rollout, said: str, request_type: type, state: str
) -> None:
    result = await rollout(said, "rerank", "--reason", "OPS-1", "--actor", "ann")
    assert result.exit_code == calls.DONE, result.stderr
    assert f"rerank is {state}" in result.stdout
    assert "all 3 gateways serve it (snapshot 2)" in result.stdout
    (command,) = service.commands
    assert isinstance(command, request_type)
    assert (command.name, command.command.actor, command.command.reason) == ("rerank", "ann", "OPS-1")
    assert command.command.command_id


async def test_what_takes_a_feature_back_needs_no_reason_and_asks_nothing(
    service: CannedOperations, rollout: Rollout
) -> None:
    for said in ("kill", "rollback", "halve"):
        assert (await rollout(said, "rerank")).exit_code == calls.DONE
    assert [command.command.reason for command in service.commands] == ["by hand"] * 3
    assert all(command.command.actor for command in service.commands)
    assert (await rollout("promote", "rerank")).exit_code == calls.WRONG_COMMAND_LINE
    assert len(service.commands) == 3


async def test_a_command_whose_answer_is_lost_is_sent_again_under_the_same_id(
    service: CannedOperations, rollout: Rollout
) -> None:
    service.failures.extend([errors.Unavailable("not now"), errors.Unavailable("nor now"), None])
    assert (await rollout("kill", "rerank")).exit_code == calls.DONE
    assert len(service.commands) == 3
    assert len({command.command.command_id for command in service.commands}) == 1
    assert (await rollout("kill", "rerank")).exit_code == calls.DONE
    assert len({command.command.command_id for command in service.commands}) == 2


async def test_a_gateway_that_does_not_serve_it_is_named(
    service: CannedOperations, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ACKNOWLEDGED_WITHIN_SECONDS", 0.3)
    service.acknowledging = False
    service.gateways[0].version = service.gateways[1].version = 99
    service.gateways[1].live = False
    result = await rollout("kill", "rerank")
    assert result.exit_code == calls.NEEDS_A_LOOK
    told = " ".join(result.stderr.split())
    assert "not served yet (snapshot 2) by gateway-3 (snapshot 1)" in told
    assert "ROLLOUT_KILL=NAME" in told


async def test_more_users_by_hand_need_a_yes(service: CannedOperations, rollout: Rollout) -> None:
    service.features["rerank"].treatment_ppm = 100_000
    refused = await rollout("set", "rerank", "25%", "--reason", "x")
    assert refused.exit_code == calls.WRONG_COMMAND_LINE
    assert "rerank goes from 10 % to 25 %" in refused.stderr
    assert "--yes" in refused.stderr
    assert not service.commands
    assert (await rollout("set", "rerank", "25%", "--reason", "x", "--yes")).exit_code == calls.DONE
    assert (await rollout("set", "rerank", "0.5 %", "--reason", "x")).exit_code == calls.DONE
    assert [command.treatment_ppm for command in service.commands] == [250_000, 5_000]


async def test_a_feature_is_made_of_what_is_said(service: CannedOperations, rollout: Rollout) -> None:
    said = "create phrases --expansion --expansion-strategy multi_query --max-variant-count 5 --no-rerank --salt s"
    said += " --description d --reason r"
    made = await rollout(*said.split(), "--json")
    assert made.exit_code == calls.DONE
    assert json.loads(made.stdout)["features"]["expansion_strategy"] == "multi_query"
    (request,) = service.commands
    assert (request.name, request.salt, request.description) == ("phrases", "s", "d")
    assert request.features == features(
        expansion=True, expansion_strategy="multi_query", max_variant_count=5, rerank=False
    )


# Plans


async def test_a_plan_of_several_features_is_worked_off_by_the_same_command(
    service: CannedOperations, rollout: Rollout
) -> None:
    del service.features["rerank"]
    week = ("start", "weekly", "--reason", "the week's")
    first = await rollout(*week)
    assert first.exit_code == calls.DONE, first.stderr
    assert "baseline is ramping: 50 % of the users, step 1 of 2 (weekly)" in first.stdout
    assert [type(command).__name__ for command in service.commands] == ["CreateFeatureRequest", "StartRampRequest"]

    again = await rollout(*week)
    assert again.exit_code == calls.DONE
    assert "nothing was changed" in again.stdout
    assert len(service.commands) == 2

    for done, then in (("baseline", "rerank"), ("rerank", "expansion"), ("expansion", "optimised")):
        service.features[done].state = pb.FEATURE_STATE_COMPLETE
        assert f"{then} is ramping" in (await rollout(*week)).stdout
    service.features["optimised"].state = pb.FEATURE_STATE_COMPLETE
    assert "all of weekly is complete" in (await rollout(*week)).stdout
    assert len(service.commands) == 8


async def test_a_feature_that_was_taken_back_stops_the_plan(service: CannedOperations, rollout: Rollout) -> None:
    for state in (pb.FEATURE_STATE_ROLLED_BACK, pb.FEATURE_STATE_KILLED, pb.FEATURE_STATE_HELD):
        service.features["rerank"].state = state
        result = await rollout("start", "weekly", "--feature", "rerank", "--reason", "x")
        assert result.exit_code == calls.NEEDS_A_LOOK
        assert "is not on its way" in result.stderr
    assert not service.commands


async def test_a_feature_keeps_its_meaning(service: CannedOperations, rollout: Rollout) -> None:
    service.features["rerank"].features.rerank_candidate_count = 20
    result = await rollout("start", "weekly", "--feature", "rerank", "--reason", "x")
    assert result.exit_code == calls.NOT_DONE
    assert "sets other flags" in result.stderr
    assert not service.commands


async def test_the_service_gets_the_plan_as_it_is_written(service: CannedOperations, rollout: Rollout) -> None:
    assert (await rollout("start", "ramp", "--reason", "x")).exit_code == calls.DONE
    plan = service.commands[-1].plan
    assert [(step.treatment_ppm, step.dwell.seconds, step.automatic) for step in plan.steps] == [
        (100_000, 7_200, False),
        (500_000, 86_400, False),
        (1_000_000, 172_800, False),
    ]
    assert (plan.criteria.p95_max.ToMilliseconds(), plan.criteria.p95_increase_max) == (3_500, 0.3)
    assert not plan.criteria.HasField("allowed_ratio")


@pytest.mark.parametrize("damage", ["empty", "cut", "twisted", "gone"])
async def test_a_plan_that_cannot_be_read_changes_nothing(
    service: CannedOperations, rollout: Rollout, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "plan.yaml"
    whole = plans.PLANS.template_text("weekly")
    texts = {"empty": "", "cut": whole[:900], "twisted": whole.replace("share: 10 %", "share: 1000 %")}
    if damage in texts:
        path.write_text(texts[damage])
    for said in (("start", str(path), "--reason", "x"), ("check", str(path))):
        result = await rollout(*said)
        assert result.exit_code == calls.WRONG_COMMAND_LINE
        assert "error: " in result.stderr
        assert "remedy: " in result.stderr
    assert not service.requests


async def test_a_plan_can_be_printed_changed_and_checked_without_a_service(tmp_path: Path) -> None:
    printed = await asyncio.to_thread(CliRunner().invoke, app, ["rollout", "plan", "ramp"])
    path = tmp_path / "mine.yaml"
    path.write_text(printed.stdout.replace("share: 10 %", "share: 5 %"))
    checked = await asyncio.to_thread(CliRunner().invoke, app, ["rollout", "check", str(path)])
    assert checked.exit_code == calls.DONE
    assert "5 %" in checked.stdout
    machine = await asyncio.to_thread(CliRunner().invoke, app, ["rollout", "check", str(path), "--json"])
    assert json.loads(machine.stdout)["enrichment"]["steps"][0] == {
        "treatment_ppm": 50_000,
        "dwell": 7200.0,
        "automatic": False,
    }


# Looking


async def test_status_shows_shares_arms_evidence_and_gateways(service: CannedOperations, rollout: Rollout) -> None:
    await rollout("start", "weekly", "--feature", "rerank", "--reason", "x")
    service.gateways[2].version = 1
    service.gateways[1].locally_killed.append("rerank")
    service.gateways[0].quarantined.add(name="odd", reason="makes no sense")
    shown = (await rollout("status", "--once")).stdout
    for part in (
        "rerank  ramping  10 % of the users",
        "step 1 of 3 of weekly",
        "treatment",
        "7.50 %",
        "1,500 ms",
        "3.1/4.4",
        "gateway-1",
        "behind 2",
        "killed there: rerank",
        "does not serve odd: makes no sense",
    ):
        assert part in shown
    found = json.loads((await rollout("status", "rerank", "--json")).stdout)
    assert found["snapshot_version"] == 2
    assert found["features"][0]["guardrails"][0]["guardrail"] == "errors"
    assert found["features"][0]["feature"]["plan"]["steps"][0]["dwell"] == timedelta(days=1).total_seconds()


async def test_features_are_listed_and_shown(service: CannedOperations, rollout: Rollout) -> None:
    listed = (await rollout("list")).stdout
    assert "rerank on, rerank candidate count 50" in listed
    assert "sets: rerank on" in (await rollout("show", "rerank")).stdout
    service.features.clear()
    assert "no features yet" in (await rollout("list")).stdout
    assert "no features yet" in (await rollout("status", "--once")).stdout
    missing = await rollout("show", "rerank")
    assert missing.exit_code == calls.NOT_DONE
    assert "remedy: `sluice rollout list` names the features" in missing.stderr


async def test_the_history_is_read_to_its_end(service: CannedOperations, rollout: Rollout) -> None:
    for number in range(1, 6):
        entry = pb.HistoryEntry(
            number=number, feature="rerank", action=pb.HISTORY_ACTION_SHARE_SET, actor="ann", new_treatment_ppm=number
        )
        entry.time.FromSeconds(1_800_000_000 + number)
        if number == 5:
            entry.old_treatment_ppm = 4
            entry.done_time.FromMilliseconds(1_800_000_005_250)
        service.history.append(entry)
    found = json.loads((await rollout("history", "rerank", "--json")).stdout)
    assert [entry["number"] for entry in found] == [1, 2, 3, 4, 5]
    shown = (await rollout("history")).stdout
    assert "after 0.25 s" in shown
    assert "0.0004 % -> 0.0005 %" in shown


async def test_a_report_is_text_a_page_or_json(service: CannedOperations, rollout: Rollout, tmp_path: Path) -> None:
    assert (await rollout("report", "rerank")).stdout.startswith("# Rollout of rerank: not started")
    page = tmp_path / "page.html"
    written = await rollout("report", "rerank", "--html", str(page), "--markdown", str(tmp_path / "page.md"))
    assert written.exit_code == calls.DONE
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert json.loads((await rollout("report", "rerank", "--json")).stdout)["feature"]["state"] == "ready"


# Trouble


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (errors.FailedPrecondition("not shown", reason="NOT_SHOWN"), "wait for more evidence"),
        (errors.FailedPrecondition("rolled back", reason="NEEDS_REARM"), "rearm NAME"),
        (errors.FailedPrecondition("something new", reason="SOMETHING_NEW"), "tells its state and the reason"),
        (errors.InvalidArgument("name", "is bad"), "correct the named field"),
    ],
)
async def test_every_refusal_comes_with_a_remedy(
    service: CannedOperations, rollout: Rollout, failure: errors.SluiceError, remedy: str
) -> None:
    service.failures.append(failure)
    result = await rollout("promote", "rerank", "--reason", "x")
    assert result.exit_code == calls.NOT_DONE
    assert remedy in result.stderr


async def test_a_service_that_is_gone_leaves_a_way_to_kill() -> None:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["rollout", "--service", "127.0.0.1:1", "kill", "rerank"])
    assert result.exit_code == calls.NOT_DONE
    assert "the rollout service at 127.0.0.1:1 cannot be reached" in result.stderr
    assert "ROLLOUT_OVERRIDES_PATH" in result.stderr
    assert "Traceback" not in result.stderr


async def test_what_a_newer_service_says_is_unknown_and_no_error(service: CannedOperations) -> None:
    service.features["rerank"].state = 99  # type: ignore[assignment]
    async with AsyncRolloutClient(service.address, actor="ann") as client:
        assert (await client.feature("rerank")).feature.state is FeatureState.UNKNOWN
        assert (await client.feature("rerank")).guardrails[0].guardrail is Guardrail.ERRORS


async def test_a_plan_comes_back_as_it_was_sent(service: CannedOperations) -> None:
    plan = Plan(
        name="p",
        steps=(PlanStep(1, timedelta(milliseconds=250)), PlanStep(2, timedelta(days=3), automatic=True)),
        criteria=Criteria(error_rate_max=0.02, p95_max=timedelta(seconds=3.5), allowed_ratio=1.5),
        holdout_ppm=50_000,
    )
    async with AsyncRolloutClient(service.address, actor="ann") as client:
        assert (await client.start("rerank", plan, reason="x")).plan == plan
        with pytest.raises(SluiceError, match=r"plan\.steps\[0\]\.treatment_ppm"):
            await client.start("rerank", Plan("p", [PlanStep(2**40, timedelta())]), reason="x")


@pytest.mark.parametrize(
    "command",
    "list show create start promote hold set halve rollback kill rearm history status report plan check".split(),  # noqa: SIM905
)
def test_the_help_of_every_command_has_examples(command: str) -> None:
    result = CliRunner().invoke(app, ["rollout", command, "--help"])
    assert result.exit_code == 0
    assert f"  sluice rollout {command}" in result.stdout
