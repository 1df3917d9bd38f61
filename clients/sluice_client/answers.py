"""Options of a search, and its answer."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self, TypedDict

from sluice.gateway.v1 import search_pb2 as pb
from sluice.type.v1 import facet_pb2, passage_pb2, relation_pb2
from sluice.type.v1.features_pb2 import Features
from sluice_client.documents import Passage
from sluice_client.errors import invalid
from sluice_client.filters import Filter
from sluice_client.messages import MetadataValue, Received, Sent
from sluice_client.versions import FieldType


class Stage(enum.StrEnum):
    """A step of a search, in their order."""

    EXPAND = "expand"
    EMBED = "embed"
    RETRIEVE = "retrieve"
    HOP = "hop"
    RERANK = "rerank"
    REASON = "reason"
    UNKNOWN = "unknown"
    """Sent by a newer gateway."""


class Outcome(enum.StrEnum):
    """Result of a stage for a request."""

    RAN = "ran"
    """It did all that was asked."""
    SKIPPED = "skipped"
    """It was not asked, or there was nothing to do."""
    DEGRADED = "degraded"
    """It did a part, or in another way than asked."""
    FAILED = "failed"
    """It failed, and the answer was made without it."""
    UNKNOWN = "unknown"
    """Sent by a newer gateway."""


class Policy(enum.StrEnum):
    """Consequence of a stage's failure."""

    REQUIRED = "required"
    """The search fails with the stage's own code and reason."""
    BEST_EFFORT = "best_effort"
    """The answer is made without the stage, and its report says so."""


class Arm(enum.StrEnum):
    """One side of a feature's rollout."""

    TREATMENT = "treatment"
    """The feature took effect."""
    CONTROL = "control"
    """It did not, and the request is what treatment is compared with."""
    STANDARD = "standard"
    """It did not, and the request is not compared."""
    UNKNOWN = "unknown"
    """Sent by a newer server."""


class ArmReason(enum.StrEnum):
    """Reason for a request to be in neither arm of a feature."""

    NO_USER = "no_user"
    """The request names no user."""
    NOT_SELECTED = "not_selected"
    """The user is in neither arm."""
    KILLED = "killed"
    LEASE_ENDED = "lease_ended"
    """The gateway lost the rollout service for longer than the lease."""
    REQUEST_DECIDED = "request_decided"
    """The request's own flags, or those of the page before, decide all that the feature sets."""
    OTHER_FEATURE = "other_feature"
    """A later feature, or the kill of another, decides all that the feature sets."""
    UNKNOWN = "unknown"
    """Sent by a newer gateway."""


@dataclass(frozen=True, slots=True)
class Policies(Sent, proto=pb.StagePolicies):
    """Consequences of failures by stage; None leaves one to the gateway."""

    expansion: Policy | None = None
    embedding: Policy | None = None
    rerank: Policy | None = None
    hop: Policy | None = None


@dataclass(frozen=True, slots=True)
class QueryVector(Sent, proto=pb.QueryVector):
    """A vector of the question that the caller made, by the model that made the collection's."""

    values: bytes
    """Little-endian float32, with finite values and not all of them 0."""
    model: str
    """Fingerprint of the model, or its name, short or whole."""

    @classmethod
    def of(cls, values: Sequence[float], model: str) -> Self:
        """Make one of numbers. Raises SluiceError for one that is no float32."""
        try:
            return cls(struct.pack(f"<{len(values)}f", *values), model)
        except (struct.error, OverflowError):
            raise invalid("vector.values", "has a value that is not a number of float32") from None


class SearchOptions(TypedDict, total=False):
    """Options of a search; all of them may be left out."""

    limit: int
    """Most results on a page, 1 to 100; 10 if left out."""
    collection: str
    """The collection to search; the gateway's default if left out."""
    filter: Filter | None
    """Keeps only matching documents."""
    user_id: str
    """Keeps a user on one side of a rollout. Neither stored nor logged."""
    features: Features | None
    """Flags to set for this question, as in `Features(rerank=True)`."""
    policies: Policies | None
    """Consequences of a stage's failure."""
    collapse_duplicates: bool
    """Lets the best of several passages that share nearly all of their words stand for them."""
    group_by_document: bool
    """Keeps only the best chunk of a document."""
    like_document_id: str
    """Finds what is like this document, but not the document itself; together with the query, if there is one."""
    vector: QueryVector | None
    """Stands for the embedding of the query; words are searched for if there is a query as well."""
    diversity: float | None
    """Share of diversity in the order of the best 100 candidates, 0 to 1; off if left out."""
    highlights: bool
    """Names the sentences of each result that have most of the query's words."""


@dataclass(frozen=True, slots=True)
class Scores(Received, proto=pb.StageScores):
    """Scores of a result by stage."""

    retrieval: float
    """Score of the first stage: the fusion of all searches."""
    retrieval_rank: int
    """Rank by the first stage alone, from 1."""
    rerank: float | None
    """The cross-encoder's logit; None where it did not read this result."""
    late: float | None = None
    """Mean over the query's tokens of the best cosine with the passage's, -1 to 1; None where it was not compared."""
    relevance: float | None = None
    """Estimate of the probability that it is relevant, 0 to 1, comparable between queries; None if not reranked."""


@dataclass(frozen=True, slots=True)
class Highlight(Received, proto=passage_pb2.Highlight):
    """A sentence that answers: the characters of the passage's text from `start` up to `end`."""

    start: int
    end: int
    score: float
    """Share of the query's words that it has, weighted by their rarity."""


class RelationKind(enum.StrEnum):
    """Reason why a passage was reached."""

    NAMED = "named"
    """The question names its title."""
    LINK = "link"
    """It is about what the passage before mentions."""
    SHARED = "shared"
    """It mentions what the passage before mentions."""
    REFERENCE = "reference"
    """The passage before links to it."""
    NEIGHBOUR = "neighbour"
    """It is the chunk next to the passage before."""
    UNKNOWN = "unknown"
    """Sent by a newer gateway."""


@dataclass(frozen=True, slots=True)
class RelationStep(Received, proto=relation_pb2.RelationStep):
    """One step on the way to a passage."""

    kind: RelationKind
    passage_id: str
    """The passage that it starts from; empty where the question itself leads on."""
    key: str
    """The name, or the id of a document, that leads on."""
    weight: float
    """Share that it brings to the score, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Result(Received, proto=pb.Result):
    """A passage that was found."""

    passage: Passage
    score: float
    """Higher is better; comparable only within one answer."""
    rank: int
    """Rank in the whole answer, from 1, over all pages."""
    scores: Scores
    duplicate_count: int = 0
    """Near-duplicates that it stands for, where the search collapsed them."""
    highlights: Sequence[Highlight] = ()
    """At most 3, in the order of the text, where the search asked for them."""
    path: Sequence[RelationStep] = ()
    """The way by which relations brought it or moved it, from the question on."""
    team: str = ""
    """In an interleaved answer, the arm that put it there; empty where both did, or where no arm is credited."""

    @property
    def sentences(self) -> list[str]:
        """The text of the highlights."""
        return [self.passage.text[one.start : one.end] for one in self.highlights]


@dataclass(frozen=True, slots=True)
class StageReport(Received, proto=pb.StageReport):
    """Report of one stage about one request."""

    stage: Stage
    outcome: Outcome
    reason: str
    """For machines: an UPPER_SNAKE_CASE word, empty when it simply ran."""
    detail: str
    """The reason in words."""
    duration: timedelta
    """From the gateway's call to the stage's answer."""
    model: str
    """The model that served, where the stage has one."""
    item_count: int
    """Number of variants, vectors, candidates or scores that came out."""
    truncated_count: int = 0
    """Number of texts of which the model's window did not hold the end."""


@dataclass(frozen=True, slots=True)
class FeatureArm(Received, proto=pb.FeatureArm):
    """Side of a feature's rollout that a request was on."""

    feature: str
    arm: Arm
    ramp_id: str
    """Names the run of evidence that the request counts for."""
    reason: ArmReason | None
    """Reason for STANDARD; None for the other arms."""


@dataclass(frozen=True, slots=True)
class ExperimentExposure(Received, proto=pb.ExperimentExposure):
    """Part of a request in an experiment."""

    experiment: str
    run_id: str
    """Names the run: an experiment that is started again has another one."""
    arm: str
    """Empty for an interleaved answer, which has results of two arms."""


@dataclass(frozen=True, slots=True)
class InterleavedArm(Received, proto=pb.InterleavedArm):
    """One of the two arms of an interleaved answer."""

    name: str
    features: Features
    """Its flags, all of them set."""
    duration: timedelta
    """Until its results were in order, or until it failed."""
    stages: Sequence[StageReport]
    """In the order of the pipeline; none for the arm whose reports the answer has, nor for one without results."""
    failure_reason: str
    """For machines: an UPPER_SNAKE_CASE word, empty if its results are here."""


@dataclass(frozen=True, slots=True)
class Answer(Received, proto=pb.SearchResponse):
    """One page of results, best first, with a report of every stage."""

    results: Sequence[Result]
    stages: Sequence[StageReport]
    """In the order of the pipeline."""
    next_page_token: str
    """Asks for the next page; empty when there is none."""
    features: Features
    """The flags that held, all of them set."""
    collection: str
    index_version: str
    request_id: str
    """Finds the request in logs and traces."""
    snapshot_version: int = 0
    """The rollout snapshot that decided; 0 where none did."""
    arms: Sequence[FeatureArm] = ()
    """One for every feature that is rolled out."""
    enrichment_score: float | None = None
    """Probability that the first five results hold all that an answer needs; None unless relations were followed."""
    model_token_count: int = 0
    """Work that models did for it, in tokens that they read; 0 where they did none, as with a vector of a cache."""
    impression_token: bytes = b""
    """This page as it was served, signed: events about it need it. Empty where no feedback is taken."""
    experiments: Sequence[ExperimentExposure] = ()
    """The experiments that the request is a part of."""
    interleaved_arms: Sequence[InterleavedArm] = ()
    """The two arms of an interleaved answer, the control first; empty for other answers."""


@dataclass(frozen=True, slots=True)
class Comparison(Received, proto=pb.CompareSearchResponse):
    """Two answers to one question, and how far they agree."""

    standard: Answer
    enhanced: Answer
    standard_duration: timedelta
    enhanced_duration: timedelta
    """Measured second; vectors that both need may come from a cache."""
    depth: int
    overlap: float
    """Share of results among the first `depth` that both have, 0 to 1."""
    rank_biased_overlap: float
    """Agreement that counts more at the top (Webber et al. 2010, extrapolated), 0 to 1."""
    persistence: float
    """Chance that a reader who saw one rank looks at the next; the overlap was computed with it."""


@dataclass(frozen=True, slots=True)
class ValueCount(Received, proto=facet_pb2.ValueCount):
    """A value of a field, and the number of passages that have it."""

    value: MetadataValue
    passage_count: int


@dataclass(frozen=True, slots=True)
class FieldCounts(Received, proto=facet_pb2.FieldCounts):
    """The most frequent values of a field, the most frequent first."""

    field: str
    type: FieldType
    values: Sequence[ValueCount]


@dataclass(frozen=True, slots=True)
class Counts(Received, proto=pb.CountByFieldResponse):
    """Matching passages, counted by the values of fields. Each chunk of a document is a passage."""

    fields: Sequence[FieldCounts]
    """In the order that they were asked for."""
    passage_count: int
    """Number of all matching passages."""
    collection: str
    index_version: str
