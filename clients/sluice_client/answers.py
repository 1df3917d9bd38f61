"""What can be asked for in a search, and what comes back."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice_client.documents import MetadataValue


class Stage(enum.StrEnum):
    """A step of the pipeline, in their order."""

    EXPAND = "expand"
    EMBED = "embed"
    RETRIEVE = "retrieve"
    RERANK = "rerank"
    UNKNOWN = "unknown"
    """One that a newer gateway has and this client does not know."""


class Outcome(enum.StrEnum):
    """What a stage did for a request."""

    RAN = "ran"
    """All that was asked."""
    SKIPPED = "skipped"
    """It was not asked, or there was nothing to do."""
    DEGRADED = "degraded"
    """A part, or in another way than asked."""
    FAILED = "failed"
    """It failed, and the answer was made without it."""
    UNKNOWN = "unknown"
    """One that a newer gateway has and this client does not know."""


class Strategy(enum.StrEnum):
    """How variants of a query are made."""

    SYNONYMS = "synonyms"
    """Words are replaced by synonyms from WordNet."""
    MULTI_QUERY = "multi_query"
    """The query is rephrased by templates."""


class Policy(enum.StrEnum):
    """What happens when a stage fails."""

    REQUIRED = "required"
    """The search fails with the stage's own code and reason."""
    BEST_EFFORT = "best_effort"
    """The answer is made without the stage, and its report says so."""


@dataclass(frozen=True, slots=True)
class Features:
    """What to switch on or off. None leaves it to the gateway; in an `Answer` everything is decided."""

    dense: bool | None = None
    """Search by vectors."""
    lexical: bool | None = None
    """Search by words (BM25)."""
    expansion: bool | None = None
    """Search for variants of the query as well."""
    expansion_strategy: Strategy | None = None
    """How variants are made."""
    max_variant_count: int | None = None
    """Most variants, the query included, 1 to 16."""
    rerank: bool | None = None
    """Let a cross-encoder reorder the best candidates."""
    rerank_candidate_count: int | None = None
    """How many candidates the cross-encoder reads, 1 to 1000."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What happens when a stage fails; None leaves it to the gateway. Retrieval is always required."""

    expansion: Policy | None = None
    embedding: Policy | None = None
    rerank: Policy | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What the stages thought of a result."""

    retrieval: float
    """Score of the first stage: the fusion of all searches."""
    retrieval_rank: int
    """Rank by the first stage alone, from 1."""
    rerank: float | None
    """The cross-encoder's logit; None where it did not read this result."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which part of a document a result is: the characters of its text from `start` up to `end`."""

    number: int
    """Its place among the document's chunks, from 1."""
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Result:
    """A document, or a chunk of one, that was found."""

    id: str
    """The document's; of chunks beyond the first, that with "#" and the chunk's number."""
    title: str
    text: str
    metadata: Mapping[str, MetadataValue]
    score: float
    """Higher is better; comparable only within one answer."""
    rank: int
    """Rank in the whole answer, from 1, over all pages."""
    scores: Scores
    duplicate_count: int = 0
    """Near-duplicates that it stands for, where the search collapsed them."""
    document_id: str = ""
    chunk: Chunk | None = None
    """None where it is the whole document."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did for one request."""

    stage: Stage
    outcome: Outcome
    reason: str
    """Why, for machines: an UPPER_SNAKE_CASE word, empty when it simply ran."""
    detail: str
    """Why, for people."""
    seconds: float
    """From the gateway's call to the stage's answer."""
    model: str
    """The model that served, where the stage has one."""
    item_count: int
    """What came out: variants, vectors, candidates or scores."""


class Arm(enum.StrEnum):
    """One side of a feature's rollout."""

    TREATMENT = "treatment"
    """The feature took effect."""
    CONTROL = "control"
    """It did not, and the request is what treatment is compared with."""
    STANDARD = "standard"
    """It did not, and the request is not compared."""
    UNKNOWN = "unknown"
    """One that a newer gateway has and this client does not know."""


@dataclass(frozen=True, slots=True)
class FeatureArm:
    """On which side of a feature's rollout a request was."""

    feature: str
    arm: Arm
    ramp_id: str
    """Names the run of evidence that the request counts for."""
    reason: str
    """Why it is STANDARD, for machines: an UPPER_SNAKE_CASE word such as NO_USER or KILLED; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of results, best first, and what every stage did for it."""

    results: Sequence[Result]
    stages: Sequence[StageReport]
    """In the order of the pipeline."""
    next_page_token: str
    """Asks for the next page; empty when there is none."""
    features: Features
    """What was on."""
    collection: str
    index_version: str
    request_id: str
    """Finds the request in logs and traces."""
    snapshot_version: int = 0
    """Of the rollout's snapshot that decided; 0 where none did."""
    arms: Sequence[FeatureArm] = ()
    """Of every feature that is rolled out."""
