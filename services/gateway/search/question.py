"""A search with all of its choices made, and the course that its first page took."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Self

from services.chassis.errors import InvalidArgument
from services.gateway.search.flags import Features
from sluice.gateway.v1 import search_pb2
from sluice.type.v1 import filter_pb2

MAX_LIMIT = 100


DEFAULT_LIMIT = 10


class Policy(enum.Enum):
    """Consequence of a stage's failure."""

    REQUIRED = search_pb2.STAGE_POLICY_REQUIRED
    BEST_EFFORT = search_pb2.STAGE_POLICY_BEST_EFFORT


@dataclass(frozen=True, slots=True)
class Policies:
    """Policies of the stages that can be left out; None means the default."""

    expansion: Policy | None = None
    embedding: Policy | None = None
    rerank: Policy | None = None
    hop: Policy | None = None

    @classmethod
    def from_proto(cls, message: search_pb2.StagePolicies) -> Self:
        """Read the policies. Raises InvalidArgument for an unknown one."""

        def policy(name: str, value: int) -> Policy | None:
            try:
                return Policy(value) if value else None
            except ValueError:
                raise InvalidArgument(
                    f"policies.{name}", f"is unknown ({value}); use required or best effort"
                ) from None

        return cls(
            policy("expansion", message.expansion),
            policy("embedding", message.embedding),
            policy("rerank", message.rerank),
            policy("hop", message.hop),
        )


@dataclass(frozen=True, slots=True)
class Course:
    """The way in which the first page of an answer was made; the later ones are made alike, or not at all."""

    index_version: str
    variants: str
    """Digest of the variants that were searched, and of their having vectors."""
    expanded: bool
    """True if there were more than the query itself."""
    embedded: int
    """Number of vectors."""
    reranked: int
    """Number of candidates that the cross-encoder read."""
    reranker: str
    """Its model."""
    late: int = 0
    """Number of candidates that were compared by token vectors."""
    hops: int = 0
    """Most relations in a row that were followed; 0 where none were."""


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A vector that the caller made, as little-endian float32, and its model by fingerprint or name."""

    values: bytes
    model: str


@dataclass(frozen=True, slots=True)
class Question:
    """A search with all of its choices made."""

    query: str
    collection: str
    features: Features
    policies: Policies = Policies()
    filter: filter_pb2.Filter = field(default_factory=filter_pb2.Filter)
    offset: int = 0
    """Number of results on the pages before."""
    limit: int = DEFAULT_LIMIT
    """Most results to return."""
    collapse_duplicates: bool = False
    """True if the best of several near-duplicates stands for all of them."""
    group_by_document: bool = False
    """True if only the best chunk of a document is a result."""
    course: Course | None = None
    """That of the first page, if this is a later one."""
    like_document_id: str = ""
    """The document that the results are to be like, if any."""
    vector: QueryVector | None = None
    """Stands for the embedding of the query."""
    diversity: float = 0.0
    """Share of diversity in the order of the best candidates."""
    highlights: bool = False
    """True if the sentences that answer are named."""

    @classmethod
    def from_proto(
        cls,
        message: search_pb2.SearchRequest,
        *,
        default_collection: str,
        features: Features,
        offset: int = 0,
        course: Course | None = None,
    ) -> Self:
        """Read a request. Raises InvalidArgument for a limit, a policy, a vector or a diversity that is none."""
        limit = message.limit if message.HasField("limit") else DEFAULT_LIMIT
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidArgument("limit", f"must be between 1 and {MAX_LIMIT}, not {limit}; use page_token for more")
        if not 0 <= message.diversity <= 1:
            raise InvalidArgument("diversity", f"is {message.diversity:g}; send 0 to 1, or leave it out")
        vector = QueryVector(message.vector.values, message.vector.model) if message.HasField("vector") else None
        if vector is not None and not vector.values:
            raise InvalidArgument("vector.values", "is empty; send little-endian float32, or leave the vector out")
        if vector is not None and not vector.model:
            raise InvalidArgument("vector.model", "is empty; send the fingerprint or the name of its model")
        return cls(
            query=message.query,
            collection=message.collection or default_collection,
            features=features,
            policies=Policies.from_proto(message.policies),
            filter=message.filter,
            offset=offset,
            limit=limit,
            collapse_duplicates=message.collapse_duplicates,
            group_by_document=message.group_by_document,
            course=course,
            like_document_id=message.like_document_id,
            vector=vector,
            diversity=message.diversity,
            highlights=message.highlights,
        )
