"""Snapshots over Qdrant's protocol: each holds the shards of the node that was asked, and brings back those alone."""

# ruff: noqa: N802  Qdrant's protocol names the methods

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import qdrant_edge as edge
from qdrant_client import grpc as api

from tests.qdrant_server.cluster import Cluster
from tests.qdrant_server.rpc import Servicer, rpc


@dataclass(frozen=True)
class Snapshot:
    """A node's part of a collection."""

    description: api.SnapshotDescription
    node: int
    config: api.CollectionConfig
    points: Mapping[int, Sequence[edge.Point]]
    """Points by the number of their shard."""


class SnapshotsService(Servicer, api.SnapshotsServicer):
    """Takes, lists and deletes snapshots."""

    @rpc
    async def Create(self, request: api.CreateSnapshotRequest) -> api.CreateSnapshotResponse:
        node = self.node()
        known = self.cluster.view(node).find(request.collection_name)
        points = {
            number: [edge.Point(one.id, one.vector, one.payload) for one in shard.scroll(None, 10**9, None, True, True)]
            for number, shard in enumerate(known.points.shards)
            if node.number in known.points.places[number]
        }
        name = f"{known.name}-{node.peer_id}-{len(self.server.snapshots)}.snapshot"
        description = api.SnapshotDescription(name=name, size=1)
        description.creation_time.GetCurrentTime()
        self.server.snapshots[known.name, name] = Snapshot(description, node.number, known.config, points)
        return api.CreateSnapshotResponse(snapshot_description=description)

    @rpc
    async def List(self, request: api.ListSnapshotsRequest) -> api.ListSnapshotsResponse:
        found = [kept.description for (name, _), kept in self.server.snapshots.items()
                 if name == request.collection_name]  # fmt: skip
        return api.ListSnapshotsResponse(snapshot_descriptions=found)

    @rpc
    async def Delete(self, request: api.DeleteSnapshotRequest) -> api.DeleteSnapshotResponse:
        del self.server.snapshots[request.collection_name, request.snapshot_name]
        return api.DeleteSnapshotResponse()


def recover(cluster: Cluster, snapshot: Snapshot, name: str) -> None:
    """Put the points of a snapshot into a collection that exists by now."""
    known = cluster.view(cluster.nodes[snapshot.node]).find(name)
    for number, points in snapshot.points.items():
        known.points.shards[number].upsert(points)
