"""RolloutService and SnapshotService: validate, translate, delegate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from services.chassis.errors import InvalidArgument, NotFound, Unavailable
from services.chassis.timing import duration
from services.rollout.control import Control
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
from services.rollout.features import Feature
from services.rollout.messages import (
    arm_message,
    arm_report_of,
    command_of,
    feature_message,
    gateway_message,
    guardrail_message,
    history_message,
    limit_message,
    overrides_of,
    plan_of,
    quarantined_of,
    snapshot_message,
    timestamp,
)
from services.rollout.records import Records
from services.rollout.replica import Replica
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each does

Context = grpc.aio.ServicerContext[Any, Any]
DEFAULT_PAGE = 100
MAX_PAGE = 1000


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """For operators."""

    def __init__(self, replica: Replica, control: Control) -> None:
        self._replica = replica
        self._control = control

    async def ListFeatures(self, request: pb.ListFeaturesRequest, context: Context) -> pb.ListFeaturesResponse:
        features, newest = await self._replica.read(lambda records: (records.features(), records.newest_snapshot()))
        return pb.ListFeaturesResponse(
            features=[feature_message(feature) for feature in sorted(features, key=lambda feature: feature.name)],
            snapshot_version=newest.version if newest else 0,
        )

    async def GetFeature(self, request: pb.GetFeatureRequest, context: Context) -> pb.GetFeatureResponse:
        def read(records: Records) -> pb.GetFeatureResponse:
            feature = _feature(records, request.name)
            now = time.time()
            # The active replica knows more than what is kept: of standbys, that is all.
            active = self._replica.problem is None
            gateways = self._control.gateways.known() if active else records.gateways()
            reply = pb.GetFeatureResponse(
                feature=feature_message(feature),
                gateways=[
                    gateway_message(gateway, live=self._control.gateways.is_live(gateway, now)) for gateway in gateways
                ],
                log_mismatch_threshold=MISMATCH_THRESHOLD,
            )
            run = records.run(feature.run) if feature.watched else None
            if run is not None:
                reply.guardrails.extend(guardrail_message(row) for row in _evidence(feature, run))
                reply.arms.extend(arm_message(summarize(arm, run.arms[arm], with_latencies=True)) for arm in COMPARED)
                reply.limits.extend(limit_message(limit) for limit in limits_of(feature, run))
                reply.log_mismatch = mismatch_of(run)
                reply.obstacles.extend(obstacles_of(feature, run))
                reply.watched_duration.CopyFrom(duration(run.watched_seconds))
                if run.latency_threshold is not None:
                    reply.latency_threshold.CopyFrom(duration(run.latency_threshold))
            return reply

        return await self._replica.read(read)

    async def CreateFeature(self, request: pb.CreateFeatureRequest, context: Context) -> pb.CreateFeatureResponse:
        feature = await self._replica.write(
            lambda records: self._control.create(
                records,
                command_of(request.command),
                request.name,
                request.description,
                overrides_of(request.overrides),
                request.salt,
            )
        )
        return pb.CreateFeatureResponse(feature=feature_message(feature))

    async def StartRamp(self, request: pb.StartRampRequest, context: Context) -> pb.StartRampResponse:
        plan = plan_of(request.plan)
        feature = await self._replica.write(
            lambda records: self._control.start(records, command_of(request.command), request.name, plan)
        )
        return pb.StartRampResponse(feature=feature_message(feature))

    async def PromoteFeature(self, request: pb.PromoteFeatureRequest, context: Context) -> pb.PromoteFeatureResponse:
        return pb.PromoteFeatureResponse(feature=await self._command(self._control.promote, request))

    async def HoldFeature(self, request: pb.HoldFeatureRequest, context: Context) -> pb.HoldFeatureResponse:
        return pb.HoldFeatureResponse(feature=await self._command(self._control.hold, request))

    async def SetPercentage(self, request: pb.SetPercentageRequest, context: Context) -> pb.SetPercentageResponse:
        feature = await self._replica.write(
            lambda records: self._control.set_percentage(
                records, command_of(request.command), request.name, request.treatment_ppm
            )
        )
        return pb.SetPercentageResponse(feature=feature_message(feature))

    async def HalveFeature(self, request: pb.HalveFeatureRequest, context: Context) -> pb.HalveFeatureResponse:
        return pb.HalveFeatureResponse(feature=await self._command(self._control.halve, request))

    async def RollBackFeature(self, request: pb.RollBackFeatureRequest, context: Context) -> pb.RollBackFeatureResponse:
        return pb.RollBackFeatureResponse(feature=await self._command(self._control.roll_back, request))

    async def KillFeature(self, request: pb.KillFeatureRequest, context: Context) -> pb.KillFeatureResponse:
        return pb.KillFeatureResponse(feature=await self._command(self._control.kill, request))

    async def RearmFeature(self, request: pb.RearmFeatureRequest, context: Context) -> pb.RearmFeatureResponse:
        return pb.RearmFeatureResponse(feature=await self._command(self._control.rearm, request))

    async def ListHistory(self, request: pb.ListHistoryRequest, context: Context) -> pb.ListHistoryResponse:
        size = request.page_size if request.HasField("page_size") else DEFAULT_PAGE
        if not 1 <= size <= MAX_PAGE:
            raise InvalidArgument("page_size", f"must be between 1 and {MAX_PAGE}, not {size}")
        after = _after(request.page_token)
        entries = await self._replica.read(lambda records: records.history(request.name, after, size + 1))
        page = entries[:size]
        return pb.ListHistoryResponse(
            entries=[history_message(entry) for entry in page],
            next_page_token=str(page[-1].number) if len(entries) > size else "",
        )

    async def GetReport(self, request: pb.GetReportRequest, context: Context) -> pb.GetReportResponse:
        def read(records: Records) -> pb.GetReportResponse:
            feature = _feature(records, request.name)
            runs = {run.number: run for run in records.runs(feature.name)}
            return pb.GetReportResponse(
                feature=feature_message(feature),
                history=[history_message(entry) for entry in records.history(feature.name)],
                steps=[_step(feature, run) for run in runs.values()],
                points=[
                    pb.EvidencePoint(
                        time=timestamp(point.time),
                        ramp_id=f"{feature.name}.{point.run}",
                        treatment_ppm=runs[point.run].treatment_ppm,
                        guardrails=[guardrail_message(row) for row in point.findings.guardrails],
                        arms=[arm_message(arm) for arm in point.findings.arms],
                    )
                    for point in records.points(feature.name)
                ],
            )

        return await self._replica.read(read)

    async def _command(self, command: Callable[..., Feature], request: Any) -> pb.Feature:
        """A command that needs nothing but the feature's name."""
        feature = await self._replica.write(lambda records: command(records, command_of(request.command), request.name))
        return feature_message(feature)


class SnapshotServicer(rollout_pb2_grpc.SnapshotServiceServicer):
    """For gateways."""

    def __init__(self, replica: Replica, control: Control) -> None:
        self._replica = replica
        self._control = control

    async def WatchSnapshot(
        self, request: pb.WatchSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.WatchSnapshotResponse]:
        sent = request.content_hash
        self._control.hear(request.gateway)
        async for newest in self._replica.watch():
            # What is sent may go nowhere: only what a gateway says keeps its lease going.
            if not self._control.gateways.renewable(request.gateway, time.time()):
                raise Unavailable("nothing was heard of this gateway for too long; watch again", reason="SILENT")
            reply = pb.WatchSnapshotResponse(content_hash=newest.content_hash, version=newest.version)
            if newest.content_hash != sent:
                reply.snapshot.CopyFrom(snapshot_message(newest))
                sent = newest.content_hash
            yield reply

    async def AcknowledgeSnapshot(
        self, request: pb.AcknowledgeSnapshotRequest, context: Context
    ) -> pb.AcknowledgeSnapshotResponse:
        await self._replica.write(
            lambda records: self._control.acknowledge(
                records,
                request.gateway,
                request.version,
                quarantined_of(request.quarantined),
                tuple(request.locally_killed),
            )
        )
        return pb.AcknowledgeSnapshotResponse()

    async def ReportEvidence(self, request: pb.ReportEvidenceRequest, context: Context) -> pb.ReportEvidenceResponse:
        arms = [arm_report_of(arm, f"arms[{place}]") for place, arm in enumerate(request.arms)]
        await self._replica.write(
            lambda records: self._control.report(records, request.gateway, request.incarnation, request.sequence, arms)
        )
        self._replica.hurry()
        return pb.ReportEvidenceResponse()


def _feature(records: Records, name: str) -> Feature:
    feature = records.feature(name)
    if feature is None:
        raise NotFound(f"there is no feature {name!r}", reason="FEATURE_NOT_FOUND", feature=name)
    return feature


def _evidence(feature: Feature, run: Run) -> list[GuardrailEvidence]:
    return evidence_of(feature, run) if run.control_ppm else []


def _step(feature: Feature, run: Run) -> pb.StepReport:
    step = pb.StepReport(
        ramp_id=f"{feature.name}.{run.number}",
        treatment_ppm=run.treatment_ppm,
        start_time=timestamp(run.start_time),
        arms=[arm_message(summarize(arm, run.arms[arm], with_latencies=True)) for arm in COMPARED],
        guardrails=[guardrail_message(row) for row in _evidence(feature, run)],
    )
    if run.end_time is not None:
        step.end_time.CopyFrom(timestamp(run.end_time))
    return step


def _after(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 18):
        raise InvalidArgument("page_token", "is not one that this service gave")
    return int(token)
