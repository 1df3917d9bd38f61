"""The RPCs of the life of an index: validate, translate, delegate. The servicer inherits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from services.chassis.errors import InvalidArgument
from services.chassis.timing import deadline_of
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.reindexing import Phase, Reindexing, Writing
from services.gateway.collections.verification import SAMPLE, Check, Verification
from services.gateway.rpc.stage_clients import RetrieverClient
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from sluice.retriever.v1 import retriever_pb2

Context = grpc.aio.ServicerContext[Any, Any]

MAX_SAMPLE = 500
BULK_METHODS = frozenset({"ReindexCollection", "VerifyCollection", "CreateSnapshot", "RestoreSnapshot"})

_PHASES = {
    Phase.COPY: gateway_pb2.REINDEX_PHASE_COPY,
    Phase.SWEEP: gateway_pb2.REINDEX_PHASE_SWEEP,
    Phase.VERIFY: gateway_pb2.REINDEX_PHASE_VERIFY,
    Phase.SWITCHED: gateway_pb2.REINDEX_PHASE_SWITCHED,
}
_STATES = {
    retriever_pb2.VERSION_STATE_BUILDING: gateway_pb2.VERSION_STATE_BUILDING,
    retriever_pb2.VERSION_STATE_READY: gateway_pb2.VERSION_STATE_READY,
}


@dataclass(frozen=True, slots=True)
class Life:
    """What the life of an index takes."""

    embedders: Embedders
    retriever: RetrieverClient
    writing: Writing
    reindexing: Reindexing
    verification: Verification


class LifeServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """Versions and snapshots of collections."""

    def __init__(self, life: Life, settings: GatewaySettings) -> None:
        self._life = life
        self._settings = settings

    async def ListCollections(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.ListCollectionsRequest, context: Context
    ) -> gateway_pb2.ListCollectionsResponse:
        """Describes all versions."""
        deadline = self._soon(context)
        versions = await self._life.retriever.versions(deadline=deadline)
        served, _ = await self._life.embedders.served(deadline=deadline)
        fingerprints = {model.fingerprint for model in served}
        return gateway_pb2.ListCollectionsResponse(versions=[_version(found, fingerprints) for found in versions])

    async def ReindexCollection(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.ReindexCollectionRequest, context: Context
    ) -> gateway_pb2.ReindexCollectionResponse:
        """Does the next part of a rebuild."""
        if not request.model:
            raise InvalidArgument("model", "is empty; name the model that is to embed")
        progress = await self._life.reindexing.advance(
            self._name(request.collection), request.model, request.page_token, deadline=self._late(context)
        )
        return gateway_pb2.ReindexCollectionResponse(
            version=progress.version,
            phase=_PHASES[progress.phase],
            done_count=progress.done,
            total_count=progress.total,
            copied_count=progress.copied,
            next_page_token=progress.next_token,
            checks=map(_check, progress.checks),
            previous_version=progress.previous,
        )

    async def VerifyCollection(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.VerifyCollectionRequest, context: Context
    ) -> gateway_pb2.VerifyCollectionResponse:
        """Checks a version."""
        size = request.sample_size if request.HasField("sample_size") else SAMPLE
        if not 1 <= size <= MAX_SAMPLE:
            raise InvalidArgument("sample_size", f"is {size}; send 1 to {MAX_SAMPLE}")
        collection, deadline = self._name(request.collection), self._late(context)
        version = request.version
        if not version:
            version = (await self._life.retriever.model_of(collection, deadline=deadline)).version
        checks = await self._life.verification.verify(collection, version, sample_size=size, deadline=deadline)
        return gateway_pb2.VerifyCollectionResponse(version=version, checks=map(_check, checks))

    async def RollbackCollection(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.RollbackCollectionRequest, context: Context
    ) -> gateway_pb2.RollbackCollectionResponse:
        """Makes the version before live again."""
        live, previous = await self._switch(self._name(request.collection), request.version, self._late(context))
        return gateway_pb2.RollbackCollectionResponse(live=live, previous_version=previous)

    async def DropVersion(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.DropVersionRequest, context: Context
    ) -> gateway_pb2.DropVersionResponse:
        """Deletes a version."""
        await self._life.retriever.drop_version(request.version, deadline=self._late(context))
        return gateway_pb2.DropVersionResponse()

    async def CreateSnapshot(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.CreateSnapshotRequest, context: Context
    ) -> gateway_pb2.CreateSnapshotResponse:
        """Copies a version."""
        made = await self._life.retriever.create_snapshot(self._name(request.collection), deadline=self._late(context))
        return gateway_pb2.CreateSnapshotResponse(snapshot=_snapshot(made))

    async def ListSnapshots(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.ListSnapshotsRequest, context: Context
    ) -> gateway_pb2.ListSnapshotsResponse:
        """Lists copies."""
        found = await self._life.retriever.snapshots(self._name(request.collection), deadline=self._soon(context))
        return gateway_pb2.ListSnapshotsResponse(snapshots=map(_snapshot, found))

    async def RestoreSnapshot(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.RestoreSnapshotRequest, context: Context
    ) -> gateway_pb2.RestoreSnapshotResponse:
        """Makes a version from a copy, and makes it live."""
        collection, deadline = self._name(request.collection), self._late(context)
        version = await self._life.retriever.restore_snapshot(collection, request.snapshot, deadline=deadline)
        live, previous = await self._switch(collection, version, deadline)
        return gateway_pb2.RestoreSnapshotResponse(live=live, previous_version=previous)

    async def DeleteSnapshot(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.DeleteSnapshotRequest, context: Context
    ) -> gateway_pb2.DeleteSnapshotResponse:
        """Deletes a copy."""
        await self._life.retriever.delete_snapshot(
            self._name(request.collection), request.snapshot, deadline=self._late(context)
        )
        return gateway_pb2.DeleteSnapshotResponse()

    async def _switch(
        self, collection: str, version: str, deadline: float
    ) -> tuple[gateway_pb2.CollectionVersion, str]:
        switched = await self._life.retriever.switched(collection, version, deadline=deadline)
        self._life.embedders.forget(collection)
        return _version(switched.live, set()), switched.previous_version

    def _name(self, collection: str) -> str:
        return collection or self._settings.qdrant_collection

    def _soon(self, context: Context) -> float:
        return deadline_of(context, self._settings.default_deadline_seconds)

    def _late(self, context: Context) -> float:
        return deadline_of(context, self._settings.index_deadline_seconds)


def _version(found: retriever_pb2.Collection, served: set[str]) -> gateway_pb2.CollectionVersion:
    return gateway_pb2.CollectionVersion(
        collection=found.collection,
        version=found.index_version,
        live=found.live,
        state=_STATES.get(found.state, gateway_pb2.VERSION_STATE_UNSPECIFIED),
        model=found.model.name,
        model_fingerprint=found.model.fingerprint,
        dimension=found.model.dimension,
        precision=found.model.precision,
        lexical_settings=found.lexical_settings,
        source=found.source,
        document_count=found.passage_count,
        create_time=found.create_time,
        building_version=found.building_version,
        previous_version=found.previous_version,
        model_served=found.model.fingerprint in served,
    )


def _check(check: Check) -> gateway_pb2.VersionCheck:
    return gateway_pb2.VersionCheck(name=check.name, passed=check.passed, detail=check.detail)


def _snapshot(found: retriever_pb2.Snapshot) -> gateway_pb2.Snapshot:
    return gateway_pb2.Snapshot(
        name=found.name, version=found.version, create_time=found.create_time, size_bytes=found.size_bytes
    )
