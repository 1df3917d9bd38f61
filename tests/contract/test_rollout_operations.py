"""`sluice rollout` and the real service, on a real socket, with a gateway that is only a stream."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import structlog
from typer.testing import CliRunner, Result

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice_cli import calls
from sluice_cli.main import app
from sluice_cli.rollout.plans import PLANS
from tests.contract.conftest import Platform, start

Rollout = Callable[..., Awaitable[Result]]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Platform]:
    # The command speaks on the same standard output.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with AsyncExitStack() as stack:
        settings = {"rollout_database_url": f"sqlite:///{tmp_path / 'rollout.db'}", "rollout_decision_seconds": 0.1}
        yield await start(stack, {"rollout"}, rollout=settings)
    structlog.reset_defaults()


@pytest.fixture
def rollout(service: Platform) -> Rollout:
    async def run(*arguments: str) -> Result:
        said = ["rollout", "--service", service["rollout"].address, *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, said)

    return run


@asynccontextmanager
async def gateway(service: Platform) -> AsyncIterator[None]:
    """Follows every snapshot, as a gateway does."""
    async with grpc.aio.insecure_channel(service["rollout"].address) as channel:
        stub = rollout_pb2_grpc.SnapshotServiceStub(channel)

        async def follow() -> None:
            async for reply in stub.WatchSnapshot(pb.WatchSnapshotRequest(gateway="g1")):
                if reply.HasField("snapshot"):
                    snapshot = reply.snapshot
                    request = pb.AcknowledgeSnapshotRequest(
                        gateway="g1", version=snapshot.version, content_hash=snapshot.content_hash
                    )
                    await stub.AcknowledgeSnapshot(request)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_a_feature_goes_from_a_plan_to_its_review(service: Platform, rollout: Rollout, tmp_path: Path) -> None:
    async with gateway(service):
        started = await rollout("start", "ramp", "--reason", "first try", "--actor", "ann")
        assert started.exit_code == calls.DONE, started.stderr
        assert "enrichment is ramping: 10 % of the users, step 1 of 3 (ramp)" in started.stdout

        found = json.loads((await rollout("status", "--json")).stdout)
        assert found["features"][0]["feature"]["treatment_ppm"] == 100_000
        assert "g1" in (await rollout("status", "--once")).stdout

        early = await rollout("promote", "enrichment", "--reason", "impatience")
        assert early.exit_code == calls.NOT_DONE
        assert "remedy: wait for more evidence" in early.stderr

        for said, share in (
            (("hold", "enrichment", "--reason", "a freeze"), 100_000),
            (("set", "enrichment", "20%", "--yes", "--reason", "by hand"), 200_000),
            (("halve", "enrichment"), 100_000),
            (("rollback", "enrichment"), 0),
            (("rearm", "enrichment", "--reason", "mended"), 0),
            (("start", "ramp", "--reason", "again"), 100_000),
            (("kill", "enrichment", "--reason", "enough"), 0),
        ):
            result = await rollout(*said, "--json")
            assert result.exit_code == calls.DONE, (said, result.stderr)
            assert json.loads(result.stdout)["treatment_ppm"] == share
        again = await rollout("start", "ramp", "--reason", "once more")
        assert again.exit_code == calls.NEEDS_A_LOOK

        actions = [entry["action"] for entry in json.loads((await rollout("history", "--json")).stdout)]
        wanted = ["created", "started", "held", "share_set", "halved", "rolled_back", "rearmed", "started", "killed"]
        assert [action for action in actions if action in wanted] == wanted
    page, text = tmp_path / "r.html", tmp_path / "r.md"
    assert (await rollout("report", "enrichment", "--html", str(page), "--markdown", str(text))).exit_code == calls.DONE
    assert "Killed by" in page.read_text()
    assert "# Rollout of enrichment: killed" in text.read_text()


async def test_every_template_is_taken_by_the_service(rollout: Rollout) -> None:
    for name in PLANS.template_names():
        result = await rollout("start", name, "--reason", "x")
        assert result.exit_code == calls.DONE, result.stderr
        assert "no gateway is connected" in result.stderr


async def test_the_service_and_the_command_agree_on_what_is_wrong(rollout: Rollout) -> None:
    missing = await rollout("kill", "nothing")
    assert "`sluice rollout list` names the features" in missing.stderr
    assert (await rollout("create", "a", "--rerank", "--reason", "x")).exit_code == calls.DONE
    twice = await rollout("create", "a", "--no-rerank", "--reason", "x")
    assert "a new feature needs a new name" in twice.stderr
    nothing = await rollout("create", "b", "--reason", "x")
    assert "features" in nothing.stderr
    assert "correct the named field" in nothing.stderr
