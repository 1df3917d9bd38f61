"""A gateway of canned answers that records requests and fails on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc

from services.chassis import status
from services.chassis.errors import InvalidArgument, SluiceError
from sluice.gateway.v1 import (
    collections_pb2,
    collections_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from sluice.type.v1 import (
    arm_pb2,
    collection_pb2,
    facet_pb2,
    features_pb2,
    filter_pb2,
    model_pb2,
    passage_pb2,
    stage_pb2,
)

Context = grpc.aio.ServicerContext[Any, Any]


MINILM = model_pb2.ModelInfo(
    name="all-MiniLM-L6-v2", fingerprint="f00d", dimension=384, backend="onnx", precision="fp32", device="cpu"
)


class CannedGateway(
    search_pb2_grpc.SearchServiceServicer,
    documents_pb2_grpc.DocumentServiceServicer,
    collections_pb2_grpc.CollectionServiceServicer,
    status_pb2_grpc.StatusServiceServicer,
    feedback_pb2_grpc.FeedbackServiceServicer,
):
    """A gateway that finds all documents, in the order of storing."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[Any] = []
        self.request_ids: list[str] = []
        self.deadlines: list[float] = []
        self.documents: dict[str, documents_pb2.Document] = {}
        self.failures: deque[SluiceError | None] = deque()
        """Errors of the next calls, one after the other; None is success."""
        self.refused_ids: set[str] = set()
        """Documents and events that it refuses."""
        self.event_ids: set[str] = set()
        self.experiments: list[search_pb2.ExperimentExposure] = []
        """The experiments that each request is a part of."""
        self.teams: dict[str, str] = {}
        """The arms that put documents into answers."""
        self.chunked_ids: set[str] = set()
        """Documents that were cut into chunks."""
        self.hang = False
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.versions = [
            collection_pb2.CollectionVersion(
                collection="documents",
                version="documents@1",
                live=True,
                state=collection_pb2.VERSION_STATE_READY,
                model=MINILM,
                passage_count=7,
                fields={"year": filter_pb2.FIELD_TYPE_INTEGER},
            )
        ]
        self.config = status_pb2.GetConfigResponse(
            default_features=features_pb2.Features(
                dense=True,
                lexical=True,
                expansion=False,
                expansion_strategy=features_pb2.EXPANSION_STRATEGY_SYNONYMS,
                max_variant_count=5,
                rerank=False,
                rerank_candidate_count=50,
            ),
            stages=[
                status_pb2.StageConfig(stage=stage_pb2.STAGE_EXPAND, address="127.0.0.1:50054", serving=True),
                status_pb2.StageConfig(
                    stage=stage_pb2.STAGE_EMBED, address="127.0.0.1:50052", serving=True, model=MINILM
                ),
                status_pb2.StageConfig(stage=stage_pb2.STAGE_RETRIEVE, address="127.0.0.1:50055", serving=True),
                status_pb2.StageConfig(
                    stage=stage_pb2.STAGE_RERANK, address="127.0.0.1:50053", problem="UNAVAILABLE: nobody there"
                ),
            ],
            collection=self.versions[0],
            release="0.1.0",
        )
        self.stages = [
            _report("EXPAND", "DEGRADED", "OTHER_STRATEGY_SERVED", "no WordNet", milliseconds=3),
            _report("EMBED", "RAN", milliseconds=10.5, model="all-MiniLM-L6-v2"),
            _report("RETRIEVE", "RAN", milliseconds=20),
            _report("RERANK", "SKIPPED", "FEATURE_OFF", "reranking is off for this request"),
        ]

    async def Search(self, request: search_pb2.SearchRequest, context: Context) -> search_pb2.SearchResponse:  # noqa: N802  # gRPC's name
        """Return all documents, page by page."""
        await self._receive(request, context)
        start = int(request.page_token or 0)
        found = list(self.documents.values())
        page = found[start : start + (request.limit if request.HasField("limit") else 10)]
        return search_pb2.SearchResponse(
            results=[
                search_pb2.Result(
                    passage=passage_pb2.Passage(
                        id=document.id,
                        document_id=document.id,
                        title=document.title,
                        text=document.text,
                        metadata=document.metadata,
                        chunk=next(iter(self._chunks(document)), None),
                    ),
                    score=1 / rank,
                    rank=rank,
                    scores=search_pb2.StageScores(
                        retrieval=0.5 / rank,
                        retrieval_rank=rank + 2,
                        rerank=4.5 if rank == 1 else None,
                        late=0.75 if rank == 1 else None,
                        relevance=0.5 if rank == 1 else None,
                    ),
                    team=self.teams.get(document.id, ""),
                    highlights=[passage_pb2.Highlight(start=0, end=4, score=0.5)] if request.highlights else [],
                )
                for rank, document in enumerate(page, start=start + 1)
            ],
            next_page_token=str(start + len(page)) if len(found) > start + len(page) else "",
            stages=self.stages,
            features=self.config.default_features,
            collection=request.collection or "documents",
            index_version="documents@1",
            request_id=self.request_ids[-1],
            snapshot_version=7,
            arms=[self.arm_of(request.user_id)] if request.user_id else [],
            impression_token=b"signed " + self.request_ids[-1].encode(),
            experiments=self.experiments,
        )

    async def RecordEvents(  # noqa: N802  # gRPC's name
        self, request: feedback_pb2.RecordEventsRequest, context: Context
    ) -> feedback_pb2.RecordEventsResponse:
        """Keep the ids of events, and refuse some."""
        await self._receive(request, context)
        refused = [place for place, event in enumerate(request.events) if event.event_id in self.refused_ids]
        ids = {event.event_id for event in request.events} - self.refused_ids
        new = len(ids - self.event_ids)
        self.event_ids |= ids
        return feedback_pb2.RecordEventsResponse(
            stored_count=new,
            duplicate_count=len(request.events) - len(refused) - new,
            rejections=[
                feedback_pb2.EventRejection(
                    index=place, reason=feedback_pb2.EVENT_REJECTION_REASON_NOT_SERVED, detail="no such answer"
                )
                for place in refused
            ],
        )

    def arm_of(self, user: str) -> search_pb2.FeatureArm:
        """Choose an arm: about a third of the users each."""
        arms = (arm_pb2.ARM_TREATMENT, arm_pb2.ARM_CONTROL, arm_pb2.ARM_STANDARD)
        return search_pb2.FeatureArm(feature="rerank", arm=arms[sum(user.encode()) % 3], ramp_id="rerank.1")

    async def CompareSearch(  # noqa: N802  # gRPC's name
        self, request: search_pb2.CompareSearchRequest, context: Context
    ) -> search_pb2.CompareSearchResponse:
        """Return all documents, and all but the first in reverse order."""
        await self._receive(request, context)
        answers = [
            search_pb2.SearchResponse(
                results=[
                    search_pb2.Result(
                        passage=passage_pb2.Passage(id=document.id, document_id=document.id, title=document.title),
                        rank=rank,
                    )
                    for rank, document in enumerate(documents, start=1)
                ],
                stages=self.stages,
                arms=[
                    search_pb2.FeatureArm(
                        feature="rerank-v1", arm=arm_pb2.ARM_STANDARD, reason=search_pb2.ARM_REASON_NO_USER
                    )
                ],
                snapshot_version=7,
            )
            for documents in (list(self.documents.values()), list(self.documents.values())[:0:-1])
        ]
        reply = search_pb2.CompareSearchResponse(
            standard=answers[0], enhanced=answers[1], depth=10, overlap=0.5, rank_biased_overlap=0.375, persistence=0.9
        )
        reply.standard_duration.FromMilliseconds(40)
        reply.enhanced_duration.FromMilliseconds(140)
        return reply

    async def CountByField(  # noqa: N802  # gRPC's name
        self, request: search_pb2.CountByFieldRequest, context: Context
    ) -> search_pb2.CountByFieldResponse:
        """Count three values of each field."""
        await self._receive(request, context)
        values = [
            filter_pb2.Value(string_value="[b]class[/b]"),
            filter_pb2.Value(integer_value=7),
            filter_pb2.Value(bool_value=True),
        ]
        counts = [facet_pb2.ValueCount(value=value, passage_count=3 - place) for place, value in enumerate(values)]
        return search_pb2.CountByFieldResponse(
            fields=[
                facet_pb2.FieldCounts(field=name, type=filter_pb2.FIELD_TYPE_KEYWORD, values=counts)
                for name in request.fields
            ],
            passage_count=1200,
            collection=request.collection or "documents",
            index_version="documents@1",
        )

    async def IndexDocuments(  # noqa: N802  # gRPC's name
        self, request: documents_pb2.IndexDocumentsRequest, context: Context
    ) -> documents_pb2.IndexDocumentsResponse:
        """Keep the documents, or refuse all for one."""
        await self._receive(request, context)
        for place, document in enumerate(request.documents):
            if document.id in self.refused_ids:
                await self._fail(InvalidArgument(f"documents[{place}].metadata.year", "is of another type"), context)
        if request.chunking.chunk_tokens:
            self.chunked_ids |= {document.id for document in request.documents}
        replaced = sum(document.id in self.documents for document in request.documents)
        self.documents |= {document.id: document for document in request.documents}
        return documents_pb2.IndexDocumentsResponse(
            indexed_count=len(request.documents),
            truncated_ids=[document.id for document in request.documents if len(document.text) > 1000],
            index_version="documents@1",
            model="all-MiniLM-L6-v2",
            replaced_count=replaced,
        )

    async def DeleteDocuments(  # noqa: N802  # gRPC's name
        self, request: documents_pb2.DeleteDocumentsRequest, context: Context
    ) -> documents_pb2.DeleteDocumentsResponse:
        """Delete the documents."""
        await self._receive(request, context)
        known = [identity for identity in request.ids if self.documents.pop(identity, None)]
        return documents_pb2.DeleteDocumentsResponse(deleted_count=len(known))

    async def GetDocuments(  # noqa: N802  # gRPC's name
        self, request: documents_pb2.GetDocumentsRequest, context: Context
    ) -> documents_pb2.GetDocumentsResponse:
        """Return the documents that it keeps."""
        await self._receive(request, context)
        return documents_pb2.GetDocumentsResponse(
            documents=[
                self._stored(self.documents[identity]) for identity in request.ids if identity in self.documents
            ],
            missing_ids=[identity for identity in request.ids if identity not in self.documents],
        )

    async def ListDocuments(  # noqa: N802  # gRPC's name
        self, request: documents_pb2.ListDocumentsRequest, context: Context
    ) -> documents_pb2.ListDocumentsResponse:
        """List all documents, page by page."""
        await self._receive(request, context)
        start = int(request.page_token or 0)
        end = start + (request.page_size or 20)
        return documents_pb2.ListDocumentsResponse(
            documents=[self._stored(document) for document in list(self.documents.values())[start:end]],
            next_page_token=str(end) if end < len(self.documents) else "",
        )

    async def ListCollections(  # noqa: N802  # gRPC's name
        self, request: collections_pb2.ListCollectionsRequest, context: Context
    ) -> collections_pb2.ListCollectionsResponse:
        """List one version a page."""
        await self._receive(request, context)
        place = int(request.page_token or 0)
        found = [version for version in self.versions if request.collection in ("", version.collection)]
        return collections_pb2.ListCollectionsResponse(
            versions=[
                collections_pb2.ListedVersion(version=version, model_served=True)
                for version in found[place : place + 1]
            ],
            next_page_token=str(place + 1) if place + 1 < len(found) else "",
        )

    async def CreateCollection(  # noqa: N802  # gRPC's name
        self, request: collections_pb2.CreateCollectionRequest, context: Context
    ) -> collections_pb2.CreateCollectionResponse:
        """Make an empty collection."""
        await self._receive(request, context)
        self.versions.append(
            collection_pb2.CollectionVersion(
                collection=request.collection,
                version=f"{request.collection}@1",
                live=True,
                state=collection_pb2.VERSION_STATE_READY,
                model=MINILM,
            )
        )
        return collections_pb2.CreateCollectionResponse(live=self.versions[-1])

    async def DeleteCollection(  # noqa: N802  # gRPC's name
        self, request: collections_pb2.DeleteCollectionRequest, context: Context
    ) -> collections_pb2.DeleteCollectionResponse:
        """Delete all versions of a collection."""
        await self._receive(request, context)
        gone = [version for version in self.versions if version.collection == request.collection]
        self.versions = [version for version in self.versions if version not in gone]
        return collections_pb2.DeleteCollectionResponse(versions=[version.version for version in gone])

    def _stored(self, document: documents_pb2.Document) -> documents_pb2.StoredDocument:
        return documents_pb2.StoredDocument(document=document, chunks=self._chunks(document))

    def _chunks(self, document: documents_pb2.Document) -> list[passage_pb2.Chunk]:
        return [passage_pb2.Chunk(number=1, count=2, start=0, end=1)] if document.id in self.chunked_ids else []

    async def GetConfig(self, request: status_pb2.GetConfigRequest, context: Context) -> status_pb2.GetConfigResponse:  # noqa: N802  # gRPC's name
        """Return the given configuration."""
        await self._receive(request, context)
        return self.config

    async def _receive(self, request: Any, context: Context) -> None:
        self.requests.append(request)
        self.request_ids.append(str(dict(context.invocation_metadata() or ())["x-request-id"]))
        self.deadlines.append(context.time_remaining() or float("inf"))
        if self.hang:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            await self._fail(failure, context)

    async def _fail(self, error: SluiceError, context: Context) -> None:
        await context.abort(status.code_of(error), error.message, status.trailers_of(error))


def _report(
    stage: str, outcome: str, reason: str = "", detail: str = "", milliseconds: float = 0, model: str = ""
) -> search_pb2.StageReport:
    return search_pb2.StageReport(
        stage=stage_pb2.Stage.Value(f"STAGE_{stage}"),
        outcome=search_pb2.StageOutcome.Value(f"STAGE_OUTCOME_{outcome}"),
        reason=reason,
        detail=detail,
        duration=timedelta(milliseconds=milliseconds),
        model=model,
        item_count=3,
    )


@asynccontextmanager
async def canned_gateway() -> AsyncIterator[CannedGateway]:
    """A canned gateway that listens on a free port."""
    gateway = CannedGateway()
    server = grpc.aio.server()
    search_pb2_grpc.add_SearchServiceServicer_to_server(gateway, server)
    documents_pb2_grpc.add_DocumentServiceServicer_to_server(gateway, server)
    collections_pb2_grpc.add_CollectionServiceServicer_to_server(gateway, server)
    status_pb2_grpc.add_StatusServiceServicer_to_server(gateway, server)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(gateway, server)
    gateway.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(None)
