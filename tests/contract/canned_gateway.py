"""A gateway of canned answers: it keeps what it is given, records what it is asked, and fails when it is told to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.chassis import status
from services.chassis.errors import InvalidArgument, SluiceError
from sluice.gateway.v1 import gateway_pb2 as pb
from sluice.gateway.v1 import gateway_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class CannedGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Finds everything that was stored, in the order of storing."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[Any] = []
        self.request_ids: list[str] = []
        self.deadlines: list[float] = []
        self.documents: dict[str, pb.Document] = {}
        self.failures: deque[SluiceError | None] = deque()
        """How the next calls end, one after the other; None is well."""
        self.refused_ids: set[str] = set()
        """Documents that no batch may hold."""
        self.chunked_ids: set[str] = set()
        """Documents that were cut to a length that the caller named."""
        self.hang = False
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.config = pb.GetConfigResponse(
            default_features=pb.Features(dense=True, lexical=True, max_variant_count=5, rerank_candidate_count=50),
            stages=[
                pb.StageConfig(stage=pb.STAGE_EXPAND, address="127.0.0.1:50054", serving=True),
                pb.StageConfig(
                    stage=pb.STAGE_EMBED,
                    address="127.0.0.1:50052",
                    serving=True,
                    model="all-MiniLM-L6-v2",
                    model_fingerprint="f00d",
                    runtime="onnx fp32 on cpu",
                ),
                pb.StageConfig(stage=pb.STAGE_RETRIEVE, address="127.0.0.1:50055", serving=True),
                pb.StageConfig(stage=pb.STAGE_RERANK, address="127.0.0.1:50053", problem="UNAVAILABLE: nobody there"),
            ],
            collection=pb.CollectionConfig(
                name="documents",
                exists=True,
                index_version="documents@1",
                model="all-MiniLM-L6-v2",
                model_fingerprint="f00d",
                dimension=384,
                document_count=7,
                fields={"year": "integer"},
            ),
            release="0.1.0",
        )
        self.stages = [
            _report(pb.STAGE_EXPAND, pb.STAGE_OUTCOME_DEGRADED, "OTHER_STRATEGY_SERVED", "no WordNet", 0.003),
            _report(pb.STAGE_EMBED, pb.STAGE_OUTCOME_RAN, seconds=0.0105, model="all-MiniLM-L6-v2"),
            _report(pb.STAGE_RETRIEVE, pb.STAGE_OUTCOME_RAN, seconds=0.02),
            _report(pb.STAGE_RERANK, pb.STAGE_OUTCOME_SKIPPED, "FEATURE_OFF", "reranking is off for this request"),
        ]

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:  # noqa: N802  # gRPC's name
        """All documents, page by page."""
        await self._receive(request, context)
        start = int(request.page_token or 0)
        found = list(self.documents.values())
        page = found[start : start + request.limit]
        return pb.SearchResponse(
            results=[
                pb.Result(
                    id=document.id,
                    title=document.title,
                    text=document.text,
                    metadata=document.metadata,
                    score=1 / rank,
                    rank=rank,
                    document_id=document.id,
                    chunk=pb.Chunk(number=1, count=2, start=0, end=1) if document.id in self.chunked_ids else None,
                    scores=pb.StageScores(
                        retrieval=0.5 / rank, retrieval_rank=rank + 2, rerank=4.5 if rank == 1 else None
                    ),
                )
                for rank, document in enumerate(page, start=start + 1)
            ],
            next_page_token=str(start + len(page)) if len(found) > start + len(page) else "",
            stages=self.stages,
            features=pb.Features(
                dense=True,
                lexical=True,
                expansion_strategy=pb.EXPANSION_STRATEGY_SYNONYMS,
                max_variant_count=5,
                rerank_candidate_count=50,
            ),
            collection=request.collection or "documents",
            index_version="documents@1",
            request_id=self.request_ids[-1],
            snapshot_version=7,
            arms=[self.arm_of(request.user_id)] if request.user_id else [],
        )

    def arm_of(self, user: str) -> pb.FeatureArm:
        """About every third user has the feature, about every third is compared with them."""
        arms = (pb.ARM_TREATMENT, pb.ARM_CONTROL, pb.ARM_STANDARD)
        return pb.FeatureArm(feature="rerank", arm=arms[sum(user.encode()) % 3], ramp_id="rerank.1")

    async def CompareSearch(  # noqa: N802  # gRPC's name
        self, request: pb.CompareSearchRequest, context: Context
    ) -> pb.CompareSearchResponse:
        """Everything, and everything the other way round, without the first."""
        await self._receive(request, context)
        answers = [
            pb.SearchResponse(
                results=[
                    pb.Result(id=document.id, title=document.title, rank=rank, document_id=document.id)
                    for rank, document in enumerate(documents, start=1)
                ],
                stages=self.stages,
                arms=[pb.FeatureArm(feature="rerank-v1", arm=pb.ARM_STANDARD, reason="NO_USER")],
                snapshot_version=7,
            )
            for documents in (list(self.documents.values()), list(self.documents.values())[:0:-1])
        ]
        reply = pb.CompareSearchResponse(
            standard=answers[0], enhanced=answers[1], depth=10, overlap=0.5, rank_biased_overlap=0.375, persistence=0.9
        )
        reply.standard_duration.FromMilliseconds(40)
        reply.enhanced_duration.FromMilliseconds(140)
        return reply

    async def IndexDocuments(  # noqa: N802  # gRPC's name
        self, request: pb.IndexDocumentsRequest, context: Context
    ) -> pb.IndexDocumentsResponse:
        """Keeps them, or refuses all for one."""
        await self._receive(request, context)
        for place, document in enumerate(request.documents):
            if document.id in self.refused_ids:
                await self._fail(InvalidArgument(f"documents[{place}].metadata.year", "is of another type"), context)
        if request.chunking.chunk_tokens:
            self.chunked_ids |= {document.id for document in request.documents}
        self.documents |= {document.id: document for document in request.documents}
        return pb.IndexDocumentsResponse(
            indexed_count=len(request.documents),
            truncated_ids=[document.id for document in request.documents if len(document.text) > 1000],
            index_version="documents@1",
            model="all-MiniLM-L6-v2",
        )

    async def DeleteDocuments(  # noqa: N802  # gRPC's name
        self, request: pb.DeleteDocumentsRequest, context: Context
    ) -> pb.DeleteDocumentsResponse:
        """Forgets them."""
        await self._receive(request, context)
        known = [identity for identity in request.ids if self.documents.pop(identity, None)]
        return pb.DeleteDocumentsResponse(deleted_count=len(known))

    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> pb.GetConfigResponse:  # noqa: N802  # gRPC's name
        """Says what it was told to say."""
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
    stage: pb.Stage.ValueType,
    outcome: pb.StageOutcome.ValueType,
    reason: str = "",
    detail: str = "",
    seconds: float = 0,
    model: str = "",
) -> pb.StageReport:
    report = pb.StageReport(stage=stage, outcome=outcome, reason=reason, detail=detail, model=model, item_count=3)
    report.duration.FromNanoseconds(round(seconds * 1e9))
    return report


@asynccontextmanager
async def canned_gateway() -> AsyncIterator[CannedGateway]:
    """A canned gateway that listens on a free port."""
    gateway = CannedGateway()
    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server)
    gateway.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield gateway
    finally:
        await server.stop(None)
