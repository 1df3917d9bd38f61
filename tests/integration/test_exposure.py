"""Gateways and the real rollout service, in a process of its own: what a command does to everybody's answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from drills.parts.processes import StageProcess, running
from services.chassis.client import StageChannel
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.rollout.v1 import rollout_pb2, rollout_pb2_grpc
from sluice.type.v1 import arm_pb2, features_pb2
from tests.contract.conftest import start
from tests.stubs import GatewayStubs

ON = features_pb2.Features(expansion=True)
BY = rollout_pb2.Command(actor="a test", reason="it must be so")
HALF = rollout_pb2.Plan(
    name="half",
    steps=[rollout_pb2.PlanStep(treatment_ppm=500_000, dwell=Duration(seconds=3600))],
)


class Fleet:
    """Two gateways over the same stages, and the service's operator."""

    def __init__(self, service: StageProcess, operator: StageChannel, gateways: list[StageChannel]) -> None:
        self.service = service
        self.operator = rollout_pb2_grpc.RolloutServiceStub(operator.channel)
        self.gateways = [GatewayStubs(gateway.channel) for gateway in gateways]

    async def treated(self, users: int = 8, features: features_pb2.Features | None = None) -> list[int]:
        """Number of these users that get expansion, by gateway."""
        answers = await asyncio.gather(
            *(
                gateway.search.Search(
                    search_pb2.SearchRequest(query="pool", user_id=f"user-{user}", features=features), timeout=20
                )
                for gateway in self.gateways
                for user in range(users)
            )
        )
        return [
            sum(answer.features.expansion for answer in answers[start : start + users])
            for start in range(0, len(answers), users)
        ]

    async def shown(self) -> rollout_pb2.GetFeatureResponse:
        """The feature as the operator sees it."""
        request = rollout_pb2.GetFeatureRequest(name="expand-v1")
        reply: rollout_pb2.GetFeatureResponse = await self.operator.GetFeature(request, timeout=20)
        return reply

    async def history(self) -> list[rollout_pb2.HistoryEntry]:
        """History of the feature."""
        request = rollout_pb2.ListHistoryRequest(name="expand-v1")
        return list((await self.operator.ListHistory(request, timeout=20)).entries)

    async def come_to(self, condition: Callable[[list[int]], bool], **asked: Any) -> list[int]:
        """Asks until it is so."""
        deadline = time.monotonic() + 30
        while not condition(treated := await self.treated(**asked)):
            assert time.monotonic() < deadline, f"treated by gateway: {treated}"
            await asyncio.sleep(0.05)
        return treated


@pytest.fixture(params=[30])
async def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """Its parameter is the lease in seconds."""
    environment = {
        "ROLLOUT_DATABASE_URL": f"sqlite:///{tmp_path / 'rollout.db'}",
        "ROLLOUT_LEASE_SECONDS": str(request.param),
        "ROLLOUT_GATEWAY_LIVE_SECONDS": "60",
        "ROLLOUT_DECISION_SECONDS": "0.1",
    }
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(running("rollout", environment))
        operator = await stack.enter_async_context(StageChannel(service.address))
        stages = await start(
            stack, {"embedder", "expander", "retriever"}, retriever={"qdrant_path": tmp_path / "qdrant"}
        )
        addresses = {f"{name}_address": channel.address for name, channel in stages.channels.items()}
        gateways = []
        for number in range(2):
            settings = {
                "rollout_address": service.address,
                "rollout_gateway_name": f"gateway-{number}",
                "rollout_snapshot_path": tmp_path / f"snapshot-{number}.json",
                "rollout_overrides_path": tmp_path / f"overrides-{number}.env",
                "rollout_report_seconds": 0.1,
            }
            platform = await start(stack, {"gateway"}, gateway=addresses | settings)
            gateways.append(platform["gateway"])
        fleet = Fleet(service, operator, gateways)
        documents = [documents_pb2.Document(id=f"d{number}", text="threads wait in a pool") for number in range(3)]
        await fleet.gateways[0].documents.IndexDocuments(
            documents_pb2.IndexDocumentsRequest(documents=documents), timeout=20
        )
        await fleet.operator.CreateFeature(
            rollout_pb2.CreateFeatureRequest(
                command=BY,
                name="expand-v1",
                # The strategy that the expander of the tests serves: a feature that does not run is taken back.
                features=features_pb2.Features(
                    expansion=True, expansion_strategy=features_pb2.EXPANSION_STRATEGY_MULTI_QUERY
                ),
            ),
            timeout=20,
        )
        await fleet.operator.StartRamp(
            rollout_pb2.StartRampRequest(command=BY, name="expand-v1", plan=HALF), timeout=20
        )
        yield fleet


async def test_a_ramp_reaches_the_same_users_on_every_gateway_and_a_kill_takes_it_from_all(fleet: Fleet) -> None:
    treated = await fleet.come_to(lambda treated: min(treated) > 0)
    assert len(set(treated)) == 1
    assert 0 < treated[0] < 8

    # What was asked last is reported a moment later.
    async with asyncio.timeout(30):
        units: dict[int, int] = {}
        while units.get(arm_pb2.ARM_TREATMENT) != treated[0] or not units.get(arm_pb2.ARM_CONTROL):
            units = {arm.arm: arm.unit_count for arm in (await fleet.shown()).arms}
            await asyncio.sleep(0.05)

    await fleet.operator.KillFeature(rollout_pb2.KillFeatureRequest(command=BY, name="expand-v1"), timeout=20)
    assert await fleet.come_to(lambda treated: not any(treated), features=ON) == [0, 0]
    while not (last := (await fleet.history())[-1]).HasField("done_time"):
        await asyncio.sleep(0.05)
    assert last.action == rollout_pb2.HISTORY_ACTION_KILLED
    assert {gateway.name: gateway.version for gateway in (await fleet.shown()).gateways} == {
        f"gateway-{number}": last.snapshot_version for number in range(2)
    }


@pytest.mark.parametrize("fleet", [1], indirect=True)
async def test_with_the_service_dead_ramps_end_with_their_lease_and_a_kill_by_hand_holds(
    fleet: Fleet, tmp_path: Path
) -> None:
    await fleet.come_to(lambda treated: min(treated) > 0)
    fleet.service.kill()
    await fleet.service.ended()
    (tmp_path / "overrides-0.env").write_text("ROLLOUT_KILL=expand-v1\n")
    assert await fleet.come_to(lambda treated: not any(treated)) == [0, 0]
    # Who asks for it still gets it, but where it is killed.
    assert (await fleet.come_to(lambda treated: treated[0] == 0, features=ON))[1] == 8
    await fleet.service.start()
    # What ramped goes on where it was, but where it is killed.
    assert (await fleet.come_to(lambda treated: treated[1] > 0))[0] == 0
