"""One typed client a stage: the gateway's values to protobuf and back, one gRPC call each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.chassis.client import StageChannel
from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.gateway.collections.embedders import EmbeddingModel, ModelOfIndex
from services.gateway.collections.reindexing import PAGE, Begun, Comparison, Deleted, Difference
from services.gateway.collections.verification import Sample, Sampled
from services.gateway.rollout.table import ExpansionStrategy
from services.gateway.search.stages import (
    Candidate,
    Chunk,
    Embedded,
    Expanded,
    Passage,
    Reranked,
    Retrieved,
    SearchVariant,
    Upserted,
    Variant,
)
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc

_STRATEGIES = {
    ExpansionStrategy.SYNONYMS: expander_pb2.EXPANSION_STRATEGY_SYNONYMS,
    ExpansionStrategy.MULTI_QUERY: expander_pb2.EXPANSION_STRATEGY_MULTI_QUERY,
}
# Passages are embedded in slices, so that one call stays far below the message limit and a slice can be retried.
EMBED_SLICE = 128
IDS_A_CALL = 1000


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The model behind a stage, for people."""

    name: str
    fingerprint: str
    runtime: str


class ExpanderClient:
    """Calls the expander."""

    service = "sluice.expander.v1.ExpanderService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)

    async def expand(
        self, query: str, strategy: ExpansionStrategy, max_variant_count: int, *, deadline: float
    ) -> Expanded:
        """The query and its variants."""
        request = expander_pb2.ExpandQueryRequest(
            query=query, strategy=_STRATEGIES[strategy], max_variant_count=max_variant_count
        )
        reply = await self.channel.call(self._stub.ExpandQuery, request, deadline=deadline)
        variants = [Variant(variant.text, variant.weight) for variant in reply.variants]
        return Expanded(variants, reply.degraded_reason)


class EmbedderClient:
    """Calls the embedder."""

    service = "sluice.embedder.v1.EmbedderService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(channel.channel)

    async def embed_queries(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Vectors of queries, somebody waiting."""
        return await self._embed(texts, embedder_pb2.TEXT_KIND_QUERY, embedder_pb2.PRIORITY_INTERACTIVE, deadline)

    async def embed_documents(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        """Vectors of documents, in bulk."""
        # One slice after the other: a call with very many chunks must not fill the embedder's queue.
        parts = [
            await self._embed(
                texts[start : start + EMBED_SLICE],
                embedder_pb2.TEXT_KIND_DOCUMENT,
                embedder_pb2.PRIORITY_BULK,
                deadline,
            )
            for start in range(0, len(texts), EMBED_SLICE)
        ]
        return Embedded(
            vectors=[vector for part in parts for vector in part.vectors],
            model=parts[0].model,
            fingerprint=parts[0].fingerprint,
            pseudo=parts[0].pseudo,
            truncated=[cut for part in parts for cut in part.truncated],
            dimension=parts[0].dimension,
            precision=parts[0].precision,
        )

    async def split_documents(
        self, documents: Sequence[Passage], *, chunk_tokens: int, overlap_tokens: int | None, deadline: float
    ) -> list[list[tuple[int, int]]]:
        """Start and end of the chunks of every document."""
        request = embedder_pb2.SplitTextsRequest(
            texts=[embedder_pb2.TitledText(title=document.title, text=document.text) for document in documents],
            chunk_tokens=chunk_tokens,
            overlap_tokens=overlap_tokens,
        )
        try:
            reply = await self.channel.call(self._stub.SplitTexts, request, deadline=deadline)
        except InvalidArgument as error:
            raise InvalidArgument(f"chunking.{error.field}", error.problem) from None
        return [[(chunk.start, chunk.end) for chunk in text.chunks] for text in reply.texts]

    async def model(self, *, deadline: float) -> EmbeddingModel:
        """The model that serves."""
        reply = await self.channel.call(self._stub.GetModel, embedder_pb2.GetModelRequest(), deadline=deadline)
        model = reply.model
        runtime = f"{model.backend} {model.precision} on {model.device}"
        return EmbeddingModel(
            model.name, model.fingerprint, model.dimension, model.precision, runtime, pseudo=model.pseudo
        )

    async def _embed(
        self,
        texts: Sequence[str],
        kind: embedder_pb2.TextKind.ValueType,
        priority: embedder_pb2.Priority.ValueType,
        deadline: float,
    ) -> Embedded:
        request = embedder_pb2.EmbedTextsRequest(texts=texts, kind=kind, priority=priority)
        reply = await self.channel.call(self._stub.EmbedTexts, request, deadline=deadline)
        stride = reply.dimension * 4
        block = reply.vectors
        return Embedded(
            vectors=[block[start : start + stride] for start in range(0, len(block), stride)],
            model=reply.model.name,
            fingerprint=reply.model.fingerprint,
            pseudo=reply.model.pseudo,
            truncated=[text.truncated for text in reply.texts],
            dimension=reply.dimension,
            precision=reply.model.precision,
        )


class RerankerClient:
    """Calls the reranker."""

    service = "sluice.reranker.v1.RerankerService"

    def __init__(self, channel: StageChannel, *, somebody_waits: bool = True) -> None:
        self.channel = channel
        self._priority = reranker_pb2.PRIORITY_INTERACTIVE if somebody_waits else reranker_pb2.PRIORITY_BULK
        self._stub = reranker_pb2_grpc.RerankerServiceStub(channel.channel)

    async def rerank(self, query: str, passages: Sequence[str], *, deadline: float) -> Reranked:
        """One score a passage."""
        request = reranker_pb2.RerankPassagesRequest(query=query, passages=passages, priority=self._priority)
        reply = await self.channel.call(self._stub.RerankPassages, request, deadline=deadline)
        return Reranked(list(reply.scores), reply.model.name)

    async def model(self, *, deadline: float) -> ModelCard:
        """The model that serves."""
        reply = await self.channel.call(self._stub.GetModel, reranker_pb2.GetModelRequest(), deadline=deadline)
        model = reply.model
        return ModelCard(model.name, model.fingerprint, f"{model.backend} {model.precision} on {model.device}")


@dataclass(frozen=True, slots=True)
class CollectionCard:
    """A collection, for people."""

    index_version: str
    model: str
    model_fingerprint: str
    dimension: int
    passage_count: int
    fields: dict[str, str]
    created: datetime


class RetrieverClient:
    """Calls the retriever."""

    service = "sluice.retriever.v1.RetrieverService"

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self._stub = retriever_pb2_grpc.RetrieverServiceStub(channel.channel)

    async def search(
        self,
        collection: str,
        variants: Sequence[SearchVariant],
        *,
        filter: bytes,  # noqa: A002  # the field's word
        limit: int,
        dense_weight: float,
        lexical_weight: float,
        model_fingerprint: str,
        deadline: float,
    ) -> Retrieved:
        """The best candidates over all variants."""
        request = retriever_pb2.SearchPassagesRequest(
            collection=collection,
            variants=[
                retriever_pb2.QueryVariant(text=variant.text, vector=variant.vector, weight=variant.weight)
                for variant in variants
            ],
            # The gateway's filter and the retriever's are the same on the wire.
            filter=retriever_pb2.Filter.FromString(filter),
            limit=limit,
            dense_weight=dense_weight,
            lexical_weight=lexical_weight,
            model_fingerprint=model_fingerprint,
        )
        reply = await self.channel.call(self._stub.SearchPassages, request, deadline=deadline)
        candidates = [Candidate(_passage(candidate.passage), candidate.score) for candidate in reply.candidates]
        return Retrieved(candidates, reply.index_version)

    async def create_collection(self, collection: str, embedded: Embedded, *, deadline: float) -> None:
        """Creates a collection for the model that made the vectors."""
        request = retriever_pb2.CreateCollectionRequest(
            collection=collection,
            model=_model(embedded.model, embedded),
        )
        await self.channel.call(self._stub.CreateCollection, request, deadline=deadline)

    async def upsert(
        self,
        collection: str,
        passages: Sequence[Passage],
        vectors: Sequence[bytes],
        *,
        model_fingerprint: str,
        deadline: float,
    ) -> Upserted:
        """Stores passages with their vectors."""
        request = retriever_pb2.UpsertPassagesRequest(
            collection=collection,
            passages=[
                retriever_pb2.PassageVector(passage=_passage_message(passage), vector=vector)
                for passage, vector in zip(passages, vectors, strict=True)
            ],
            model_fingerprint=model_fingerprint,
        )
        try:
            reply = await self.channel.call(self._stub.UpsertPassages, request, deadline=deadline)
        except InvalidArgument as error:
            if error.field.endswith(".vector"):  # no caller's fault
                raise FailedPrecondition(
                    f"the embedder's vectors do not fit the collection: {error.message}", reason=error.reason
                ) from None
            raise
        return Upserted(reply.upserted_count, reply.index_version, reply.building_version, list(reply.changed_ids))

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Deleted:
        """Deletes passages; how many existed."""
        request = retriever_pb2.DeletePassagesRequest(collection=collection, ids=ids)
        reply = await self.channel.call(self._stub.DeletePassages, request, deadline=deadline)
        return Deleted(reply.deleted_count, reply.building_version, list(reply.changed_ids))

    async def model_of(self, collection: str, *, deadline: float) -> ModelOfIndex:
        """What made the vectors of a collection's live version."""
        request = retriever_pb2.GetCollectionRequest(collection=collection)
        found = (await self.channel.call(self._stub.GetCollection, request, deadline=deadline)).collection
        return ModelOfIndex(found.index_version, found.model.name, found.model.fingerprint)

    async def versions(self, *, deadline: float) -> Sequence[retriever_pb2.Collection]:
        """All versions, as the retriever describes them."""
        request = retriever_pb2.ListCollectionsRequest()
        return (await self.channel.call(self._stub.ListCollections, request, deadline=deadline)).versions

    async def create_version(self, collection: str, model: EmbeddingModel, *, deadline: float) -> Begun:
        """The version to be filled by a model, new or begun before."""
        request = retriever_pb2.CreateVersionRequest(
            collection=collection,
            model=_model(model.name, model),
        )
        reply = await self.channel.call(self._stub.CreateVersion, request, deadline=deadline)
        return Begun(reply.version.index_version, reply.live.index_version, reply.live.passage_count)

    async def compare(
        self,
        collection: str,
        version: str,
        *,
        ids: Sequence[str] = (),
        of_building: bool = False,
        token: str = "",
        limit: int = PAGE,
        deadline: float,
    ) -> Comparison:
        """What a version that is being built does not have as the live version has it."""
        if not ids:
            return await self._compare(collection, version, (), of_building, token, limit, deadline)
        parts = [
            await self._compare(collection, version, ids[start : start + IDS_A_CALL], False, "", limit, deadline)
            for start in range(0, len(ids), IDS_A_CALL)
        ]
        return Comparison([difference for part in parts for difference in part.differences], len(ids), "")

    async def _compare(
        self,
        collection: str,
        version: str,
        ids: Sequence[str],
        of_building: bool,
        token: str,
        limit: int,
        deadline: float,
    ) -> Comparison:
        request = retriever_pb2.ComparePassagesRequest(
            collection=collection,
            version=version,
            ids=ids,
            side=retriever_pb2.SIDE_BUILDING if of_building else retriever_pb2.SIDE_LIVE,
            page_token=token,
            page_size=limit,
        )
        reply = await self.channel.call(self._stub.ComparePassages, request, deadline=deadline)
        differences = [
            Difference(
                difference.id,
                _passage(difference.passage).reading,
                difference.passage.SerializeToString() if difference.HasField("passage") else b"",
                difference.revision,
                difference.building_revision,
            )
            for difference in reply.differences
        ]
        return Comparison(differences, reply.compared_count, reply.next_page_token)

    async def copy(
        self,
        version: str,
        differences: Sequence[Difference],
        vectors: Sequence[bytes],
        gone: Sequence[Difference],
        *,
        model_fingerprint: str,
        deadline: float,
    ) -> None:
        """Brings differences into a version that is being built."""
        request = retriever_pb2.CopyPassagesRequest(
            version=version,
            passages=[
                retriever_pb2.PassageCopy(
                    passage=retriever_pb2.PassageVector(
                        passage=retriever_pb2.Passage.FromString(difference.passage), vector=vector
                    ),
                    revision=difference.revision,
                    building_revision=difference.building_revision,
                )
                for difference, vector in zip(differences, vectors, strict=True)
            ],
            removals=[
                retriever_pb2.PassageRemoval(id=difference.id, building_revision=difference.building_revision)
                for difference in gone
            ],
            model_fingerprint=model_fingerprint,
        )
        await self.channel.call(self._stub.CopyPassages, request, deadline=deadline)

    async def complete_version(self, version: str, *, deadline: float) -> None:
        """Records that a version is complete."""
        request = retriever_pb2.CompleteVersionRequest(version=version)
        await self.channel.call(self._stub.CompleteVersion, request, deadline=deadline)

    async def abandon_version(self, version: str, *, deadline: float) -> None:
        """Ends the building of a version."""
        request = retriever_pb2.AbandonVersionRequest(version=version)
        await self.channel.call(self._stub.AbandonVersion, request, deadline=deadline)

    async def sample(self, collection: str, limit: int, *, deadline: float) -> Sample:
        """Passages chosen by chance, with their vectors."""
        request = retriever_pb2.SamplePassagesRequest(collection=collection, limit=limit)
        reply = await self.channel.call(self._stub.SamplePassages, request, deadline=deadline)
        return Sample(
            [Sampled(_passage(sampled.passage), sampled.vector) for sampled in reply.passages], reply.passage_count
        )

    async def get(self, collection: str, ids: Sequence[str], *, deadline: float) -> Sequence[Passage]:
        """The passages that exist."""
        request = retriever_pb2.GetPassagesRequest(collection=collection, ids=ids)
        reply = await self.channel.call(self._stub.GetPassages, request, deadline=deadline)
        return [_passage(passage) for passage in reply.passages]

    async def switched(
        self, collection: str, version: str, *, deadline: float
    ) -> retriever_pb2.SwitchCollectionResponse:
        """Makes a version live, by default the one before."""
        request = retriever_pb2.SwitchCollectionRequest(collection=collection, version=version)
        return await self.channel.call(self._stub.SwitchCollection, request, deadline=deadline)

    async def switch(self, collection: str, version: str, *, deadline: float) -> str:
        """Makes a version live; the one that was live before."""
        return (await self.switched(collection, version, deadline=deadline)).previous_version

    async def drop_version(self, version: str, *, deadline: float) -> None:
        """Deletes a version that is not live."""
        request = retriever_pb2.DropVersionRequest(version=version)
        await self.channel.call(self._stub.DropVersion, request, deadline=deadline)

    async def create_snapshot(self, collection: str, *, deadline: float) -> retriever_pb2.Snapshot:
        """Copies a version."""
        request = retriever_pb2.CreateSnapshotRequest(collection=collection)
        return (await self.channel.call(self._stub.CreateSnapshot, request, deadline=deadline)).snapshot

    async def snapshots(self, collection: str, *, deadline: float) -> Sequence[retriever_pb2.Snapshot]:
        """The copies of a collection's versions."""
        request = retriever_pb2.ListSnapshotsRequest(collection=collection)
        return (await self.channel.call(self._stub.ListSnapshots, request, deadline=deadline)).snapshots

    async def restore_snapshot(self, collection: str, snapshot: str, *, deadline: float) -> str:
        """The new version that a copy was made into."""
        request = retriever_pb2.RestoreSnapshotRequest(collection=collection, snapshot=snapshot)
        reply = await self.channel.call(self._stub.RestoreSnapshot, request, deadline=deadline)
        return reply.version.index_version

    async def delete_snapshot(self, collection: str, snapshot: str, *, deadline: float) -> None:
        """Deletes a copy."""
        request = retriever_pb2.DeleteSnapshotRequest(collection=collection, snapshot=snapshot)
        await self.channel.call(self._stub.DeleteSnapshot, request, deadline=deadline)

    async def collection(self, name: str, *, deadline: float) -> CollectionCard | None:
        """A collection, or None where there is none of that name."""
        request = retriever_pb2.GetCollectionRequest(collection=name)
        try:
            reply = await self.channel.call(self._stub.GetCollection, request, deadline=deadline)
        except NotFound:
            return None
        found = reply.collection
        fields = {
            field: retriever_pb2.FieldType.Name(kind).removeprefix("FIELD_TYPE_").lower()
            for field, kind in found.fields.items()
        }
        return CollectionCard(
            found.index_version,
            found.model.name,
            found.model.fingerprint,
            found.model.dimension,
            found.passage_count,
            fields,
            found.create_time.ToDatetime(UTC),
        )


def _model(name: str, made_by: Embedded | EmbeddingModel) -> retriever_pb2.CollectionModel:
    return retriever_pb2.CollectionModel(
        name=name, fingerprint=made_by.fingerprint, dimension=made_by.dimension, precision=made_by.precision
    )


def _passage(message: retriever_pb2.Passage) -> Passage:
    metadata = {field: value.SerializeToString() for field, value in message.metadata.items()}
    part = message.chunk
    chunk = (
        Chunk(part.document_id, part.number, part.count, part.start, part.end) if message.HasField("chunk") else None
    )
    return Passage(message.id, message.title, message.text, metadata, chunk)


def _passage_message(passage: Passage) -> retriever_pb2.Passage:
    metadata = {field: retriever_pb2.Value.FromString(value) for field, value in passage.metadata.items()}
    message = retriever_pb2.Passage(id=passage.id, title=passage.title, text=passage.text, metadata=metadata)
    if chunk := passage.chunk:
        message.chunk.document_id = chunk.document_id
        message.chunk.number, message.chunk.count = chunk.number, chunk.count
        message.chunk.start, message.chunk.end = chunk.start, chunk.end
    return message
