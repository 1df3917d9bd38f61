"""The control plane where callers show credentials: gateways report, operators command, and nobody is another."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.server import serving
from services.rollout.__main__ import compose
from services.rollout.settings import RolloutSettings
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1 import arm_pb2, features_pb2
from tests.contract.access import Doors, bearer, key_of, row

NAME = "rerank-v1"
SECONDS = 10
CALLERS = row("op", "operator") + row("gw", "gateway") + row("gw2", "gateway") + row("reader", "reader")


class Plane:
    """Both services, called with keys."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.operators = rollout_pb2_grpc.RolloutServiceStub(channel)
        self.gateways = rollout_pb2_grpc.SnapshotServiceStub(channel)

    async def ask(self, key: str, method: str, request: Any) -> Any:
        stub = self.operators if hasattr(self.operators, method) else self.gateways
        metadata = bearer(key_of(key)) if key else ()
        return await getattr(stub, method)(request, metadata=metadata, timeout=SECONDS)

    async def refused(self, key: str, method: str, request: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.ask(key, method, request)
        return error.value.code()

    async def feature(self) -> pb.GetFeatureResponse:
        found: pb.GetFeatureResponse = await self.ask("op", "GetFeature", pb.GetFeatureRequest(name=NAME))
        return found


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    doors = Doors(tmp_path / "access", CALLERS)
    settings = RolloutSettings(
        grpc_port=0,
        metrics_port=0,
        drain_seconds=0,
        rollout_database_url=f"sqlite:///{tmp_path / 'rollout.db'}",
        rollout_gateway_live_seconds=4,
        rollout_lease_seconds=2,
        **doors.variables(),
    )
    async with (
        compose(settings) as stage,
        serving(stage, settings) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        plane = Plane(channel)
        await plane.ask(
            "op",
            "CreateFeature",
            pb.CreateFeatureRequest(
                command=pb.Command(actor="sluice", reason="to see"),
                name=NAME,
                features=features_pb2.Features(rerank=True),
            ),
        )
        yield plane


def report(gateway: str, sequence: int) -> pb.ReportEvidenceRequest:
    return pb.ReportEvidenceRequest(
        gateway=gateway,
        incarnation=1,
        sequence=sequence,
        arms=[pb.ArmEvidence(feature=NAME, ramp_id=f"{NAME}.1", arm=arm_pb2.ARM_TREATMENT, request_count=100)],
    )


async def test_the_actor_in_the_history_is_the_credential_whatever_the_command_says(plane: Plane) -> None:
    kill = pb.KillFeatureRequest(command=pb.Command(actor="sluice", reason="to see"), name=NAME)
    await plane.ask("op", "KillFeature", kill)
    history = await plane.ask("op", "ListHistory", pb.ListHistoryRequest(name=NAME))
    assert {entry.actor for entry in history.entries} == {"key:op"}


async def test_a_thousand_forged_reports_count_for_nothing(plane: Plane) -> None:
    share = pb.SetTreatmentShareRequest(
        command=pb.Command(actor="a", reason="to see"), name=NAME, treatment_ppm=500_000
    )
    await plane.ask("op", "SetTreatmentShare", share)
    refused = set()
    for place in range(1000):
        key = ("op", "reader", "", "unknown")[place % 4]
        refused.add(await plane.refused(key, "ReportEvidence", report(f"invented-{place}", 1)))
    assert refused == {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
    found = await plane.feature()
    assert not found.gateways
    assert sum(arm.request_count for arm in found.arms) == 0


async def test_an_invented_gateway_neither_counts_as_live_nor_holds_a_kill_open(plane: Plane) -> None:
    await plane.ask("gw", "AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="one", version=1000))
    for key in ("op", "reader", ""):
        request = pb.AcknowledgeSnapshotRequest(gateway="one", version=0)
        assert await plane.refused(key, "AcknowledgeSnapshot", request) is not None
        stream = plane.gateways.WatchSnapshot(
            pb.WatchSnapshotRequest(gateway="two"), metadata=bearer(key_of(key)) if key else (), timeout=SECONDS
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
    kill = pb.KillFeatureRequest(command=pb.Command(actor="a", reason="to see"), name=NAME)
    await plane.ask("op", "KillFeature", kill)
    deadline = time.monotonic() + SECONDS
    while True:
        found = await plane.feature()
        await plane.ask("gw", "AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="one", version=1000))
        history = await plane.ask("op", "ListHistory", pb.ListHistoryRequest(name=NAME))
        if history.entries[-1].HasField("done_time"):
            break
        assert time.monotonic() < deadline
    assert [gateway.name for gateway in found.gateways] == ["key:gw/one"]


async def test_a_gateways_name_is_its_own_and_another_credential_cannot_speak_for_it(plane: Plane) -> None:
    await plane.ask("gw", "AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="one", version=1))
    await plane.ask("gw2", "AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="one", version=0))
    found = await plane.feature()
    assert {gateway.name: gateway.version for gateway in found.gateways} == {"key:gw/one": 1, "key:gw2/one": 0}
