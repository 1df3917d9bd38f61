"""Client of the retriever."""

# ruff: noqa: D102  # collections.store and search.stages say what most methods do

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.gateway.collections.store import (
    Begun,
    Comparison,
    Difference,
    Sample,
    Sampled,
    Switched,
    Vectors,
    Written,
)
from services.gateway.rpc.finding_calls import FindingCalls
from services.gateway.rpc.ownership import owners, unnamed_fields
from services.gateway.slices import slices
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.type.v1 import collection_pb2, filter_pb2, layout_pb2, model_pb2, passage_pb2

# Passages compared at once: enough for the embedder's batches, few enough that a call takes about a second.
COMPARED_AT_ONCE = 128
COMPARED_IDS_A_CALL = 1000
DOCUMENTS_A_CALL = 100
PASSAGES_A_CALL = 1000


class RetrieverClient(FindingCalls):
    """Calls the retriever."""

    service = "sluice.retriever.v1.RetrieverService"

    async def diversify(
        self, collection: str, ids: Sequence[str], scores: Sequence[float], diversity: float, *, deadline: float
    ) -> Sequence[int]:
        request = pb.DiversifyPassagesRequest(collection=collection, ids=ids, scores=scores, diversity=diversity)
        reply = await self.channel.call(self.stub.DiversifyPassages, request, deadline=deadline)
        return reply.order

    async def highlight(
        self, collection: str, query: str, texts: Sequence[str], *, deadline: float
    ) -> Sequence[Sequence[passage_pb2.Highlight]]:
        request = pb.HighlightTextsRequest(collection=collection, query=query, texts=texts)
        reply = await self.channel.call(self.stub.HighlightTexts, request, deadline=deadline)
        return [found.highlights for found in reply.texts]

    async def count_by_field(
        self,
        collection: str,
        fields: Sequence[str],
        *,
        filter: filter_pb2.Filter,  # noqa: A002  # the field's word
        limit: int,
        deadline: float,
    ) -> pb.CountByFieldResponse:
        """Count matching passages by the values of fields."""
        request = pb.CountByFieldRequest(collection=collection, fields=fields, filter=filter, limit=limit)
        with unnamed_fields():
            return await self.channel.call(self.stub.CountByField, request, deadline=deadline)

    async def passages(
        self, collection: str, ids: Sequence[str], *, deadline: float
    ) -> AsyncIterator[passage_pb2.Passage]:
        start = 0
        while start < len(ids):
            request = pb.GetPassagesRequest(collection=collection, ids=ids[start : start + PASSAGES_A_CALL])
            reply = await self.channel.call(self.stub.GetPassages, request, deadline=deadline)
            for passage in reply.passages:
                yield passage
            start += max(1, reply.read_count)

    async def check(
        self, collection: str, passages: Sequence[passage_pb2.Passage], *, model_fingerprint: str, deadline: float
    ) -> None:
        bare = [
            passage_pb2.Passage(
                id=passage.id,
                document_id=passage.document_id,
                metadata=passage.metadata,
                chunk=passage.chunk if passage.HasField("chunk") else None,
            )
            for passage in passages
        ]
        for part in slices([passage.ByteSize() for passage in bare], most=PASSAGES_A_CALL):
            request = pb.CheckPassagesRequest(
                collection=collection, passages=bare[part], model_fingerprint=model_fingerprint, owners=owners()
            )
            try:
                await self.channel.call(self.stub.CheckPassages, request, deadline=deadline)
            except InvalidArgument as error:
                raise error.moved(part.start) from None

    async def upsert(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        vectors: Vectors,
        *,
        batch: str = "",
        deadline: float,
    ) -> Written:
        request = pb.UpsertPassagesRequest(
            collection=collection,
            passages=_with_vectors(passages, vectors),
            model_fingerprint=vectors.model_fingerprint,
            token_model_fingerprint=vectors.token_model_fingerprint,
            batch=batch,
            owners=owners(),
        )
        try:
            reply = await self.channel.call(self.stub.UpsertPassages, request, deadline=deadline)
        except InvalidArgument as error:
            if error.field.endswith((".vector", ".tokens")):  # no fault of the caller
                raise FailedPrecondition(
                    f"the embedder's vectors do not fit the collection: {error.message}", reason=error.reason
                ) from None
            raise
        return Written(
            reply.upserted_count,
            reply.index_version,
            reply.building_version,
            list(reply.changed_ids),
            reply.replaced_count,
        )

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Written:
        request = pb.DeletePassagesRequest(collection=collection, ids=ids, owners=owners())
        reply = await self.channel.call(self.stub.DeletePassages, request, deadline=deadline)
        return Written(
            reply.deleted_count, building_version=reply.building_version, changed_ids=list(reply.changed_ids)
        )

    async def documents(self, collection: str, ids: Sequence[str], *, deadline: float) -> pb.GetDocumentsResponse:
        """Return documents by id."""
        request = pb.GetDocumentsRequest(collection=collection, ids=ids, owners=owners())
        return await self.channel.call(self.stub.GetDocuments, request, deadline=deadline)

    async def list_documents(
        self,
        collection: str,
        *,
        filter: filter_pb2.Filter,  # noqa: A002  # the field's word
        page_size: int,
        page_token: str,
        deadline: float,
    ) -> pb.ListDocumentsResponse:
        """List documents, page by page."""
        request = pb.ListDocumentsRequest(
            collection=collection, filter=filter, page_size=page_size, page_token=page_token
        )
        with unnamed_fields():
            return await self.channel.call(self.stub.ListDocuments, request, deadline=deadline)

    async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
        request = pb.GetCollectionRequest(collection=name)
        return (await self.channel.call(self.stub.GetCollection, request, deadline=deadline)).collection

    async def list_collections(
        self, collection: str, page_size: int, page_token: str, *, deadline: float
    ) -> pb.ListCollectionsResponse:
        request = pb.ListCollectionsRequest(collection=collection, page_size=page_size, page_token=page_token)
        return await self.channel.call(self.stub.ListCollections, request, deadline=deadline)

    async def create_collection(
        self,
        collection: str,
        model: model_pb2.ModelInfo,
        *,
        token_model: model_pb2.ModelInfo | None = None,
        language: str = "",
        layout: layout_pb2.Layout | None = None,
        deadline: float,
    ) -> collection_pb2.CollectionVersion:
        request = pb.CreateCollectionRequest(
            collection=collection, model=model, token_model=token_model, language=language, layout=layout
        )
        return (await self.channel.call(self.stub.CreateCollection, request, deadline=deadline)).collection

    async def tune_collection(
        self, collection: str, layout: layout_pb2.Layout, *, deadline: float
    ) -> collection_pb2.CollectionVersion:
        request = pb.TuneCollectionRequest(collection=collection, layout=layout)
        return (await self.channel.call(self.stub.TuneCollection, request, deadline=deadline)).version

    async def delete_collection(self, collection: str, *, deadline: float) -> Sequence[str]:
        request = pb.DeleteCollectionRequest(collection=collection)
        return (await self.channel.call(self.stub.DeleteCollection, request, deadline=deadline)).versions

    async def create_version(
        self, collection: str, model: model_pb2.ModelInfo, *, token_model: model_pb2.ModelInfo | None, deadline: float
    ) -> Begun:
        request = pb.CreateVersionRequest(collection=collection, model=model, token_model=token_model)
        reply = await self.channel.call(self.stub.CreateVersion, request, deadline=deadline)
        return Begun(reply.version, reply.live)

    async def compare(self, collection: str, version: str, ids: Sequence[str], *, deadline: float) -> list[Difference]:
        differences: list[Difference] = []
        for start in range(0, len(ids), COMPARED_IDS_A_CALL):
            request = pb.ComparePassagesRequest(
                collection=collection, version=version, ids=ids[start : start + COMPARED_IDS_A_CALL]
            )
            reply = await self.channel.call(self.stub.ComparePassages, request, deadline=deadline)
            differences += _differences(reply.differences)
        return differences

    async def compare_next(
        self, collection: str, version: str, *, building: bool, cursor: str, deadline: float
    ) -> Comparison:
        request = pb.ComparePassagesRequest(
            collection=collection,
            version=version,
            side=pb.SIDE_BUILDING if building else pb.SIDE_LIVE,
            cursor=cursor,
            limit=COMPARED_AT_ONCE,
        )
        reply = await self.channel.call(self.stub.ComparePassages, request, deadline=deadline)
        return Comparison(_differences(reply.differences), reply.compared_count, reply.next_cursor)

    async def copy(
        self,
        version: str,
        differences: Sequence[Difference],
        vectors: Vectors,
        gone: Sequence[Difference],
        *,
        deadline: float,
    ) -> None:
        passages = [difference.passage for difference in differences if difference.passage is not None]
        request = pb.CopyPassagesRequest(
            version=version,
            passages=[
                pb.PassageCopy(
                    passage=passage, revision=difference.revision, building_revision=difference.building_revision
                )
                for difference, passage in zip(differences, _with_vectors(passages, vectors), strict=True)
            ],
            removals=[
                pb.PassageRemoval(id=difference.id, building_revision=difference.building_revision)
                for difference in gone
            ],
            model_fingerprint=vectors.model_fingerprint,
            token_model_fingerprint=vectors.token_model_fingerprint,
        )
        await self.channel.call(self.stub.CopyPassages, request, deadline=deadline)

    async def records(
        self, version: str, ids: Sequence[str], *, deadline: float
    ) -> Sequence[passage_pb2.PassageRecord]:
        records: list[passage_pb2.PassageRecord] = []
        start = 0
        while start < len(ids):
            read = await self.read_records(version, ids[start : start + PASSAGES_A_CALL], deadline=deadline)
            records += read.records
            start += max(1, read.read_count)
        return records

    async def complete_version(self, version: str, *, deadline: float) -> None:
        request = pb.CompleteVersionRequest(version=version)
        await self.channel.call(self.stub.CompleteVersion, request, deadline=deadline)

    async def abandon_version(self, version: str, *, deadline: float) -> None:
        request = pb.AbandonVersionRequest(version=version)
        await self.channel.call(self.stub.AbandonVersion, request, deadline=deadline)

    async def sample(self, collection: str, limit: int, *, deadline: float) -> Sample:
        request = pb.SamplePassagesRequest(collection=collection, limit=limit)
        reply = await self.channel.call(self.stub.SamplePassages, request, deadline=deadline)
        sampled = [
            Sampled(one.passage, one.vector, one.tokens if one.HasField("tokens") else None) for one in reply.passages
        ]
        return Sample(sampled, reply.passage_count)

    async def switch(self, collection: str, version: str, *, deadline: float) -> Switched:
        request = pb.SwitchCollectionRequest(collection=collection, version=version)
        reply = await self.channel.call(self.stub.SwitchCollection, request, deadline=deadline)
        return Switched(reply.live, reply.previous_version)

    async def delete_version(self, version: str, *, deadline: float) -> None:
        request = pb.DeleteVersionRequest(version=version)
        await self.channel.call(self.stub.DeleteVersion, request, deadline=deadline)

    async def create_snapshot(self, collection: str, *, deadline: float) -> collection_pb2.Snapshot:
        request = pb.CreateSnapshotRequest(collection=collection)
        return (await self.channel.call(self.stub.CreateSnapshot, request, deadline=deadline)).snapshot

    def stream_create_snapshot(
        self, collection: str, *, deadline: float
    ) -> AsyncGenerator[pb.StreamCreateSnapshotResponse, None]:
        """Take a snapshot, and tell how far it is."""
        request = pb.StreamCreateSnapshotRequest(collection=collection)
        return self.channel.stream(self.stub.StreamCreateSnapshot, request, deadline=deadline)

    async def list_snapshots(
        self, collection: str, page_size: int, page_token: str, *, deadline: float
    ) -> pb.ListSnapshotsResponse:
        request = pb.ListSnapshotsRequest(collection=collection, page_size=page_size, page_token=page_token)
        return await self.channel.call(self.stub.ListSnapshots, request, deadline=deadline)

    async def restore_snapshot(
        self, collection: str, snapshot: str, shards: int, *, deadline: float
    ) -> collection_pb2.CollectionVersion:
        request = pb.RestoreSnapshotRequest(collection=collection, snapshot=snapshot, shards=shards)
        return (await self.channel.call(self.stub.RestoreSnapshot, request, deadline=deadline)).version

    def stream_restore_snapshot(
        self, collection: str, snapshot: str, shards: int, *, deadline: float
    ) -> AsyncGenerator[pb.StreamRestoreSnapshotResponse, None]:
        """Restore a snapshot, and tell how far it is."""
        request = pb.StreamRestoreSnapshotRequest(collection=collection, snapshot=snapshot, shards=shards)
        return self.channel.stream(self.stub.StreamRestoreSnapshot, request, deadline=deadline)

    async def describe_version(self, collection: str, *, deadline: float) -> pb.DescribeVersionResponse:
        """Describe a version so that another place can make the same."""
        request = pb.DescribeVersionRequest(collection=collection)
        return await self.channel.call(self.stub.DescribeVersion, request, deadline=deadline)

    async def list_keys(self, version: str, cursor: str, limit: int, *, deadline: float) -> pb.ListKeysResponse:
        """List ids and revisions."""
        request = pb.ListKeysRequest(version=version, cursor=cursor, limit=limit)
        return await self.channel.call(self.stub.ListKeys, request, deadline=deadline)

    async def read_records(self, version: str, ids: Sequence[str], *, deadline: float) -> pb.ReadRecordsResponse:
        """Read passages with their vectors and revisions."""
        request = pb.ReadRecordsRequest(version=version, ids=ids)
        return await self.channel.call(self.stub.ReadRecords, request, deadline=deadline)

    async def begin_transfer(
        self, collection: str, source_version: str, notes: str, *, deadline: float
    ) -> collection_pb2.CollectionVersion:
        """Create a version like one of another place."""
        request = pb.BeginTransferRequest(collection=collection, source_version=source_version, notes=notes)
        return (await self.channel.call(self.stub.BeginTransfer, request, deadline=deadline)).version

    async def write_records(
        self,
        version: str,
        copies: Sequence[pb.PassageCopy],
        removals: Sequence[pb.PassageRemoval],
        *,
        model_fingerprint: str,
        token_model_fingerprint: str,
        deadline: float,
    ) -> None:
        """Write and remove passages, each only if it is as it was."""
        request = pb.CopyPassagesRequest(
            version=version,
            passages=copies,
            removals=removals,
            model_fingerprint=model_fingerprint,
            token_model_fingerprint=token_model_fingerprint,
        )
        await self.channel.call(self.stub.CopyPassages, request, deadline=deadline)

    async def complete_transfer(
        self, version: str, passage_count: int, *, deadline: float
    ) -> collection_pb2.CollectionVersion:
        """Record that a version is complete."""
        request = pb.CompleteTransferRequest(version=version, passage_count=passage_count)
        return (await self.channel.call(self.stub.CompleteTransfer, request, deadline=deadline)).version

    async def delete_snapshot(self, collection: str, snapshot: str, *, deadline: float) -> None:
        request = pb.DeleteSnapshotRequest(collection=collection, snapshot=snapshot)
        await self.channel.call(self.stub.DeleteSnapshot, request, deadline=deadline)


def _with_vectors(passages: Sequence[passage_pb2.Passage], vectors: Vectors) -> list[pb.PassageVector]:
    messages = [
        pb.PassageVector(passage=passage, vector=vector)
        for passage, vector in zip(passages, vectors.dense, strict=True)
    ]
    if vectors.tokens:
        for message, tokens in zip(messages, vectors.tokens, strict=True):
            message.tokens.CopyFrom(tokens)
    return messages


def _differences(messages: Iterable[pb.Difference]) -> list[Difference]:
    return [
        Difference(
            message.id,
            message.passage if message.HasField("passage") else None,
            message.revision,
            message.building_revision,
        )
        for message in messages
    ]
