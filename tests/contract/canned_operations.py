"""A rollout service of canned answers for operators."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.chassis import status
from services.chassis.errors import NotFound, SluiceError
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1 import arm_pb2

Context = grpc.aio.ServicerContext[Any, Any]


@dataclasses.dataclass
class CannedOperations:
    """Obeys every command."""

    address: str = ""
    requests: list[Any] = dataclasses.field(default_factory=list)
    """All requests, in their order."""
    features: dict[str, pb.Feature] = dataclasses.field(default_factory=dict)
    history: list[pb.HistoryEntry] = dataclasses.field(default_factory=list)
    failures: deque[SluiceError | None] = dataclasses.field(default_factory=deque)
    """Errors of the next calls, one after the other; None is success."""
    version: int = 1
    """Version of the newest snapshot."""
    gateways: list[pb.Gateway] = dataclasses.field(default_factory=list)
    acknowledging: bool = True
    """True if the gateways serve every new snapshot at once."""

    @property
    def commands(self) -> list[Any]:
        """Requests that were commands."""
        return [request for request in self.requests if hasattr(request, "command")]

    def handler(self, name: str) -> Any:
        """Make the method of one RPC."""

        async def handle(request: Any, context: Context) -> Any:
            self.requests.append(request)
            failure = self.failures.popleft() if self.failures else None
            try:
                if failure is not None:
                    raise failure
                return getattr(self, f"_{name}", self._command)(name, request)
            except SluiceError as error:
                await context.abort(status.code_of(error), error.message, status.trailers_of(error))

        return handle

    def _ListFeatures(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        features = [self.features[name] for name in sorted(self.features)]
        start = int(request.page_token or 0)
        end = start + 2  # a page is small here
        return pb.ListFeaturesResponse(
            features=features[start:end],
            next_page_token=str(end) if end < len(features) else "",
            snapshot_version=self.version,
        )

    def _GetFeature(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        return pb.GetFeatureResponse(
            feature=self._feature(request.name),
            guardrails=[
                pb.GuardrailEvidence(
                    guardrail=pb.GUARDRAIL_ERRORS,
                    treatment_count=9,
                    control_count=2,
                    log_evidence=3.1,
                    log_threshold=4.38,
                    log_non_inferiority=-0.5,
                    log_non_inferiority_threshold=4.38,
                )
            ],
            arms=[_totals(arm_pb2.ARM_TREATMENT, 120, 9), _totals(arm_pb2.ARM_CONTROL, 118, 2)],
            gateways=self.gateways,
        )

    def _ListHistory(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        start = int(request.page_token or 0)
        end = start + 2  # a page is small here
        more = str(end) if end < len(self.history) else ""
        return pb.ListHistoryResponse(entries=self.history[start:end], next_page_token=more)

    def _GetReport(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        return pb.GetReportResponse(feature=self._feature(request.name), history=self.history)

    def _CreateFeature(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        self.features[request.name] = pb.Feature(
            name=request.name,
            description=request.description,
            salt=request.salt or request.name,
            features=request.features,
            state=pb.FEATURE_STATE_READY,
        )
        return pb.CreateFeatureResponse(feature=self.features[request.name])

    def _StartRamp(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        feature = self._feature(request.name)
        feature.plan.CopyFrom(request.plan)
        feature.step = 1
        self._change(feature, pb.FEATURE_STATE_RAMPING, request.plan.steps[0].treatment_ppm)
        return pb.StartRampResponse(feature=feature)

    def _SetTreatmentShare(self, _name: str, request: Any) -> Any:  # noqa: N802  # gRPC's name
        feature = self._feature(request.name)
        self._change(feature, pb.FEATURE_STATE_HELD, request.treatment_ppm)
        return pb.SetTreatmentShareResponse(feature=feature)

    def _command(self, name: str, request: Any) -> Any:
        feature = self._feature(request.name)
        state, share = {
            "PromoteFeature": (pb.FEATURE_STATE_RAMPING, 500_000),
            "HoldFeature": (pb.FEATURE_STATE_HELD, feature.treatment_ppm),
            "HalveFeature": (pb.FEATURE_STATE_HELD, feature.treatment_ppm // 2),
            "RollBackFeature": (pb.FEATURE_STATE_ROLLED_BACK, 0),
            "KillFeature": (pb.FEATURE_STATE_KILLED, 0),
            "RearmFeature": (pb.FEATURE_STATE_READY, 0),
        }[name]
        self._change(feature, state, share)
        return getattr(pb, f"{name}Response")(feature=feature)

    def _feature(self, name: str) -> pb.Feature:
        if name not in self.features:
            raise NotFound(f"there is no feature {name!r}", reason="FEATURE_NOT_FOUND")
        return self.features[name]

    def _change(self, feature: pb.Feature, state: pb.FeatureState.ValueType, share: int) -> None:
        feature.state, feature.treatment_ppm = state, share
        self.version += 1
        if self.acknowledging:
            for gateway in self.gateways:
                gateway.version = self.version


def _totals(arm: arm_pb2.Arm.ValueType, count: int, errors: int) -> pb.ArmTotals:
    totals = pb.ArmTotals(
        arm=arm,
        request_count=count,
        unit_count=count // 2,
        bad_events=[pb.BadEventCount(guardrail=pb.GUARDRAIL_ERRORS, event_count=errors)],
        quality_score=0.7,
    )
    totals.p50.FromMilliseconds(40)
    totals.p95.FromMilliseconds(95)
    totals.p99.FromMilliseconds(1500)
    return totals


@asynccontextmanager
async def canned_operations() -> AsyncIterator[CannedOperations]:
    """Start a canned rollout service, with three gateways that follow it."""
    canned = CannedOperations()
    for number in range(1, 4):
        canned.gateways.append(pb.Gateway(name=f"gateway-{number}", version=1, live=True))
        canned.gateways[-1].last_seen_time.GetCurrentTime()
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["RolloutService"].methods]
    servicer = type("Servicer", (rollout_pb2_grpc.RolloutServiceServicer,), {})()
    for name in methods:
        setattr(servicer, name, canned.handler(name))
    server = grpc.aio.server()
    rollout_pb2_grpc.add_RolloutServiceServicer_to_server(servicer, server)
    canned.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield canned
    finally:
        await server.stop(None)
