"""Messages of the retriever's contract, read and written as types of its domain."""

from __future__ import annotations

from collections.abc import Sequence

from services.chassis.errors import InvalidArgument
from services.retriever.collections.building import Difference
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.documents import Passage, joined, tokens_from_proto
from services.retriever.relations.relating import Expansion
from services.retriever.search.searches import LateQuery
from sluice.retriever.v1 import retriever_pb2 as pb


def to_passage(entry: pb.PassageVector, place: int) -> Passage:
    """Read a passage with its vectors, at this place of the request."""
    tokens = entry.tokens if entry.HasField("tokens") else None
    return Passage.from_proto(entry.passage, f"passages[{place}]", entry.vector, tokens)


def to_copy(entry: pb.PassageCopy, place: int) -> Difference:
    """Read a passage that is to be copied."""
    passage = to_passage(entry.passage, place)
    return Difference(passage.id, passage, entry.revision, entry.building_revision)


def to_late(request: pb.SearchPassagesRequest) -> LateQuery | None:
    """Read the query's token vectors; None where there are none."""
    if not request.HasField("tokens"):
        if request.late_count:
            raise InvalidArgument("tokens", "is missing; send the vectors of the query's tokens, or no late_count")
        return None
    tokens = tokens_from_proto(request.tokens, "tokens")
    return LateQuery(tokens, request.token_model_fingerprint, request.late_count)


def to_token_model(request: pb.CreateCollectionRequest | pb.CreateVersionRequest) -> CollectionModel | None:
    """Read the model of token vectors; None where there is none."""
    return CollectionModel.from_proto(request.token_model) if request.HasField("token_model") else None


def of_vector(passage: Passage) -> bytes:
    """Write a passage's vector; empty where it has none."""
    return b"" if passage.vector is None else passage.vector.astype("<f4").tobytes()


def of_document(passages: Sequence[Passage]) -> pb.StoredDocument:
    """Write a document, from its passages."""
    chunks = [passage.chunk.to_proto() for passage in passages if passage.chunk is not None]
    return pb.StoredDocument(passages=[joined(passages).to_proto()], chunks=chunks)


def of_expansion(found: Expansion) -> pb.ExpandRelationsResponse:
    """Write what relations lead to."""
    reply = pb.ExpandRelationsResponse(
        index_version=found.version,
        followed_count=found.reached.followed,
        frequent_count=found.reached.frequent,
        left_out_count=found.reached.left_out,
    )
    for one in found.passages:
        added = reply.passages.add(score=one.score, late_score=one.late_score)
        one.passage.write(added.passage)
        added.path.extend(step.to_proto() for step in one.path)
    for bridge in found.bridges:
        bridge.write(reply.bridges.add())
    return reply
