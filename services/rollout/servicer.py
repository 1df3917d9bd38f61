"""RolloutService and SnapshotService: validate, translate, delegate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

import grpc

from services.chassis.access.identity import caller_of
from services.chassis.errors import InvalidArgument, Unavailable
from services.chassis.timing import duration, timestamp
from services.experiment.flags import Overrides
from services.rollout import transitions
from services.rollout.commands import Command
from services.rollout.control import MAX_GATEWAY_CHARACTERS, Control, known, ratings_of
from services.rollout.decisions import (
    COMPARED,
    MISMATCH_THRESHOLD,
    Run,
    evidence_of,
    limits_of,
    mismatch_of,
    obstacles_of,
)
from services.rollout.evidence import GuardrailEvidence, summarize
from services.rollout.features import Feature, check_share
from services.rollout.leader_election import LeaderElection
from services.rollout.plans import Plan, check_plan
from services.rollout.reports import ArmReport
from services.rollout.snapshots import Quarantined
from services.rollout.storage.records import Records
from services.rollout.transitions import Transition
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each does

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
DEFAULT_PAGE = 100
MAX_PAGE = 1000
REPORTED_ENTRIES = 1000
"""Most entries of the history in a report, the newest: with the longest reasons 4 MB."""
REPORTED_POINTS = 500
"""Most points of evidence in a report, evenly spread."""


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """Implements RolloutService, for operators."""

    def __init__(self, replica: LeaderElection, control: Control) -> None:
        self._replica = replica
        self._control = control

    async def ListFeatures(self, request: pb.ListFeaturesRequest, context: Context) -> pb.ListFeaturesResponse:
        size = page_size(request.page_size)
        features, newest = await self._replica.read(lambda records: (records.features(), records.newest_snapshot()))
        # The name of a page's last feature is the token, so pages stay right while features are made.
        rest = sorted(
            (feature for feature in features if feature.name > request.page_token), key=lambda feature: feature.name
        )
        return pb.ListFeaturesResponse(
            features=[feature.to_proto() for feature in rest[:size]],
            next_page_token=rest[size - 1].name if len(rest) > size else "",
            snapshot_version=newest.version if newest else 0,
        )

    async def GetFeature(self, request: pb.GetFeatureRequest, context: Context) -> pb.GetFeatureResponse:
        def read(records: Records) -> pb.GetFeatureResponse:
            feature = known(records.feature(request.name), request.name)
            now = time.time()
            # The active replica knows more than the records, which are all that a standby has.
            active = self._replica.problem is None
            gateways = self._control.gateways.known() if active else records.gateways()
            reply = pb.GetFeatureResponse(
                feature=feature.to_proto(),
                gateways=[gateway.to_proto(live=self._control.gateways.is_live(gateway, now)) for gateway in gateways],
                log_mismatch_threshold=MISMATCH_THRESHOLD,
            )
            run = records.run(feature.run) if feature.watched else None
            if run is not None:
                reply.guardrails.extend(row.to_proto() for row in _evidence(feature, run))
                reply.arms.extend(summarize(arm, run.arms[arm], with_latencies=True).to_proto() for arm in COMPARED)
                reply.limits.extend(limit.to_proto() for limit in limits_of(feature, run))
                reply.log_mismatch = mismatch_of(run)
                reply.obstacles.extend(obstacles_of(feature, run, ratings_of(records, feature)))
                reply.watched_duration.CopyFrom(duration(run.watched_seconds))
                if run.latency_threshold is not None:
                    reply.latency_threshold.CopyFrom(duration(run.latency_threshold))
            return reply

        return await self._replica.read(read)

    async def CreateFeature(self, request: pb.CreateFeatureRequest, context: Context) -> pb.CreateFeatureResponse:
        command = command_of(request)
        feature = await self._replica.write(
            lambda records: self._control.create(
                records,
                command,
                request.name,
                request.description,
                Overrides.from_proto(request.features),
                request.salt,
            )
        )
        return pb.CreateFeatureResponse(feature=feature.to_proto())

    async def StartRamp(self, request: pb.StartRampRequest, context: Context) -> pb.StartRampResponse:
        plan = Plan.from_proto(request.plan)
        check_plan(plan)
        feature = await self._change(request, "start", lambda feature: transitions.start(feature, plan), plan)
        return pb.StartRampResponse(feature=feature)

    async def PromoteFeature(self, request: pb.PromoteFeatureRequest, context: Context) -> pb.PromoteFeatureResponse:
        command = command_of(request)
        feature = await self._replica.write(lambda records: self._control.promote(records, command, request.name))
        return pb.PromoteFeatureResponse(feature=feature.to_proto())

    async def SetTreatmentShare(
        self, request: pb.SetTreatmentShareRequest, context: Context
    ) -> pb.SetTreatmentShareResponse:
        share = request.treatment_ppm
        check_share("treatment_ppm", share)
        feature = await self._change(request, "set", lambda feature: transitions.set_share(feature, share), share)
        return pb.SetTreatmentShareResponse(feature=feature)

    async def HoldFeature(self, request: pb.HoldFeatureRequest, context: Context) -> pb.HoldFeatureResponse:
        return pb.HoldFeatureResponse(feature=await self._change(request, "hold", transitions.hold))

    async def HalveFeature(self, request: pb.HalveFeatureRequest, context: Context) -> pb.HalveFeatureResponse:
        return pb.HalveFeatureResponse(feature=await self._change(request, "halve", transitions.halve))

    async def RollBackFeature(self, request: pb.RollBackFeatureRequest, context: Context) -> pb.RollBackFeatureResponse:
        return pb.RollBackFeatureResponse(feature=await self._change(request, "roll back", transitions.roll_back))

    async def KillFeature(self, request: pb.KillFeatureRequest, context: Context) -> pb.KillFeatureResponse:
        return pb.KillFeatureResponse(feature=await self._change(request, "kill", transitions.kill))

    async def RearmFeature(self, request: pb.RearmFeatureRequest, context: Context) -> pb.RearmFeatureResponse:
        return pb.RearmFeatureResponse(feature=await self._change(request, "rearm", transitions.rearm))

    async def ListHistory(self, request: pb.ListHistoryRequest, context: Context) -> pb.ListHistoryResponse:
        size = page_size(request.page_size)
        after = _after(request.page_token)
        entries = await self._replica.read(lambda records: records.history(request.name, after, size + 1))
        page = entries[:size]
        return pb.ListHistoryResponse(
            entries=[entry.to_proto() for entry in page],
            next_page_token=str(page[-1].number) if len(entries) > size else "",
        )

    async def GetReport(self, request: pb.GetReportRequest, context: Context) -> pb.GetReportResponse:
        def read(records: Records) -> pb.GetReportResponse:
            feature = known(records.feature(request.name), request.name)
            runs = {run.number: run for run in records.runs(feature.name)}
            return pb.GetReportResponse(
                feature=feature.to_proto(),
                history=[entry.to_proto() for entry in records.newest_history(feature.name, REPORTED_ENTRIES)],
                steps=[_step(feature, run) for run in runs.values()],
                points=[
                    pb.EvidencePoint(
                        time=timestamp(point.time),
                        ramp_id=f"{feature.name}.{point.run}",
                        treatment_ppm=runs[point.run].treatment_ppm,
                        guardrails=[row.to_proto() for row in point.findings.guardrails],
                        arms=[arm.to_proto() for arm in point.findings.arms],
                    )
                    for point in thinned(records.points(feature.name))
                ],
            )

        return await self._replica.read(read)

    async def _change(self, request: Any, kind: str, transition: Transition, asked: object = None) -> pb.Feature:
        command = command_of(request)
        feature = await self._replica.write(
            lambda records: self._control.change(records, command, request.name, kind, transition, asked)
        )
        return feature.to_proto()


class SnapshotServicer(rollout_pb2_grpc.SnapshotServiceServicer):
    """Implements SnapshotService, for gateways."""

    def __init__(self, replica: LeaderElection, control: Control) -> None:
        self._replica = replica
        self._control = control

    async def WatchSnapshot(
        self, request: pb.WatchSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.WatchSnapshotResponse]:
        sent = request.content_hash
        gateway = _gateway(request)
        self._control.hear(gateway)
        async for newest in self._replica.watch():
            # A message that is sent may be lost: only words of a gateway keep its lease going.
            if not self._control.gateways.renewable(gateway, time.time()):
                raise Unavailable("nothing was heard of this gateway for too long; watch again", reason="SILENT")
            reply = pb.WatchSnapshotResponse(content_hash=newest.content_hash, version=newest.version)
            if newest.content_hash != sent:
                reply.snapshot.CopyFrom(newest.to_proto())
                sent = newest.content_hash
            yield reply

    async def AcknowledgeSnapshot(
        self, request: pb.AcknowledgeSnapshotRequest, context: Context
    ) -> pb.AcknowledgeSnapshotResponse:
        gateway = _gateway(request)
        await self._replica.write(
            lambda records: self._control.acknowledge(
                records,
                gateway,
                request.version,
                tuple(Quarantined(one.name, one.reason) for one in request.quarantined),
                tuple(request.locally_killed),
            )
        )
        return pb.AcknowledgeSnapshotResponse()

    async def ReportEvidence(self, request: pb.ReportEvidenceRequest, context: Context) -> pb.ReportEvidenceResponse:
        arms = [ArmReport.from_proto(arm, f"arms[{place}]") for place, arm in enumerate(request.arms)]
        gateway = _gateway(request)
        await self._replica.write(
            lambda records: self._control.report(records, gateway, request.incarnation, request.sequence, arms)
        )
        self._replica.hurry()
        return pb.ReportEvidenceResponse()


def command_of(request: Any) -> Command:
    """The command of a request. Who shows a credential is the actor, whatever the command says."""
    command = Command.from_proto(request.command)
    identity = caller_of().identity
    return replace(command, actor=identity) if identity else command


def _gateway(request: Any) -> str:
    """Name of the gateway of a request, which belongs to the credential that it shows: no other can use it."""
    identity = caller_of().identity
    if not identity:
        return str(request.gateway)
    name = f"{quote(identity, safe=':/@*')}/{request.gateway}"
    if len(name) > MAX_GATEWAY_CHARACTERS:
        raise InvalidArgument(
            "gateway", f"is longer than {MAX_GATEWAY_CHARACTERS} characters, together with the credential's name"
        )
    return name


def _evidence(feature: Feature, run: Run) -> list[GuardrailEvidence]:
    return evidence_of(feature, run) if run.control_ppm else []


def _step(feature: Feature, run: Run) -> pb.StepReport:
    step = pb.StepReport(
        ramp_id=f"{feature.name}.{run.number}",
        treatment_ppm=run.treatment_ppm,
        start_time=timestamp(run.start_time),
        arms=[summarize(arm, run.arms[arm], with_latencies=True).to_proto() for arm in COMPARED],
        guardrails=[row.to_proto() for row in _evidence(feature, run)],
    )
    if run.end_time is not None:
        step.end_time.CopyFrom(timestamp(run.end_time))
    return step


def thinned(points: list[T]) -> list[T]:
    """At most `REPORTED_POINTS` of the points, evenly spread, the newest among them."""
    step = max(1, -(-len(points) // REPORTED_POINTS))
    return [*points[:-1][::step], *points[-1:]]


def page_size(given: int) -> int:
    """Size of a page; 0 means the default. Raises InvalidArgument."""
    if not 0 <= given <= MAX_PAGE:
        raise InvalidArgument("page_size", f"must be between 0 (the default) and {MAX_PAGE}, not {given}")
    return given or DEFAULT_PAGE


def _after(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 18):
        raise InvalidArgument("page_token", "is not one that this service gave")
    return int(token)
