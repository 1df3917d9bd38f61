"""DocumentService: documents in and out."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

from typing import Any

import grpc

from services.chassis.timing import deadline_of
from services.chassis.validation import check_collection, check_count
from services.gateway.collections.documents import Chunking, from_stored, to_passage
from services.gateway.collections.following import Writing
from services.gateway.collections.indexing import Indexing
from services.gateway.rpc.ownership import claim
from services.gateway.rpc.retriever_client import DOCUMENTS_A_CALL, RetrieverClient
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import documents_pb2 as pb
from sluice.gateway.v1 import documents_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_DOCUMENTS = 512
MAX_IDS = 1000
BULK_METHODS = frozenset({"IndexDocuments", "DeleteDocuments", "RelateDocuments"})


class DocumentsServicer(documents_pb2_grpc.DocumentServiceServicer):
    """Validates requests and delegates them to indexing and the retriever."""

    def __init__(
        self, indexing: Indexing, writing: Writing, retriever: RetrieverClient, settings: GatewaySettings
    ) -> None:
        self._indexing = indexing
        self._writing = writing
        self._retriever = retriever
        self._settings = settings

    async def IndexDocuments(self, request: pb.IndexDocumentsRequest, context: Context) -> pb.IndexDocumentsResponse:
        check_count("documents", len(request.documents), MAX_DOCUMENTS)
        check_collection("collection", request.collection)
        claim(request.documents)
        indexed = await self._indexing.index(
            self._name(request.collection),
            [to_passage(document) for document in request.documents],
            chunking=Chunking.from_proto(request.chunking) if request.HasField("chunking") else None,
            deadline=deadline_of(context, self._settings.index_deadline_seconds),
        )
        return indexed.to_proto()

    async def DeleteDocuments(self, request: pb.DeleteDocumentsRequest, context: Context) -> pb.DeleteDocumentsResponse:
        check_count("ids", len(request.ids), MAX_IDS)
        check_collection("collection", request.collection)
        deleted = await self._writing.delete(
            self._name(request.collection), request.ids, deadline=self._deadline(context)
        )
        return pb.DeleteDocumentsResponse(deleted_count=deleted.count)

    async def RelateDocuments(self, request: pb.RelateDocumentsRequest, context: Context) -> pb.RelateDocumentsResponse:
        check_count("documents", len(request.documents), DOCUMENTS_A_CALL)
        check_collection("collection", request.collection)
        related = await self._writing.relate(
            self._name(request.collection),
            [(one.id, one.relations) for one in request.documents],
            deadline=self._deadline(context),
        )
        return pb.RelateDocumentsResponse(changed_count=related.count, missing_ids=related.missing_ids)

    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Context) -> pb.GetDocumentsResponse:
        check_count("ids", len(request.ids), DOCUMENTS_A_CALL)
        stored = await self._retriever.documents(
            self._name(request.collection), request.ids, deadline=self._deadline(context)
        )
        documents = [from_stored(document.passages[0], document.chunks) for document in stored.documents]
        found = {document.document.id for document in documents} | set(stored.remaining_ids)
        return pb.GetDocumentsResponse(
            documents=documents,
            missing_ids=[identity for identity in request.ids if identity not in found],
            remaining_ids=stored.remaining_ids,
        )

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        stored = await self._retriever.list_documents(
            self._name(request.collection),
            filter=request.filter,
            page_size=request.page_size,
            page_token=request.page_token,
            deadline=self._deadline(context),
        )
        return pb.ListDocumentsResponse(
            documents=[from_stored(document.passages[0], document.chunks) for document in stored.documents],
            next_page_token=stored.next_page_token,
        )

    def _name(self, collection: str) -> str:
        return collection or self._settings.qdrant_collection

    def _deadline(self, context: Context) -> float:
        return deadline_of(context, self._settings.default_deadline_seconds)
