"""RetrieverService: validate, translate, delegate."""

# ruff: noqa: N802  gRPC names the methods

from __future__ import annotations

from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.timing import deadline_of, duration
from services.retriever.documents import Passage, vector_from_bytes
from services.retriever.fields import Filter
from services.retriever.index import CollectionModel, Index, QueryVariant
from services.retriever.snapshots import Snapshots
from services.retriever.versions import Copy, Removal, Side, Versions
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.retriever.v1 import retriever_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_SIDES = {pb.SIDE_UNSPECIFIED: Side.LIVE, pb.SIDE_LIVE: Side.LIVE, pb.SIDE_BUILDING: Side.BUILDING}


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Stores passages, finds them, and keeps versions and snapshots."""

    def __init__(self, passages: Index, versions: Versions, snapshots: Snapshots) -> None:
        self._index = passages
        self._versions = versions
        self._snapshots = snapshots

    async def SearchPassages(self, request: pb.SearchPassagesRequest, context: Context) -> pb.SearchPassagesResponse:
        """Search all variants at once."""
        variants = [
            QueryVariant(variant.text, vector_from_bytes(variant.vector, f"variants[{place}].vector"), variant.weight)
            for place, variant in enumerate(request.variants)
        ]
        found = await self._index.search(
            request.collection,
            variants,
            limit=request.limit,
            condition=Filter.from_proto(request.filter),
            dense_weight=request.dense_weight if request.HasField("dense_weight") else 1.0,
            lexical_weight=request.lexical_weight if request.HasField("lexical_weight") else 1.0,
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        if (span := tracing.recorded()) is not None:
            span.set_attributes(
                {
                    "sluice.variants": len(variants),
                    "sluice.searches": found.fused_searches,
                    "sluice.candidates": len(found.candidates),
                    "sluice.index": found.version,
                }
            )
        return pb.SearchPassagesResponse(
            candidates=[
                pb.Candidate(passage=candidate.passage.to_proto(), score=candidate.score)
                for candidate in found.candidates
            ],
            index_version=found.version,
            fused_search_count=found.fused_searches,
            search_duration=duration(found.seconds),
        )

    async def UpsertPassages(self, request: pb.UpsertPassagesRequest, context: Context) -> pb.UpsertPassagesResponse:
        """Store passages."""
        stored = await self._index.upsert(
            request.collection,
            [_passage(entry, place) for place, entry in enumerate(request.passages)],
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        return pb.UpsertPassagesResponse(
            upserted_count=stored.count,
            index_version=stored.version,
            building_version=stored.building,
            changed_ids=stored.changed if stored.building else (),
        )

    async def DeletePassages(self, request: pb.DeletePassagesRequest, context: Context) -> pb.DeletePassagesResponse:
        """Delete documents."""
        deleted = await self._index.delete(request.collection, request.ids, deadline=deadline_of(context))
        return pb.DeletePassagesResponse(
            deleted_count=deleted.count,
            building_version=deleted.building,
            changed_ids=deleted.changed if deleted.building else (),
        )

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """Create a collection."""
        model = CollectionModel.from_proto(request.model)
        created = await self._index.create_collection(request.collection, model, deadline=deadline_of(context))
        return pb.CreateCollectionResponse(collection=created.to_proto(live=True))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """Describe a collection."""
        found = await self._index.get_collection(request.collection, deadline=deadline_of(context))
        return pb.GetCollectionResponse(collection=found.to_proto(live=found.name == found.collection))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """Describe all versions."""
        versions = await self._versions.all(deadline=deadline_of(context))
        return pb.ListCollectionsResponse(versions=[info.to_proto(live=live) for info, live in versions])

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.CreateVersionResponse:
        """Create a version, or go on with one."""
        model = CollectionModel.from_proto(request.model)
        version, live = await self._versions.create(request.collection, model, deadline=deadline_of(context))
        return pb.CreateVersionResponse(version=version.to_proto(live=False), live=live.to_proto(live=True))

    async def ComparePassages(self, request: pb.ComparePassagesRequest, context: Context) -> pb.ComparePassagesResponse:
        """Compare a version with the live one."""
        side = _SIDES.get(request.side)
        if side is None:
            raise InvalidArgument("side", f"is unknown ({request.side})")
        compared = await self._versions.compare(
            request.collection,
            request.version,
            ids=request.ids,
            side=side,
            cursor=request.cursor,
            limit=request.limit,
            deadline=deadline_of(context),
        )
        return pb.ComparePassagesResponse(
            differences=[
                pb.Difference(
                    id=difference.id,
                    passage=None if difference.passage is None else difference.passage.to_proto(),
                    revision=difference.revision,
                    building_revision=difference.building_revision,
                )
                for difference in compared.differences
            ],
            compared_count=compared.compared,
            next_cursor=compared.next_cursor,
        )

    async def CopyPassages(self, request: pb.CopyPassagesRequest, context: Context) -> pb.CopyPassagesResponse:
        """Bring differences into a version."""
        await self._versions.copy(
            request.version,
            [
                Copy(_passage(entry.passage, place), entry.revision, entry.building_revision)
                for place, entry in enumerate(request.passages)
            ],
            [Removal(entry.id, entry.building_revision) for entry in request.removals],
            model_fingerprint=request.model_fingerprint,
            deadline=deadline_of(context),
        )
        return pb.CopyPassagesResponse()

    async def SamplePassages(self, request: pb.SamplePassagesRequest, context: Context) -> pb.SamplePassagesResponse:
        """Return some passages with their vectors."""
        sample = await self._versions.sample(request.collection, request.limit, deadline=deadline_of(context))
        return pb.SamplePassagesResponse(
            passages=[
                pb.PassageVector(
                    passage=passage.to_proto(),
                    vector=b"" if passage.vector is None else passage.vector.astype("<f4").tobytes(),
                )
                for passage in sample.passages
            ],
            index_version=sample.version,
            passage_count=sample.count,
        )

    async def CompleteVersion(self, request: pb.CompleteVersionRequest, context: Context) -> pb.CompleteVersionResponse:
        """Record that a version is complete."""
        version = await self._versions.complete(request.version, deadline=deadline_of(context))
        return pb.CompleteVersionResponse(version=version.to_proto(live=False))

    async def AbandonVersion(self, request: pb.AbandonVersionRequest, context: Context) -> pb.AbandonVersionResponse:
        """End the building of a version."""
        await self._versions.abandon(request.version, deadline=deadline_of(context))
        return pb.AbandonVersionResponse()

    async def SwitchCollection(
        self, request: pb.SwitchCollectionRequest, context: Context
    ) -> pb.SwitchCollectionResponse:
        """Make another version live."""
        live, previous = await self._versions.switch(request.collection, request.version, deadline=deadline_of(context))
        return pb.SwitchCollectionResponse(live=live.to_proto(live=True), previous_version=previous)

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        """Delete a version."""
        await self._versions.delete(request.version, deadline=deadline_of(context))
        return pb.DeleteVersionResponse()

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        """Copy a version."""
        made = await self._snapshots.create(request.collection, deadline=deadline_of(context))
        return pb.CreateSnapshotResponse(snapshot=made.to_proto())

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        """List copies."""
        found = await self._snapshots.of(request.collection, deadline=deadline_of(context))
        return pb.ListSnapshotsResponse(snapshots=[snapshot.to_proto() for snapshot in found])

    async def RestoreSnapshot(self, request: pb.RestoreSnapshotRequest, context: Context) -> pb.RestoreSnapshotResponse:
        """Make a version from a copy."""
        version = await self._snapshots.restore(request.collection, request.snapshot, deadline=deadline_of(context))
        return pb.RestoreSnapshotResponse(version=version.to_proto(live=False))

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Context) -> pb.DeleteSnapshotResponse:
        """Delete a copy."""
        await self._snapshots.delete(request.collection, request.snapshot, deadline=deadline_of(context))
        return pb.DeleteSnapshotResponse()


def _passage(entry: pb.PassageVector, place: int) -> Passage:
    return Passage.from_proto(entry.passage, f"passages[{place}]", entry.vector)
