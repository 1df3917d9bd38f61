"""Calls of the retriever that find passages, and those about their relations; a part of its client."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Sequence
from typing import Self

from services.chassis.client import StageChannel
from services.chassis.errors import InvalidArgument
from services.gateway.collections.store import Written
from services.gateway.rpc.ownership import owners, unnamed_fields
from services.gateway.search.arms.moments import Moments
from services.gateway.search.stages import Candidate, QueryTokens, Reached, Retrieved, SearchVariant
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.retriever.v1 import retriever_pb2_grpc
from sluice.type.v1 import filter_pb2, passage_pb2


class FindingCalls:
    """Searches, follows relations, and changes what these are made of."""

    def __init__(self, channel: StageChannel) -> None:
        self.channel = channel
        self.stub = retriever_pb2_grpc.RetrieverServiceStub(channel.channel)
        self._search = self._alone

    def together(self) -> Self:
        """See `Retriever.together`."""
        found = copy.copy(self)
        found._search = Moments(self._alone, self._both).call
        return found

    async def search(  # noqa: PLR0913  all that a request holds
        self,
        collection: str,
        variants: Sequence[SearchVariant],
        *,
        filter: filter_pb2.Filter,  # noqa: A002  # the field's word
        limit: int,
        whole: int,
        dense_weight: float,
        lexical_weight: float,
        model_fingerprint: str,
        model: str = "",
        like: str = "",
        tokens: QueryTokens | None = None,
        late_count: int = 0,
        deadline: float,
    ) -> Retrieved:
        """See `Retriever.search`."""
        request = pb.SearchPassagesRequest(
            collection=collection,
            variants=[
                pb.QueryVariant(text=variant.text, vector=variant.vector, weight=variant.weight) for variant in variants
            ],
            filter=filter,
            limit=limit,
            whole_count=whole,
            dense_weight=dense_weight,
            lexical_weight=lexical_weight,
            model_fingerprint=model_fingerprint,
            model=model,
            like_document_id=like,
            owners=owners(),
            tokens=tokens.vectors if tokens else None,
            token_model_fingerprint=tokens.model.fingerprint if tokens else "",
            late_count=late_count,
        )
        try:
            with unnamed_fields():
                reply = await self._search(request, deadline)
        except InvalidArgument as error:
            if model and error.field == "variants[0].vector":
                raise InvalidArgument("vector.values", error.problem, reason=error.reason) from None
            raise
        candidates = [
            Candidate(one.passage, one.score, one.whole, one.late_score if one.HasField("late_score") else None)
            for one in reply.candidates
        ]
        return Retrieved(candidates, reply.index_version, reply.fused_search_count)

    async def _alone(self, request: pb.SearchPassagesRequest, deadline: float) -> pb.SearchPassagesResponse:
        return await self.channel.call(self.stub.SearchPassages, request, deadline=deadline)

    async def _both(
        self, one: pb.SearchPassagesRequest, other: pb.SearchPassagesRequest, deadline: float
    ) -> list[pb.SearchPassagesResponse]:
        request = pb.SearchPassagesRequest(beside=other)
        request.MergeFrom(one)
        reply = await self._alone(request, deadline)
        # An older retriever answers the first alone.
        return [reply, reply.beside if reply.HasField("beside") else await self._alone(other, deadline)]

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
