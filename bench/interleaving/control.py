"""A control plane with one experiment that never ends, which takes all feedback and keeps none."""

# ruff: noqa: N802  # gRPC's names

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from services.experiment.bucketing import BUCKETS
from services.experiment.flags import Overrides
from services.experiment.snapshot_hash import content_hash
from sluice.rollout.v1 import feedback_pb2, feedback_pb2_grpc, rollout_pb2_grpc
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.type.v1 import experiment_pb2

Context = grpc.aio.ServicerContext[Any, Any]
NAME = "interleaved"
_RENEWAL_SECONDS = 1.0


class Control(rollout_pb2_grpc.SnapshotServiceServicer, feedback_pb2_grpc.FeedbackStoreServiceServicer):
    """Serves the newest snapshot."""

    def __init__(self) -> None:
        self.address = ""
        self._snapshot = pb.RolloutSnapshot()
        self._changed = asyncio.Event()

    def interleave(self, arms: Sequence[tuple[str, Overrides]]) -> int:
        """Serve an experiment of these two arms to all users; the version of the snapshot that has it."""
        version = self._snapshot.version + 1
        served = experiment_pb2.ServedExperiment(
            method=experiment_pb2.EXPERIMENT_METHOD_INTERLEAVE,
            layer_salt="bench",
            bucket_count=BUCKETS,
            arms=[experiment_pb2.ExperimentArm(name=name, features=flags.to_proto()) for name, flags in arms],
        )
        feature = pb.SnapshotFeature(
            name=NAME,
            salt=NAME,
            ramp_id=f"{NAME}/{version}",
            lease_duration=Duration(seconds=3600),
            experiment=served,
        )
        self._snapshot = pb.RolloutSnapshot(version=version, content_hash=content_hash([feature]), features=[feature])
        self._snapshot.create_time.GetCurrentTime()
        self._changed.set()
        self._changed = asyncio.Event()
        return version

    async def WatchSnapshot(
        self, request: pb.WatchSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.WatchSnapshotResponse]:
        """The snapshot where it is new to the caller, else a renewal."""
        sent = request.content_hash
        while True:
            changed, snapshot = self._changed, self._snapshot
            if snapshot.version:
                new = snapshot.content_hash != sent
                sent = snapshot.content_hash
                yield pb.WatchSnapshotResponse(
                    snapshot=snapshot if new else None, content_hash=sent, version=snapshot.version
                )
            try:
                await asyncio.wait_for(changed.wait(), _RENEWAL_SECONDS)
            except TimeoutError:
                continue

    async def AcknowledgeSnapshot(
        self, request: pb.AcknowledgeSnapshotRequest, context: Context
    ) -> pb.AcknowledgeSnapshotResponse:
        """Keep nothing."""
        return pb.AcknowledgeSnapshotResponse()

    async def ReportEvidence(self, request: pb.ReportEvidenceRequest, context: Context) -> pb.ReportEvidenceResponse:
        """Keep nothing."""
        return pb.ReportEvidenceResponse()

    async def StoreFeedback(
        self, request: feedback_pb2.StoreFeedbackRequest, context: Context
    ) -> feedback_pb2.StoreFeedbackResponse:
        """Keep nothing."""
        return feedback_pb2.StoreFeedbackResponse()

    async def ExportFeedback(
        self, request: feedback_pb2.ExportFeedbackRequest, context: Context
    ) -> AsyncIterator[feedback_pb2.ExportFeedbackResponse]:
        """Have nothing."""
        yield feedback_pb2.ExportFeedbackResponse()


@asynccontextmanager
async def control() -> AsyncIterator[Control]:
    """Serve on a free port."""
    served = Control()
    server = grpc.aio.server()
    rollout_pb2_grpc.add_SnapshotServiceServicer_to_server(served, server)
    feedback_pb2_grpc.add_FeedbackStoreServiceServicer_to_server(served, server)
    served.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield served
    finally:
        await server.stop(None)
