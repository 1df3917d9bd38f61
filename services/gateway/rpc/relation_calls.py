"""Calls of the retriever about relations between passages; a part of its client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from services.chassis.client import StageChannel
from services.gateway.collections.store import Written
from services.gateway.search.stages import Candidate, QueryTokens, Reached
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.retriever.v1 import retriever_pb2_grpc
from sluice.type.v1 import filter_pb2, passage_pb2


class RelationCalls:
    """Follows relations, and changes what they are made of."""

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self.stub = retriever_pb2_grpc.RetrieverServiceStub(channel.channel)

    async def expand_relations(
        self,
        collection: str,
        query: str,
        candidates: Sequence[Candidate],
        *,
        filter: filter_pb2.Filter,  # noqa: A002  # the field's word
        hops: int,
        limit: int,
        tokens: QueryTokens | None = None,
        deadline: float,
    ) -> Reached:
        """See `Retriever.expand_relations`."""
        request = pb.ExpandRelationsRequest(
            collection=collection,
            query=query,
            candidates=[pb.ScoredPassage(id=one.passage.id, score=one.score) for one in candidates],
            filter=filter,
            max_hops=hops,
            limit=limit,
            tokens=tokens.vectors if tokens else None,
            token_model_fingerprint=tokens.model.fingerprint if tokens else "",
        )
        reply = await self.channel.call(self.stub.ExpandRelations, request, deadline=deadline)
        found = [
            Candidate(one.passage, one.score, True, one.late_score if one.HasField("late_score") else None, one.path)
            for one in reply.passages
        ]
        bridges = {bridge.id: bridge for bridge in reply.bridges}
        return Reached(found, bridges, reply.followed_count, reply.frequent_count, reply.left_out_count)

    def enrich(
        self, collection: str, *, report: bool, deadline: float
    ) -> AsyncGenerator[pb.EnrichCollectionResponse, None]:
        """Give passages the keys of their relations, and tell how far it is."""
        request = pb.EnrichCollectionRequest(collection=collection, report=report)
        return self.channel.stream(self.stub.EnrichCollection, request, deadline=deadline)

    async def relate(
        self, collection: str, said: Sequence[tuple[str, passage_pb2.Relations]], *, deadline: float
    ) -> Written:
        """Replace what documents say of their relations."""
        documents = [pb.RelatedDocument(id=one, relations=relations) for one, relations in said]
        request = pb.RelatePassagesRequest(collection=collection, documents=documents)
        reply = await self.channel.call(self.stub.RelatePassages, request, deadline=deadline)
        return Written(
            reply.changed_count,
            building_version=reply.building_version,
            changed_ids=list(reply.changed_ids),
            missing_ids=list(reply.missing_ids),
        )
