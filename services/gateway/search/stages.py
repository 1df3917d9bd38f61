"""What the gateway knows of the stages behind it: their names, what goes in, what comes out, and how they end.

Pure values and protocols; `clients.py` implements the protocols over gRPC.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.gateway.rollout.table import ExpansionStrategy, Features

# The model stages take texts of up to 65,536 bytes; a character is at most 4.
MAX_READING_CHARACTERS = 16_384


class Stage(enum.Enum):
    """The stages, in the order of the pipeline."""

    EXPAND = "expand"
    EMBED = "embed"
    RETRIEVE = "retrieve"
    RERANK = "rerank"


class Outcome(enum.Enum):
    """What a stage did for a request."""

    RAN = "ran"
    SKIPPED = "skipped"
    DEGRADED = "degraded"
    FAILED = "failed"


class Policy(enum.Enum):
    """What happens when a stage fails."""

    REQUIRED = "required"
    BEST_EFFORT = "best_effort"


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of every stage that may be left out; None means the default. Retrieval is always required."""

    expansion: Policy | None = None
    embedding: Policy | None = None
    rerank: Policy | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, everything decided."""

    query: str
    collection: str
    features: Features
    policies: Policies
    filter: bytes
    """Serialized filter; the gateway never looks inside."""
    offset: int
    """Results to pass over: the pages before."""
    limit: int
    """Most results to return."""
    collapse_duplicates: bool = False
    """Whether the best of several near-duplicates stands for them."""
    group_by_document: bool = False
    """Whether only the best chunk of a document is a result."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to ask, and how much it counts."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Expanded:
    """The query and its variants, the query first."""

    variants: Sequence[Variant]
    degraded_reason: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector a text, each little-endian float32; the gateway never looks inside."""

    vectors: Sequence[bytes]
    model: str
    fingerprint: str
    dimension: int
    precision: str
    pseudo: bool
    truncated: Sequence[bool]
    """Whether the end of a text did not fit the model's window."""


@dataclass(frozen=True, slots=True)
class SearchVariant:
    """A variant with its vector; an empty vector is searched for by words alone."""

    text: str
    vector: bytes
    weight: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which part of a document a passage is: the characters of its text from `start` up to `end`."""

    document_id: str
    number: int
    """From 1."""
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage:
    """What is stored and found."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, bytes]
    """Serialized values by field; the gateway never looks inside."""
    chunk: Chunk | None = None
    """None where it is a whole document."""

    @property
    def document_id(self) -> str:
        """The id of the document that it is, or is a part of."""
        return self.chunk.document_id if self.chunk else self.id

    @property
    def reading(self) -> str:
        """What models read of it: title and text, to well beyond any model's window."""
        whole = f"{self.title}\n{self.text}" if self.title else self.text
        return whole[:MAX_READING_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found, with the first stage's score."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The candidates, best first, and the index version that they come from."""

    candidates: Sequence[Candidate]
    index_version: str


@dataclass(frozen=True, slots=True)
class Upserted:
    """How many passages were stored, the index version that took them, and the one that has to follow, if any."""

    count: int
    index_version: str
    building_version: str = ""
    changed_ids: Sequence[str] = ()
    """Ids of the passages that have to follow."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """One score a passage, in the order given."""

    scores: Sequence[float]
    model: str


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did for one request."""

    stage: Stage
    outcome: Outcome
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0
    model: str = ""
    item_count: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A passage in the final order."""

    passage: Passage
    score: float
    rank: int
    retrieval_score: float
    retrieval_rank: int
    rerank_score: float | None
    duplicate_count: int = 0
    """Near-duplicates, further down, that it stands for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of results and the report of every stage."""

    results: Sequence[Result]
    reports: Sequence[StageReport]
    index_version: str
    more: bool
    """Whether there are results after this page."""


class Expander(Protocol):
    """Query to variants."""

    async def expand(  # noqa: D102
        self, query: str, strategy: ExpansionStrategy, max_variant_count: int, *, deadline: float
    ) -> Expanded: ...


class Embedder(Protocol):
    """Queries to vectors, by the model that made a collection's."""

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded: ...  # noqa: D102

    def forget(self, collection: str) -> None:
        """Looks anew, the next time, which model made a collection's vectors: it is not what it was."""


class Retriever(Protocol):
    """Variants to candidates."""

    async def search(  # noqa: D102
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
    ) -> Retrieved: ...


class Reranker(Protocol):
    """Passages to scores."""

    async def rerank(self, query: str, passages: Sequence[str], *, deadline: float) -> Reranked: ...  # noqa: D102
