"""The rollout service on a real socket: operators on one side, gateways on the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY

from services.chassis import status
from services.chassis.client import StageChannel
from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SluiceError,
)
from services.chassis.server import serving
from services.experiment.bucketing import Arm, arm_of, bucket_of, unit_hash
from services.experiment.latencies import EDGES
from services.experiment.snapshot_hash import content_hash
from services.rollout.__main__ import compose
from services.rollout.settings import RolloutSettings
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1 import features_pb2

NAME = "rerank-v1"
WHO = pb.Command(actor="ada", reason="to see")
PLAN = pb.Plan(
    name="careful",
    steps=[
        pb.PlanStep(treatment_ppm=100_000, dwell=Duration(seconds=3600), automatic=True),
        pb.PlanStep(treatment_ppm=1_000_000, dwell=Duration(seconds=3600)),
    ],
)


class Service:
    """Both services, and a gateway's stream."""

    def __init__(self, channel: StageChannel) -> None:
        self._channel = channel
        self.operators = rollout_pb2_grpc.RolloutServiceStub(channel.channel)
        self.gateways = rollout_pb2_grpc.SnapshotServiceStub(channel.channel)

    async def ask(self, method: str, request: Any) -> Any:
        stub = self.operators if hasattr(self.operators, method) else self.gateways
        return await self._channel.call(getattr(stub, method), request, deadline=time.monotonic() + 20)

    async def create(self, name: str = NAME, **overrides: Any) -> pb.Feature:
        request = pb.CreateFeatureRequest(
            command=WHO, name=name, features=features_pb2.Features(**(overrides or {"rerank": True}))
        )
        return (await self.ask("CreateFeature", request)).feature

    async def set_share(self, ppm: int, name: str = NAME) -> pb.Feature:
        request = pb.SetTreatmentShareRequest(command=WHO, name=name, treatment_ppm=ppm)
        return (await self.ask("SetTreatmentShare", request)).feature

    def watch(self, gateway: str = "g1", known: str = "") -> Any:
        return self.gateways.WatchSnapshot(pb.WatchSnapshotRequest(gateway=gateway, content_hash=known))


async def snapshot_of(stream: Any, version: int) -> pb.Snapshot:
    """The first snapshot of at least a version that comes along."""
    async with asyncio.timeout(20):
        while True:
            reply = await stream.read()
            if reply.HasField("snapshot") and reply.version >= version:
                snapshot: pb.Snapshot = reply.snapshot
                return snapshot


@asynccontextmanager
async def started(path: Path, **given: Any) -> AsyncIterator[Service]:
    usual = {
        "grpc_port": 0,
        "metrics_port": 0,
        "drain_seconds": 0,
        "shutdown_grace_seconds": 2,
        "rollout_database_url": f"sqlite:///{path}",
        "rollout_decision_seconds": 0.05,
        "rollout_gateway_live_seconds": 600,
    }
    settings: Any = RolloutSettings(**(usual | given))
    async with (
        compose(settings) as stage,
        serving(stage, settings) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Service(channel)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with started(tmp_path / "rollout.db") as service:
        yield service


async def test_a_change_reaches_who_watches_and_is_done_when_they_say_so(service: Service) -> None:
    await service.create()
    stream = service.watch()
    first = await snapshot_of(stream, 1)
    await service.set_share(100_000)
    second = await snapshot_of(stream, first.version + 1)
    assert second.content_hash == content_hash(second.features)
    assert second.create_time.ToNanoseconds() > first.create_time.ToNanoseconds()
    (feature,) = second.features
    assert (feature.treatment_ppm, feature.control_ppm, feature.salt) == (100_000, 100_000, NAME)
    assert feature.lease_duration.ToMilliseconds() == 1500
    await service.ask("KillFeature", pb.KillFeatureRequest(command=WHO, name=NAME))
    third = await snapshot_of(stream, second.version + 1)
    assert third.features[0].killed
    acknowledgement = pb.AcknowledgeSnapshotRequest(gateway="g1", version=third.version)
    await service.ask("AcknowledgeSnapshot", acknowledgement)
    entries = (await service.ask("ListHistory", pb.ListHistoryRequest(name=NAME))).entries
    assert [entry.action for entry in entries] == [
        pb.HISTORY_ACTION_CREATED,
        pb.HISTORY_ACTION_SHARE_SET,
        pb.HISTORY_ACTION_KILLED,
    ]
    assert entries[-1].snapshot_version == third.version
    assert entries[-1].HasField("done_time")
    assert [(entry.actor, entry.reason) for entry in entries] == [("ada", "to see")] * 3
    stream.cancel()


async def test_who_has_the_newest_snapshot_gets_renewals_alone(service: Service) -> None:
    await service.create()
    stream = service.watch()
    newest = await snapshot_of(stream, 1)
    stream.cancel()
    again = service.watch(known=newest.content_hash)
    for _ in range(3):
        reply = await again.read()
        assert (reply.HasField("snapshot"), reply.content_hash) == (False, newest.content_hash)
    again.cancel()


async def test_worse_evidence_takes_a_feature_back_with_nobodys_help(service: Service) -> None:
    await service.create()
    stream = service.watch()
    feature = await service.set_share(100_000)
    hashed = [unit_hash(NAME, f"user-{number}") for number in range(4000)]
    arms = []
    for arm in (Arm.TREATMENT, Arm.CONTROL):
        units = [unit for unit in hashed if arm_of(bucket_of(unit), 100_000, 100_000) is arm]
        bad = units[:60] if arm is Arm.TREATMENT else units[:3]
        events = pb.BadEvents(guardrail=pb.GUARDRAIL_EMPTY_RESULTS, event_count=len(bad), units=bad)
        latencies = [0] * (len(EDGES) + 1)
        latencies[50] = 1000
        arms.append(
            pb.ArmEvidence(
                feature=NAME,
                ramp_id=feature.ramp_id,
                arm=arm.to_proto(),
                request_count=1000,
                units=units,
                bad_events=[events],
                latency_counts=latencies,
            )
        )
    report = pb.ReportEvidenceRequest(gateway="g1", incarnation=1, sequence=1, arms=arms)
    await service.ask("ReportEvidence", report)
    async with asyncio.timeout(20):
        while (found := await snapshot_of(stream, 1)).features[0].treatment_ppm != 50_000:
            pass
    stream.cancel()
    assert found.features[0].ramp_id != feature.ramp_id
    told = await service.ask("GetReport", pb.GetReportRequest(name=NAME))
    assert told.history[-1].actor == "sluice"
    assert "empty_results: 60 of 63" in told.history[-1].reason
    assert [step.treatment_ppm for step in told.steps] == [100_000, 50_000]
    treatment = told.steps[0].arms[0]
    assert treatment.request_count == 1000
    assert sum(bucket.count for bucket in treatment.latency) == 1000
    assert treatment.latency[0].lower.ToNanoseconds() < treatment.p95.ToNanoseconds()
    assert told.points
    shown = await service.ask("GetFeature", pb.GetFeatureRequest(name=NAME))
    assert shown.feature.breach_count == 1
    assert {row.guardrail for row in shown.guardrails} == {1, 2, 3}


async def test_a_gateway_that_says_nothing_more_is_not_renewed_and_may_watch_again(tmp_path: Path) -> None:
    short = {"rollout_lease_seconds": 0.2, "rollout_gateway_live_seconds": 0.6}
    async with started(tmp_path / "rollout.db", **short) as service:
        for _ in range(2):
            stream = service.watch()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for _reply in stream:
                    pass
            assert status.error_from(ended.value).reason == "SILENT"


async def test_a_kill_that_is_not_acknowledged_shows_in_the_metrics_until_it_is(service: Service) -> None:
    await service.create("lonely")
    await service.ask("AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="g1", version=1))
    await service.ask("KillFeature", pb.KillFeatureRequest(command=WHO, name="lonely"))
    await until(lambda: shown("unacknowledged_gateways", feature="lonely") == 1)
    assert shown("unacknowledged_seconds") > 0
    before = shown("zero_exposure_seconds_count", feature="lonely")
    await service.ask("AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="g1", version=1000))
    await until(lambda: shown("unacknowledged_gateways", feature="lonely") == 0)
    await until(lambda: shown("unacknowledged_seconds") == 0)
    assert shown("zero_exposure_seconds_count", feature="lonely") == before + 1
    assert shown("state", feature="lonely", state="killed") == 1


def shown(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"sluice_rollout_{name}", labels) or 0.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_repeated_command_id_does_nothing_twice(service: Service) -> None:
    await service.create()
    request = pb.SetTreatmentShareRequest(
        command=pb.Command(actor="ada", reason="why", command_id="c1"), name=NAME, treatment_ppm=5000
    )
    first = await service.ask("SetTreatmentShare", request)
    await service.set_share(7000)
    assert await service.ask("SetTreatmentShare", request) == first
    request.treatment_ppm = 9000
    with pytest.raises(AlreadyExists) as refused:
        await service.ask("SetTreatmentShare", request)
    assert refused.value.reason == "COMMAND_ID_REUSED"


async def test_the_history_comes_in_pages(service: Service) -> None:
    await service.create()
    for share in range(1, 6):
        await service.set_share(share)
    numbers: list[int] = []
    token = ""
    while True:
        page = await service.ask("ListHistory", pb.ListHistoryRequest(page_size=4, page_token=token))
        numbers += [entry.number for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert numbers == [1, 2, 3, 4, 5, 6]


BAD = [
    ("CreateFeature", pb.CreateFeatureRequest(command=WHO, name="UPPER", features={"rerank": True}), "name"),
    ("CreateFeature", pb.CreateFeatureRequest(command=WHO, name="empty"), "features"),
    (
        "CreateFeature",
        pb.CreateFeatureRequest(command=WHO, name="odd", features={"expansion_strategy": 77}),
        "features.expansion_strategy",
    ),
    ("CreateFeature", pb.CreateFeatureRequest(name="x", features={"rerank": True}), "command.actor"),
    (
        "SetTreatmentShare",
        pb.SetTreatmentShareRequest(command=WHO, name=NAME, treatment_ppm=1_000_001),
        "treatment_ppm",
    ),
    ("StartRamp", pb.StartRampRequest(command=WHO, name=NAME), "plan.name"),
    ("StartRamp", pb.StartRampRequest(command=WHO, name=NAME, plan=pb.Plan(name="p")), "plan.steps"),
    (
        "StartRamp",
        pb.StartRampRequest(
            command=WHO, name=NAME, plan=pb.Plan(name="p", steps=[{"treatment_ppm": 5, "dwell": {"seconds": -1}}])
        ),
        "plan.steps[0].dwell",
    ),
    ("ListHistory", pb.ListHistoryRequest(page_size=1_001), "page_size"),
    ("ListHistory", pb.ListHistoryRequest(page_token="-1"), "page_token"),
    ("AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="a b"), "gateway"),
    ("AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway="g", version=-1), "version"),
    ("ReportEvidence", pb.ReportEvidenceRequest(gateway="g"), "sequence"),
    ("ReportEvidence", pb.ReportEvidenceRequest(gateway="g", sequence=1, arms=[pb.ArmEvidence()]), "arms[0].arm"),
    (
        "ReportEvidence",
        pb.ReportEvidenceRequest(
            gateway="g", sequence=1, arms=[pb.ArmEvidence(arm=1, bad_events=[{"guardrail": 9, "event_count": 1}])]
        ),
        "arms[0].bad_events[0].guardrail",
    ),
]


@pytest.mark.parametrize(("method", "request_", "field"), BAD, ids=[f"{method}-{field}" for method, _, field in BAD])
async def test_a_request_that_makes_no_sense_is_refused_by_its_field_and_changes_nothing(
    service: Service, method: str, request_: Any, field: str
) -> None:
    await service.create()
    before = await service.ask("ListFeatures", pb.ListFeaturesRequest())
    with pytest.raises(InvalidArgument) as refused:
        await service.ask(method, request_)
    assert refused.value.field == field
    assert await service.ask("ListFeatures", pb.ListFeaturesRequest()) == before
    assert len((await service.ask("ListHistory", pb.ListHistoryRequest())).entries) == 1


async def test_a_gateway_without_a_name_is_refused_before_it_watches(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.watch(gateway="").read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_each_refusal_has_a_reason_of_its_own(service: Service) -> None:
    async def reason(method: str, request: Any) -> str:
        with pytest.raises(SluiceError) as refused:
            await service.ask(method, request)
        return refused.value.reason

    named: dict[str, Any] = {"command": WHO, "name": NAME}
    with pytest.raises(NotFound):
        await service.ask("GetFeature", pb.GetFeatureRequest(name=NAME))
    assert await reason("KillFeature", pb.KillFeatureRequest(**named)) == "FEATURE_NOT_FOUND"
    await service.create()
    with pytest.raises(AlreadyExists):
        await service.create()
    assert await reason("PromoteFeature", pb.PromoteFeatureRequest(**named)) == "NOT_RAMPING"
    assert await reason("RearmFeature", pb.RearmFeatureRequest(**named)) == "NOT_ROLLED_BACK"
    await service.ask("StartRamp", pb.StartRampRequest(**named, plan=PLAN))
    assert await reason("StartRamp", pb.StartRampRequest(**named, plan=PLAN)) == "ALREADY_RAMPING"
    with pytest.raises(FailedPrecondition, match="watched for 0 of 3,600 s") as early:
        await service.ask("PromoteFeature", pb.PromoteFeatureRequest(**named))
    assert early.value.reason == "NOT_SHOWN"
    await service.ask("RollBackFeature", pb.RollBackFeatureRequest(**named))
    assert await reason("StartRamp", pb.StartRampRequest(**named, plan=PLAN)) == "NEEDS_REARM"
    await service.ask("KillFeature", pb.KillFeatureRequest(**named))
    assert await reason("RollBackFeature", pb.RollBackFeatureRequest(**named)) == "KILLED"
    await service.ask("RearmFeature", pb.RearmFeatureRequest(**named))
    await service.set_share(1_000_000)
    assert await reason("PromoteFeature", pb.PromoteFeatureRequest(**named)) == "LAST_STEP"
    assert await reason("StartRamp", pb.StartRampRequest(**named, plan=PLAN)) == "COMPLETE"


async def test_what_was_commanded_outlives_the_process(tmp_path: Path) -> None:
    async with started(tmp_path / "rollout.db") as service:
        await service.create("first")
        await service.create("second", expansion=True)
        await service.set_share(250_000, "second")
        before = await service.ask("ListFeatures", pb.ListFeaturesRequest())
    async with started(tmp_path / "rollout.db") as service:
        assert await service.ask("ListFeatures", pb.ListFeaturesRequest()) == before
        stream = service.watch()
        assert [feature.name for feature in (await snapshot_of(stream, 1)).features] == ["first", "second"]
        stream.cancel()
