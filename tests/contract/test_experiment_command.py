"""`sluice experiment`, `sluice feedback` and the real service, on a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from sluice_cli import calls
from sluice_cli.experiment import commands
from sluice_cli.experiment.plans import PLANS
from sluice_cli.main import app
from sluice_client import (
    AsyncExperimentClient,
    AttachedEvidence,
    ExperimentClient,
    ExperimentMetric,
    ExperimentState,
    LadderStep,
    SluiceError,
)
from tests.contract.conftest import Platform, start
from tests.contract.test_rollout_operations import gateway

Command = Callable[..., Awaitable[Result]]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Platform]:
    # The command speaks on the same standard output.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with AsyncExitStack() as stack:
        settings = {"rollout_database_url": f"sqlite:///{tmp_path / 'rollout.db'}", "rollout_decision_seconds": 0.1}
        yield await start(stack, {"rollout"}, rollout=settings)
    structlog.reset_defaults()


@pytest.fixture
def experiment(service: Platform) -> Command:
    """Runs `sluice experiment`, in a thread, since the service lives in this one's event loop."""

    async def run(*arguments: str) -> Result:
        said = ["experiment", "--service", service["rollout"].address, *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, said)

    return run


async def test_an_experiment_goes_from_its_plan_to_its_report(
    service: Platform, experiment: Command, tmp_path: Path
) -> None:
    plan = tmp_path / "mine.yaml"
    plan.write_text((await experiment("template", "interleave")).stdout)
    assert (await experiment("check", str(plan))).exit_code == calls.DONE
    async with gateway(service):
        made = await experiment("create", str(plan), "--reason", "OPS-71", "--actor", "ann")
        assert made.exit_code == calls.DONE, made.stderr
        assert "closer-look is ready: 10 % of the users, rerank against standard" in made.stdout
        started = await experiment("start", "closer-look", "--reason", "OPS-71", "--actor", "ann")
        assert started.exit_code == calls.DONE, started.stderr
        assert "closer-look is running" in started.stdout
        assert "all gateways serve it" in started.stdout

        (listed,) = json.loads((await experiment("list", "--json")).stdout)
        assert (listed["plan"]["name"], listed["state"], listed["json_version"]) == ("closer-look", "running", 1)
        shown = await experiment("status", "closer-look", "--once")
        assert "interleave: rerank against standard" in shown.stdout
        assert "10 % of the users" in shown.stdout

        evidence = tmp_path / "evaluation.json"
        evidence.write_text(
            json.dumps(
                {
                    "step": "offline",
                    "time": "2026-11-20T12:00:00+00:00",
                    "summary": "nDCG@10 0.721 against 0.687",
                    "result": {"verdict": "better"},
                }
            )
        )
        attached = await experiment("attach", "closer-look", str(evidence))
        assert "closer-look has offline evidence: nDCG@10 0.721" in attached.stdout, attached.stderr

        stopped = await experiment("stop", "closer-look")
        assert stopped.exit_code == calls.DONE, stopped.stderr
        assert "closer-look is ended" in stopped.stdout

    page = tmp_path / "report.html"
    assert (await experiment("report", "closer-look", "--html", str(page))).exit_code == calls.DONE
    assert "It was ended before it was decided." in page.read_text()
    told = (await experiment("report", "closer-look")).stdout
    assert "| offline | better | nDCG@10 0.721 against 0.687 |" in told
    found = json.loads((await experiment("report", "closer-look", "--json")).stdout)
    assert [rung["step"] for rung in found["ladder"]] == ["offline", "replay", "shadow", "interleave", "A/B", "ramp"]
    assert [entry["action"] for entry in found["history"]][:2] == ["created", "started"]


async def test_without_a_gateway_that_says_so_a_start_needs_a_look(
    experiment: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ACKNOWLEDGED_WITHIN_SECONDS", 0.3)
    assert (await experiment("create", "ab", "--reason", "x", "--actor", "ann")).exit_code == calls.DONE
    started = await experiment("start", "closer-look-ab", "--reason", "x", "--actor", "ann")
    if started.exit_code == calls.NEEDS_A_LOOK:
        assert "sluice rollout history closer-look-ab" in " ".join(started.stderr.split())
    else:
        assert started.exit_code == calls.DONE


@pytest.mark.parametrize(
    ("arguments", "said", "remedy"),
    [
        (("start", "gone", "--reason", "x"), "gone", "sluice experiment list"),
        (("status", "gone", "--once"), "gone", "sluice experiment list"),
        (("report", "gone"), "gone", "sluice experiment list"),
        (("create", "monthly", "--reason", "x"), "no template 'monthly'", "ab, interleave"),
        (("attach", "closer-look", "/none.json"), "cannot be read", "sluice evaluate"),
    ],
)
async def test_every_refusal_comes_with_a_remedy(
    experiment: Command, arguments: tuple[str, ...], said: str, remedy: str
) -> None:
    result = await experiment(*arguments)
    assert result.exit_code in {calls.NOT_DONE, calls.WRONG_COMMAND_LINE}
    told = " ".join(result.stderr.split())
    assert said in told
    assert remedy in told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no JSON", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"summary": "x"}', "does not say its step"),
        ('{"step": "ramp", "summary": "x"}', "does not say its step"),
        ('{"step": "offline"}', "has no summary"),
        ('{"step": "offline", "summary": "x", "time": "soon"}', "has a time that is none"),
        (json.dumps({"step": "offline", "summary": "x", "result": "x" * 300_000}), "holds more than 256 KiB"),
    ],
)
async def test_a_file_that_is_no_evidence_is_refused(
    experiment: Command, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(content)
    result = await experiment("attach", "closer-look", str(file))
    assert result.exit_code == calls.WRONG_COMMAND_LINE
    assert said in " ".join(result.stderr.split())


async def test_the_clients_speak_to_the_service(service: Platform) -> None:
    address = service["rollout"].address
    async with AsyncExperimentClient(address, actor="ann") as client:
        plan = PLANS.read("ab").plan()
        made = await client.create(plan, reason="x")
        assert (made.plan.to_proto(), made.state) == (plan.to_proto(), ExperimentState.READY)
        assert (await client.experiment(made.name)).findings is None
        with pytest.raises(SluiceError) as caught:
            await client.create(plan, reason="x")
        assert caught.value.reason == "EXPERIMENT_EXISTS"
        evidence = AttachedEvidence(
            LadderStep.REPLAY, "as fast", "{}", (await client.report(made.name)).history[0].time
        )
        await client.attach(made.name, evidence, reason="x")
        assert (await client.report(made.name)).attached == (evidence,)

    def names() -> list[str]:
        with ExperimentClient(address, actor="ann") as blocking:
            running = blocking.start("closer-look-ab", reason="x")
            assert running.plan.primary is ExperimentMetric.RECIPROCAL_RANK
            assert blocking.stop("closer-look-ab", reason="x").state is ExperimentState.ENDED
            return [one.name for one in blocking.experiments()]

    assert await asyncio.to_thread(names) == ["closer-look-ab"]
