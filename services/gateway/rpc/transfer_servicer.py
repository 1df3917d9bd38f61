"""TransferService: versions on their way to another Sluice, or from one."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

from typing import Any

import grpc

from services.chassis.timing import deadline_of
from services.gateway.collections.embedders import Embedders
from services.gateway.rpc.retriever_client import RetrieverClient
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import transfer_pb2 as pb
from sluice.gateway.v1 import transfer_pb2_grpc
from sluice.retriever.v1 import retriever_pb2

Context = grpc.aio.ServicerContext[Any, Any]

BULK_METHODS = frozenset({"ListKeys", "ReadRecords", "BeginTransfer", "WriteRecords", "CompleteTransfer"})


class TransferServicer(transfer_pb2_grpc.TransferServiceServicer):
    """Passes transfers on to the retriever."""

    def __init__(self, embedders: Embedders, retriever: RetrieverClient, settings: GatewaySettings) -> None:
        self._embedders = embedders
        self._retriever = retriever
        self._settings = settings

    async def DescribeVersion(self, request: pb.DescribeVersionRequest, context: Context) -> pb.DescribeVersionResponse:
        collection = request.collection or self._settings.qdrant_collection
        described = await self._retriever.describe_version(collection, deadline=self._deadline(context))
        return pb.DescribeVersionResponse(version=described.version, notes=described.notes)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        page = await self._retriever.list_keys(
            request.version, request.cursor, request.limit, deadline=self._deadline(context)
        )
        return pb.ListKeysResponse(keys=page.keys, next_cursor=page.next_cursor)

    async def ReadRecords(self, request: pb.ReadRecordsRequest, context: Context) -> pb.ReadRecordsResponse:
        read = await self._retriever.read_records(request.version, request.ids, deadline=self._deadline(context))
        return pb.ReadRecordsResponse(records=read.records, read_count=read.read_count)

    async def BeginTransfer(self, request: pb.BeginTransferRequest, context: Context) -> pb.BeginTransferResponse:
        version = await self._retriever.begin_transfer(
            request.collection, request.source_version, request.notes, deadline=self._deadline(context)
        )
        return pb.BeginTransferResponse(version=version)

    async def WriteRecords(self, request: pb.WriteRecordsRequest, context: Context) -> pb.WriteRecordsResponse:
        copies = [
            retriever_pb2.PassageCopy(
                passage=retriever_pb2.PassageVector(
                    passage=write.record.passage,
                    vector=write.record.vector,
                    tokens=write.record.tokens if write.record.HasField("tokens") else None,
                ),
                revision=write.record.revision,
                building_revision=write.replaced_revision,
            )
            for write in request.writes
        ]
        removals = [retriever_pb2.PassageRemoval(id=key.id, building_revision=key.revision) for key in request.removals]
        await self._retriever.write_records(
            request.version,
            copies,
            removals,
            model_fingerprint=request.model_fingerprint,
            token_model_fingerprint=request.token_model_fingerprint,
            deadline=self._deadline(context),
        )
        return pb.WriteRecordsResponse()

    async def CompleteTransfer(
        self, request: pb.CompleteTransferRequest, context: Context
    ) -> pb.CompleteTransferResponse:
        deadline = self._deadline(context)
        version = await self._retriever.complete_transfer(request.version, request.passage_count, deadline=deadline)
        switched = await self._retriever.switch(version.collection, version.version, deadline=deadline)
        self._embedders.forget(version.collection)
        return pb.CompleteTransferResponse(live=switched.live, previous_version=switched.previous)

    def _deadline(self, context: Context) -> float:
        return deadline_of(context, self._settings.index_deadline_seconds)
