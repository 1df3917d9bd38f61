"""CollectionService: collections, their versions and their snapshots."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis.access.gate import sees, sees_everything
from services.chassis.errors import InvalidArgument
from services.chassis.timing import deadline_of
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.reindexing import Reindexing
from services.gateway.collections.store import Switched
from services.gateway.collections.verification import DEFAULT_SAMPLE, Verification
from services.gateway.rpc.retriever_client import RetrieverClient
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import collections_pb2 as pb
from sluice.gateway.v1 import collections_pb2_grpc
from sluice.retriever.v1 import retriever_pb2
from sluice.type.v1 import collection_pb2

Context = grpc.aio.ServicerContext[Any, Any]

MAX_SAMPLE = 500
DEFAULT_PAGE, MAX_PAGE = 100, 1000
BULK_METHODS = frozenset(
    {"ReindexCollection", "VerifyCollection", "CreateSnapshot", "RestoreSnapshot", "TuneCollection"}
)


class CollectionsServicer(collections_pb2_grpc.CollectionServiceServicer):
    """Validates requests and delegates them to the retriever, or to reindexing and verification."""

    def __init__(
        self,
        embedders: Embedders,
        retriever: RetrieverClient,
        reindexing: Reindexing,
        verification: Verification,
        settings: GatewaySettings,
    ) -> None:
        self._embedders = embedders
        self._retriever = retriever
        self._reindexing = reindexing
        self._verification = verification
        self._settings = settings

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        deadline = self._short(context)
        page = await self._visible(request, deadline)
        served, _ = await self._embedders.served(deadline=deadline)
        fingerprints = {model.fingerprint for model in served}
        token_fingerprints = {model.fingerprint for model in await self._embedders.served_tokens(deadline=deadline)}
        return pb.ListCollectionsResponse(
            versions=[
                pb.ListedVersion(
                    version=version,
                    model_served=version.model.fingerprint in fingerprints,
                    token_model_served=version.token_model.fingerprint in token_fingerprints,
                )
                for version in page.versions
            ],
            next_page_token=page.next_page_token,
        )

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        deadline = self._short(context)
        if request.model:
            model = await self._embedders.model_named(request.model, deadline=deadline)
        else:
            model = await self._embedders.first_model(deadline=deadline)
        if not request.HasField("token_vectors"):
            token_model = await self._embedders.new_token_model(deadline=deadline)
        elif request.token_vectors:
            token_model = await self._embedders.token_model_like("", deadline=deadline)
        else:
            token_model = None
        live = await self._retriever.create_collection(
            request.collection,
            model,
            token_model=token_model,
            language=request.language,
            layout=request.layout,
            deadline=deadline,
        )
        self._embedders.forget(request.collection)
        return pb.CreateCollectionResponse(live=live)

    async def TuneCollection(self, request: pb.TuneCollectionRequest, context: Context) -> pb.TuneCollectionResponse:
        collection, deadline = self._name(request.collection), self._long(context)
        version = await self._retriever.tune_collection(collection, request.layout, deadline=deadline)
        return pb.TuneCollectionResponse(version=version)

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        if not request.collection:
            raise InvalidArgument("collection", "is empty; name the collection to delete")
        versions = await self._retriever.delete_collection(request.collection, deadline=self._long(context))
        self._embedders.forget(request.collection)
        return pb.DeleteCollectionResponse(versions=versions)

    async def ReindexCollection(
        self, request: pb.ReindexCollectionRequest, context: Context
    ) -> pb.ReindexCollectionResponse:
        progress = await self._reindexing.advance(
            self._name(request.collection),
            request.model,
            request.cursor,
            token_vectors=request.token_vectors if request.HasField("token_vectors") else None,
            deadline=self._long(context),
        )
        return progress.to_proto()

    async def VerifyCollection(
        self, request: pb.VerifyCollectionRequest, context: Context
    ) -> pb.VerifyCollectionResponse:
        size = request.sample_size if request.HasField("sample_size") else DEFAULT_SAMPLE
        if not 1 <= size <= MAX_SAMPLE:
            raise InvalidArgument("sample_size", f"is {size}; send 1 to {MAX_SAMPLE}")
        collection, deadline = self._name(request.collection), self._long(context)
        version = request.version or (await self._retriever.collection(collection, deadline=deadline)).version
        checks = await self._verification.verify(collection, version, sample_size=size, deadline=deadline)
        return pb.VerifyCollectionResponse(version=version, checks=[check.to_proto() for check in checks])

    async def RollbackCollection(
        self, request: pb.RollbackCollectionRequest, context: Context
    ) -> pb.RollbackCollectionResponse:
        switched = await self._switch(self._name(request.collection), request.version, self._long(context))
        return pb.RollbackCollectionResponse(live=switched.live, previous_version=switched.previous)

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        await self._retriever.delete_version(request.version, deadline=self._long(context))
        return pb.DeleteVersionResponse()

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        snapshot = await self._retriever.create_snapshot(self._name(request.collection), deadline=self._long(context))
        return pb.CreateSnapshotResponse(snapshot=snapshot)

    async def StreamCreateSnapshot(
        self, request: pb.StreamCreateSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.StreamCreateSnapshotResponse]:
        collection = self._name(request.collection)
        taking = self._retriever.stream_create_snapshot(collection, deadline=deadline_of(context))
        async with aclosing(taking) as steps:
            async for step in steps:
                snapshot = step.snapshot if step.HasField("snapshot") else None
                yield pb.StreamCreateSnapshotResponse(progress=step.progress, snapshot=snapshot)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        page = await self._retriever.list_snapshots(
            self._name(request.collection), request.page_size, request.page_token, deadline=self._short(context)
        )
        return pb.ListSnapshotsResponse(snapshots=page.snapshots, next_page_token=page.next_page_token)

    async def RestoreSnapshot(self, request: pb.RestoreSnapshotRequest, context: Context) -> pb.RestoreSnapshotResponse:
        collection, deadline = self._name(request.collection), self._long(context)
        restored = await self._retriever.restore_snapshot(
            collection, request.snapshot, request.shards, deadline=deadline
        )
        switched = await self._switch(collection, restored.version, deadline)
        return pb.RestoreSnapshotResponse(live=switched.live, previous_version=switched.previous)

    async def StreamRestoreSnapshot(
        self, request: pb.StreamRestoreSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.StreamRestoreSnapshotResponse]:
        collection, deadline = self._name(request.collection), deadline_of(context)
        restoring = self._retriever.stream_restore_snapshot(
            collection, request.snapshot, request.shards, deadline=deadline
        )
        async with aclosing(restoring) as steps:
            async for step in steps:
                if not step.HasField("version"):
                    yield pb.StreamRestoreSnapshotResponse(progress=step.progress)
                    continue
                switched = await self._switch(collection, step.version.version, deadline)
                yield pb.StreamRestoreSnapshotResponse(
                    progress=step.progress, live=switched.live, previous_version=switched.previous
                )

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Context) -> pb.DeleteSnapshotResponse:
        await self._retriever.delete_snapshot(
            self._name(request.collection), request.snapshot, deadline=self._long(context)
        )
        return pb.DeleteSnapshotResponse()

    async def EnrichCollection(
        self, request: pb.EnrichCollectionRequest, context: Context
    ) -> AsyncIterator[pb.EnrichCollectionResponse]:
        enriching = self._retriever.enrich(
            self._name(request.collection), report=request.report, deadline=deadline_of(context)
        )
        async with aclosing(enriching) as steps:
            async for step in steps:
                report = step.report if step.HasField("report") else None
                yield pb.EnrichCollectionResponse(progress=step.progress, version=step.version, report=report)

    async def _visible(
        self, request: pb.ListCollectionsRequest, deadline: float
    ) -> retriever_pb2.ListCollectionsResponse:
        """Return a page of the versions that the caller may know of. No token names one of the others."""
        if sees_everything():
            return await self._retriever.list_collections(
                request.collection, request.page_size, request.page_token, deadline=deadline
            )
        if request.page_size < 0:
            raise InvalidArgument("page_size", f"is {request.page_size}; send 0 or more")
        size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        found: list[collection_pb2.CollectionVersion] = []
        token, is_after, more = "", not request.page_token, True
        while more and len(found) <= size:
            page = await self._retriever.list_collections(request.collection, MAX_PAGE, token, deadline=deadline)
            for version in page.versions:
                if is_after and sees(version.collection):
                    found.append(version)
                is_after = is_after or version.version == request.page_token
            token = page.next_page_token
            more = token != ""
        following = found[size - 1].version if len(found) > size else ""
        return retriever_pb2.ListCollectionsResponse(versions=found[:size], next_page_token=following)

    async def _switch(self, collection: str, version: str, deadline: float) -> Switched:
        switched = await self._retriever.switch(collection, version, deadline=deadline)
        self._embedders.forget(collection)
        return switched

    def _name(self, collection: str) -> str:
        return collection or self._settings.qdrant_collection

    def _short(self, context: Context) -> float:
        return deadline_of(context, self._settings.default_deadline_seconds)

    def _long(self, context: Context) -> float:
        return deadline_of(context, self._settings.index_deadline_seconds)
