"""A rollout service of canned snapshots."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from services.chassis import status
from services.chassis.errors import SluiceError
from services.experiment.snapshot_hash import content_hash
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1.features_pb2 import Features

Context = grpc.aio.ServicerContext[Any, Any]
RENEWAL_SECONDS = 0.05


def feature(name: str = "rerank-v1", **fields: Any) -> pb.SnapshotFeature:
    """Make a feature that ramps, by default expansion, without a model."""
    given: dict[str, Any] = {
        "salt": name,
        "features": Features(expansion=True),
        "ramp_id": f"{name}.1",
        "lease_duration": Duration(seconds=60),
    }
    return pb.SnapshotFeature(name=name, **given | fields)


class CannedRollout(rollout_pb2_grpc.SnapshotServiceServicer):
    """Serves one snapshot at a time."""

    def __init__(self) -> None:
        self.address = ""
        self.snapshot: pb.RolloutSnapshot | None = None
        self.watches: list[pb.WatchSnapshotRequest] = []
        self.acknowledged: list[pb.AcknowledgeSnapshotRequest] = []
        self.reports: list[pb.ReportEvidenceRequest] = []
        self.failures: deque[SluiceError] = deque()
        """Ends of the next reports, one after the other."""
        self.silent = False
        """Says nothing more, and leaves the connection as it is."""
        self._changed = asyncio.Event()

    def publish(
        self, *features: pb.SnapshotFeature, version: int | None = None, made: int | None = None
    ) -> pb.RolloutSnapshot:
        """Make a snapshot, and send it to all watchers."""
        number = version or (self.snapshot.version + 1 if self.snapshot else 1)
        snapshot = pb.RolloutSnapshot(version=number, content_hash=content_hash(features), features=features)
        snapshot.create_time.FromSeconds(1_000_000 + (number if made is None else made))
        self.send(snapshot)
        return snapshot

    def send(self, snapshot: pb.RolloutSnapshot) -> None:
        """Send a snapshot as it is."""
        self.snapshot = snapshot
        self._changed.set()
        self._changed = asyncio.Event()

    async def WatchSnapshot(  # noqa: N802  # gRPC's name
        self, request: pb.WatchSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.WatchSnapshotResponse]:
        """The snapshot where it is new to the caller, else a renewal."""
        self.watches.append(request)
        sent = request.content_hash
        while True:
            changed = self._changed
            if self.snapshot is not None and not self.silent:
                new = self.snapshot.content_hash != sent
                sent = self.snapshot.content_hash
                yield pb.WatchSnapshotResponse(
                    snapshot=self.snapshot if new else None, content_hash=sent, version=self.snapshot.version
                )
            try:
                await asyncio.wait_for(changed.wait(), RENEWAL_SECONDS)
            except TimeoutError:
                continue

    async def AcknowledgeSnapshot(  # noqa: N802  # gRPC's name
        self, request: pb.AcknowledgeSnapshotRequest, context: Context
    ) -> pb.AcknowledgeSnapshotResponse:
        """Record the request."""
        self.acknowledged.append(request)
        return pb.AcknowledgeSnapshotResponse()

    async def ReportEvidence(  # noqa: N802  # gRPC's name
        self, request: pb.ReportEvidenceRequest, context: Context
    ) -> pb.ReportEvidenceResponse:
        """Record the request, and fail on demand."""
        self.reports.append(request)
        if self.failures:
            error = self.failures.popleft()
            await context.abort(status.code_of(error), error.message, status.trailers_of(error))
        return pb.ReportEvidenceResponse()


@asynccontextmanager
async def canned_rollout(port: int = 0, canned: CannedRollout | None = None) -> AsyncIterator[CannedRollout]:
    """A canned rollout service that listens."""
    canned = canned or CannedRollout()
    server = grpc.aio.server()
    rollout_pb2_grpc.add_SnapshotServiceServicer_to_server(canned, server)  # type: ignore[no-untyped-call]
    canned.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    await server.start()
    try:
        yield canned
    finally:
        await server.stop(None)
