"""RetrieverService: validate, translate, delegate."""

# ruff: noqa: N802, D102  gRPC names the methods, and the proto says what they do

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis import tracing
from services.chassis.errors import InvalidArgument
from services.chassis.timing import both, deadline_of, duration
from services.retriever.backups.snapshots import Snapshots
from services.retriever.collections.building import Building, Difference, Side
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.collections.transfers import Transfers
from services.retriever.collections.tuning import Tuning
from services.retriever.collections.versions import Versions
from services.retriever.documents import (
    Owners,
    Passage,
    Relations,
    tokens_from_proto,
    tokens_to_proto,
    vector_from_bytes,
)
from services.retriever.fields import Filter
from services.retriever.messages import (
    of_document,
    of_expansion,
    of_vector,
    to_copy,
    to_late,
    to_passage,
    to_token_model,
)
from services.retriever.passages import Passages
from services.retriever.relations.enriching import Enriching
from services.retriever.relations.relating import Relating, Seed
from services.retriever.relations.statements import Statements
from services.retriever.search.findings import Findings
from services.retriever.search.searches import LateQuery, QueryVariant
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.retriever.v1 import retriever_pb2_grpc
from sluice.type.v1.passage_pb2 import PassageKey, PassageRecord

Context = grpc.aio.ServicerContext[Any, Any]

_SIDES = {pb.SIDE_UNSPECIFIED: Side.LIVE, pb.SIDE_LIVE: Side.LIVE, pb.SIDE_BUILDING: Side.BUILDING}


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Stores passages, finds them, and keeps versions and snapshots."""

    def __init__(  # noqa: PLR0913, PLR0917  # one a part of the stage
        self,
        collections: Collections,
        tuning: Tuning,
        passages: Passages,
        versions: Versions,
        building: Building,
        snapshots: Snapshots,
        findings: Findings,
        transfers: Transfers,
        relating: Relating,
        enriching: Enriching,
        statements: Statements,
    ) -> None:
        self._collections = collections
        self._tuning = tuning
        self._passages = passages
        self._versions = versions
        self._building = building
        self._snapshots = snapshots
        self._findings = findings
        self._transfers = transfers
        self._relating = relating
        self._enriching = enriching
        self._statements = statements

    async def SearchPassages(self, request: pb.SearchPassagesRequest, context: Context) -> pb.SearchPassagesResponse:
        if not request.HasField("beside"):
            return await self._found(request, context)
        reply, beside = await both(self._found(request, context), self._found(request.beside, context))
        reply.beside.CopyFrom(beside)
        return reply

    async def _found(self, request: pb.SearchPassagesRequest, context: Context) -> pb.SearchPassagesResponse:
        variants = [
            QueryVariant(variant.text, vector_from_bytes(variant.vector, f"variants[{place}].vector"), variant.weight)
            for place, variant in enumerate(request.variants)
        ]
        found = await self._passages.search(
            request.collection,
            variants,
            limit=request.limit,
            whole=request.whole_count if request.HasField("whole_count") else request.limit,
            condition=Filter.from_proto(request.filter),
            dense_weight=request.dense_weight if request.HasField("dense_weight") else 1.0,
            lexical_weight=request.lexical_weight if request.HasField("lexical_weight") else 1.0,
            model_fingerprint=request.model_fingerprint,
            model=request.model,
            like=request.like_document_id,
            owners=_owners(request),
            late=to_late(request),
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
        reply = pb.SearchPassagesResponse(
            index_version=found.version,
            fused_search_count=found.fused_searches,
            search_duration=duration(found.seconds),
        )
        for candidate in found.candidates:
            added = reply.candidates.add(score=candidate.score, whole=candidate.whole, late_score=candidate.late_score)
            candidate.passage.write(added.passage)
        return reply

    async def ExpandRelations(self, request: pb.ExpandRelationsRequest, context: Context) -> pb.ExpandRelationsResponse:
        found = await self._relating.expand(
            request.collection,
            request.query,
            [Seed(one.id, one.score) for one in request.candidates],
            hops=request.max_hops,
            limit=request.limit,
            condition=Filter.from_proto(request.filter),
            late=LateQuery(tokens_from_proto(request.tokens, "tokens"), request.token_model_fingerprint, 0)
            if request.HasField("tokens")
            else None,
            deadline=deadline_of(context),
        )
        return of_expansion(found)

    async def EnrichCollection(
        self, request: pb.EnrichCollectionRequest, context: Context
    ) -> AsyncIterator[pb.EnrichCollectionResponse]:
        enriching = self._enriching.run(request.collection, report=request.report, deadline=deadline_of(context))
        async with aclosing(enriching) as steps:
            async for step in steps:
                report = step.report.to_proto() if step.report else None
                yield pb.EnrichCollectionResponse(progress=step.to_proto(), version=step.version, report=report)

    async def RelatePassages(self, request: pb.RelatePassagesRequest, context: Context) -> pb.RelatePassagesResponse:
        related = await self._statements.replace(
            request.collection,
            [
                (one.id, Relations.from_proto(one.relations, f"documents[{place}].relations"))
                for place, one in enumerate(request.documents)
            ],
            deadline_of(context),
        )
        return pb.RelatePassagesResponse(
            changed_count=len(related.changed),
            missing_ids=related.missing,
            building_version=related.building,
            changed_ids=related.changed if related.building else (),
        )

    async def GetPassages(self, request: pb.GetPassagesRequest, context: Context) -> pb.GetPassagesResponse:
        """Return passages by id."""
        found, count = await self._passages.read(request.collection, request.ids, deadline_of(context))
        return pb.GetPassagesResponse(passages=[passage.to_proto() for passage in found], read_count=count)

    async def CountByField(self, request: pb.CountByFieldRequest, context: Context) -> pb.CountByFieldResponse:
        counted = await self._findings.count_by_field(
            request.collection,
            request.fields,
            Filter.from_proto(request.filter),
            request.limit,
            deadline_of(context),
        )
        return pb.CountByFieldResponse(
            fields=[one.to_proto() for one in counted.fields],
            passage_count=counted.passage_count,
            index_version=counted.version,
        )

    async def DiversifyPassages(
        self, request: pb.DiversifyPassagesRequest, context: Context
    ) -> pb.DiversifyPassagesResponse:
        order = await self._findings.diversify(
            request.collection, request.ids, request.scores, request.diversity, deadline_of(context)
        )
        return pb.DiversifyPassagesResponse(order=order)

    async def HighlightTexts(self, request: pb.HighlightTextsRequest, context: Context) -> pb.HighlightTextsResponse:
        found = await self._findings.highlight(request.collection, request.query, request.texts, deadline_of(context))
        return pb.HighlightTextsResponse(
            texts=[pb.TextHighlights(highlights=[one.to_proto() for one in highlights]) for highlights in found]
        )

    async def CheckPassages(self, request: pb.CheckPassagesRequest, context: Context) -> pb.CheckPassagesResponse:
        """Refuse what cannot be stored."""
        await self._passages.check(
            request.collection,
            [Passage.from_proto(passage, f"passages[{place}]") for place, passage in enumerate(request.passages)],
            model_fingerprint=request.model_fingerprint,
            owners=_owners(request),
            deadline=deadline_of(context),
        )
        return pb.CheckPassagesResponse()

    async def UpsertPassages(self, request: pb.UpsertPassagesRequest, context: Context) -> pb.UpsertPassagesResponse:
        stored = await self._passages.upsert(
            request.collection,
            [to_passage(entry, place) for place, entry in enumerate(request.passages)],
            model_fingerprint=request.model_fingerprint,
            token_model_fingerprint=request.token_model_fingerprint,
            batch=request.batch,
            owners=_owners(request),
            deadline=deadline_of(context),
        )
        return pb.UpsertPassagesResponse(
            upserted_count=stored.count,
            index_version=stored.version,
            building_version=stored.building,
            changed_ids=stored.changed if stored.building else (),
            replaced_count=stored.replaced,
        )

    async def DeletePassages(self, request: pb.DeletePassagesRequest, context: Context) -> pb.DeletePassagesResponse:
        deleted = await self._passages.delete(request.collection, request.ids, deadline_of(context), _owners(request))
        return pb.DeletePassagesResponse(
            deleted_count=deleted.count,
            building_version=deleted.building,
            changed_ids=deleted.changed if deleted.building else (),
        )

    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Context) -> pb.GetDocumentsResponse:
        got = await self._passages.get(request.collection, request.ids, deadline_of(context), _owners(request))
        return pb.GetDocumentsResponse(
            documents=map(of_document, got.found), missing_ids=got.missing, remaining_ids=got.remaining
        )

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        found, token = await self._passages.page(
            request.collection,
            Filter.from_proto(request.filter),
            request.page_size,
            request.page_token,
            deadline_of(context),
        )
        return pb.ListDocumentsResponse(documents=map(of_document, found), next_page_token=token)

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        created = await self._collections.create(
            request.collection,
            CollectionModel.from_proto(request.model),
            deadline_of(context),
            language=request.language,
            layout=request.layout,
            token_model=to_token_model(request),
        )
        return pb.CreateCollectionResponse(collection=created.to_proto(live=True))

    async def TuneCollection(self, request: pb.TuneCollectionRequest, context: Context) -> pb.TuneCollectionResponse:
        tuned = await self._tuning.tune(request.collection, request.layout, deadline_of(context))
        return pb.TuneCollectionResponse(version=tuned.to_proto(live=tuned.name == tuned.collection))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        found = await self._collections.get(request.collection, deadline_of(context))
        return pb.GetCollectionResponse(collection=found.to_proto(live=found.name == found.collection))

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        deleted = await self._collections.delete(request.collection, deadline_of(context))
        return pb.DeleteCollectionResponse(versions=deleted)

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        versions, token = await self._collections.versions(
            request.collection, request.page_size, request.page_token, deadline_of(context)
        )
        return pb.ListCollectionsResponse(
            versions=[info.to_proto(live=live) for info, live in versions], next_page_token=token
        )

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.CreateVersionResponse:
        model = CollectionModel.from_proto(request.model)
        version, live = await self._versions.create(
            request.collection, model, deadline_of(context), to_token_model(request)
        )
        return pb.CreateVersionResponse(version=version.to_proto(live=False), live=live.to_proto(live=True))

    async def ComparePassages(self, request: pb.ComparePassagesRequest, context: Context) -> pb.ComparePassagesResponse:
        side = _SIDES.get(request.side)
        if side is None:
            raise InvalidArgument("side", f"is unknown ({request.side})")
        compared = await self._building.compare(
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
        await self._building.copy(
            request.version,
            [to_copy(entry, place) for place, entry in enumerate(request.passages)]
            + [Difference(entry.id, None, "", entry.building_revision) for entry in request.removals],
            model_fingerprint=request.model_fingerprint,
            token_model_fingerprint=request.token_model_fingerprint,
            deadline=deadline_of(context),
        )
        return pb.CopyPassagesResponse()

    async def SamplePassages(self, request: pb.SamplePassagesRequest, context: Context) -> pb.SamplePassagesResponse:
        sample = await self._passages.sample(request.collection, request.limit, deadline_of(context))
        return pb.SamplePassagesResponse(
            passages=[
                pb.PassageVector(
                    passage=passage.to_proto(),
                    vector=of_vector(passage),
                    tokens=tokens_to_proto(passage.tokens),
                )
                for passage in sample.passages
            ],
            index_version=sample.version,
            passage_count=sample.count,
        )

    async def CompleteVersion(self, request: pb.CompleteVersionRequest, context: Context) -> pb.CompleteVersionResponse:
        version = await self._versions.complete(request.version, deadline_of(context))
        return pb.CompleteVersionResponse(version=version.to_proto(live=False))

    async def AbandonVersion(self, request: pb.AbandonVersionRequest, context: Context) -> pb.AbandonVersionResponse:
        await self._versions.abandon(request.version, deadline_of(context))
        return pb.AbandonVersionResponse()

    async def SwitchCollection(
        self, request: pb.SwitchCollectionRequest, context: Context
    ) -> pb.SwitchCollectionResponse:
        live, previous = await self._versions.switch(request.collection, request.version, deadline_of(context))
        return pb.SwitchCollectionResponse(live=live.to_proto(live=True), previous_version=previous)

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        await self._versions.delete(request.version, deadline_of(context))
        return pb.DeleteVersionResponse()

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        made = await self._snapshots.create(request.collection, deadline_of(context))
        return pb.CreateSnapshotResponse(snapshot=made.to_proto())

    async def StreamCreateSnapshot(
        self, request: pb.StreamCreateSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.StreamCreateSnapshotResponse]:
        async with aclosing(self._snapshots.taking(request.collection, deadline_of(context))) as taking:
            async for step in taking:
                snapshot = step.snapshot.to_proto() if step.snapshot else None
                yield pb.StreamCreateSnapshotResponse(progress=step.to_proto(), snapshot=snapshot)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        found, token = await self._snapshots.page(
            request.collection, request.page_size, request.page_token, deadline_of(context)
        )
        return pb.ListSnapshotsResponse(snapshots=[snapshot.to_proto() for snapshot in found], next_page_token=token)

    async def RestoreSnapshot(self, request: pb.RestoreSnapshotRequest, context: Context) -> pb.RestoreSnapshotResponse:
        version = await self._snapshots.restore(
            request.collection, request.snapshot, request.shards, deadline_of(context)
        )
        return pb.RestoreSnapshotResponse(version=version.to_proto(live=False))

    async def StreamRestoreSnapshot(
        self, request: pb.StreamRestoreSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.StreamRestoreSnapshotResponse]:
        restoring = self._snapshots.restoring(
            request.collection, request.snapshot, request.shards, deadline_of(context)
        )
        async with aclosing(restoring) as steps:
            async for step in steps:
                version = step.version.to_proto(live=False) if step.version else None
                yield pb.StreamRestoreSnapshotResponse(progress=step.to_proto(), version=version)

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Context) -> pb.DeleteSnapshotResponse:
        await self._snapshots.delete(request.collection, request.snapshot, deadline_of(context))
        return pb.DeleteSnapshotResponse()

    async def DescribeVersion(self, request: pb.DescribeVersionRequest, context: Context) -> pb.DescribeVersionResponse:
        info, notes = await self._transfers.describe(request.collection, deadline_of(context))
        return pb.DescribeVersionResponse(version=info.to_proto(live=info.name == info.collection), notes=notes)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        rows, cursor = await self._transfers.keys(request.version, request.cursor, request.limit, deadline_of(context))
        keys = [PassageKey(point=uuid.UUID(row.id).bytes, id=row.passage.id, revision=row.revision) for row in rows]
        return pb.ListKeysResponse(keys=keys, next_cursor=cursor)

    async def ReadRecords(self, request: pb.ReadRecordsRequest, context: Context) -> pb.ReadRecordsResponse:
        rows, count = await self._transfers.read(request.version, request.ids, deadline_of(context))
        records = [
            PassageRecord(
                passage=row.passage.to_proto(),
                vector=of_vector(row.passage),
                revision=row.revision,
                tokens=tokens_to_proto(row.passage.tokens),
            )
            for row in rows
        ]
        return pb.ReadRecordsResponse(records=records, read_count=count)

    async def BeginTransfer(self, request: pb.BeginTransferRequest, context: Context) -> pb.BeginTransferResponse:
        begun = await self._transfers.begin(
            request.collection, request.source_version, request.notes, deadline_of(context)
        )
        return pb.BeginTransferResponse(version=begun.to_proto(live=False))

    async def CompleteTransfer(
        self, request: pb.CompleteTransferRequest, context: Context
    ) -> pb.CompleteTransferResponse:
        version = await self._transfers.complete(request.version, request.passage_count, deadline_of(context))
        return pb.CompleteTransferResponse(version=version.to_proto(live=False))


def _owners(request: Any) -> Owners:
    return [(owner.field, owner.value) for owner in request.owners]
