"""Values that a search passes through its stages, and the stages' protocols.

Passages and filters are messages of `sluice.type.v1`: the gateway hands them on as they come. `rpc.model_clients` and
`rpc.retriever_client` implement the protocols over gRPC.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.chassis.timing import duration
from services.gateway.search.flags import Features
from services.gateway.search.question import Course
from sluice.gateway.v1 import search_pb2
from sluice.type.v1 import filter_pb2, model_pb2, passage_pb2, relation_pb2, stage_pb2, tokens_pb2


class Stage(enum.Enum):
    """A stage, in the order of the pipeline."""

    EXPAND = stage_pb2.STAGE_EXPAND
    EMBED = stage_pb2.STAGE_EMBED
    RETRIEVE = stage_pb2.STAGE_RETRIEVE
    HOP = stage_pb2.STAGE_HOP
    RERANK = stage_pb2.STAGE_RERANK
    REASON = stage_pb2.STAGE_REASON


class Outcome(enum.Enum):
    """Outcome of a stage for one request."""

    RAN = search_pb2.STAGE_OUTCOME_RAN
    SKIPPED = search_pb2.STAGE_OUTCOME_SKIPPED
    DEGRADED = search_pb2.STAGE_OUTCOME_DEGRADED
    FAILED = search_pb2.STAGE_OUTCOME_FAILED


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to ask, and its weight."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Expanded:
    """The query and its variants, the query first."""

    variants: Sequence[Variant]
    degraded_reason: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector a text, as little-endian float32, and the model that made them."""

    vectors: Sequence[bytes]
    model: model_pb2.ModelInfo
    truncated: Sequence[bool]
    """True for each text whose end did not fit the model's window."""


@dataclass(frozen=True, slots=True)
class EmbeddedTokens:
    """Vectors of the tokens of each text, and the model that made them."""

    vectors: Sequence[tokens_pb2.TokenVectors]
    model: model_pb2.ModelInfo


@dataclass(frozen=True, slots=True)
class QueryTokens:
    """Vectors of a query's tokens, and the model that made them."""

    vectors: tokens_pb2.TokenVectors
    model: model_pb2.ModelInfo


class SearchVariant(NamedTuple):
    """A variant with its vector; without a vector it is searched by words alone."""

    text: str
    vector: bytes
    weight: float


def digest_of(variants: Sequence[SearchVariant]) -> str:
    """Hash variants, and whether they have vectors."""
    asked = repr([(variant.text, variant.weight, bool(variant.vector)) for variant in variants])
    return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()


def reading(passage: passage_pb2.Passage) -> str:
    """Join title and text for the models."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


class Candidate(NamedTuple):
    """A passage that was found, with the first stage's score."""

    passage: passage_pb2.Passage
    score: float
    whole: bool = True
    """False if only the ids of the passage are here."""
    late_score: float | None = None
    """Mean cosine of token vectors; None where they were not compared."""
    path: Sequence[relation_pb2.RelationStep] = ()
    """The way by which relations brought it or moved it."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Passages that relations lead to, best first, and the passages that the ways start from, by id."""

    candidates: Sequence[Candidate]
    """Of those that were known before, the ids alone."""
    bridges: Mapping[str, passage_pb2.Passage]
    followed_count: int = 0
    """Number of keys that led somewhere."""
    frequent_count: int = 0
    """Number of keys that too many passages have."""
    left_out_count: int = 0
    """Number of keys that were not looked up, as their passage has too many."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Candidates, best first, and the index version that they come from."""

    candidates: Sequence[Candidate]
    index_version: str
    search_count: int = 1
    """Number of searches that were made; 0 if the question has neither a vector nor words."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """One score a passage, in the order given; of a partial reranking perhaps those of the first passages alone."""

    scores: Sequence[float]
    model: str
    truncated_count: int = 0
    """Number of the passages with a score that the model did not read whole."""
    token_count: int = 0
    """Tokens that the model read for these scores."""
    passage_tokens: int = 0
    """Most tokens of a passage that the model reads."""


_NOTHING_MISSING = {"CALLER_VECTOR", "FEATURE_OFF", "NO_CANDIDATES", "NO_PASSAGES", "NO_QUERY", "NO_WORDS"}


class StageReport(NamedTuple):
    """Report of one stage on one request."""

    stage: Stage
    outcome: Outcome
    reason: str = ""
    detail: str = ""
    seconds: float = 0.0
    model: str = ""
    item_count: int = 0
    truncated_count: int = 0

    @property
    def complete(self) -> bool:
        """True if nothing of this stage is missing from the answer."""
        return self.outcome is Outcome.RAN or self.reason in _NOTHING_MISSING

    @property
    def did_its_work(self) -> bool:
        """True unless the stage was asked and failed, was left out, or worked in another way than asked."""
        return self.complete or self.reason == "FEWER_CANDIDATES"

    def to_proto(self) -> search_pb2.StageReport:
        """Write the report."""
        return search_pb2.StageReport(
            stage=self.stage.value,
            outcome=self.outcome.value,
            reason=self.reason,
            detail=self.detail,
            duration=duration(self.seconds),
            model=self.model,
            item_count=self.item_count,
            truncated_count=self.truncated_count,
        )


class Result(NamedTuple):
    """A passage in the final order."""

    passage: passage_pb2.Passage
    score: float
    rank: int
    retrieval_score: float
    retrieval_rank: int
    rerank_score: float | None
    duplicate_count: int = 0
    """Number of near-duplicates, further down, that it stands for."""
    highlights: Sequence[passage_pb2.Highlight] = ()
    """Sentences of its text."""
    late_score: float | None = None
    relevance: float | None = None
    """Estimated probability; None where it was not reranked."""
    path: Sequence[relation_pb2.RelationStep] = ()
    """The way by which relations brought it or moved it."""
    team: int = 0
    """In an interleaved answer 1 or 2, the arm that put it there; 0 where none is to be credited."""

    def to_proto(self) -> search_pb2.Result:
        """Write the result."""
        message = search_pb2.Result()
        self.write(message)
        return message

    def write(self, message: search_pb2.Result) -> None:
        """Write the result into an empty message of a reply: its passage is copied once."""
        message.passage.CopyFrom(self.passage)
        message.score = self.score
        message.rank = self.rank
        message.duplicate_count = self.duplicate_count
        message.highlights.extend(self.highlights)
        message.path.extend(self.path)
        scores = message.scores
        scores.retrieval = self.retrieval_score
        scores.retrieval_rank = self.retrieval_rank
        if self.rerank_score is not None:
            scores.rerank = self.rerank_score
        if self.late_score is not None:
            scores.late = self.late_score
        if self.relevance is not None:
            scores.relevance = self.relevance


@dataclass(frozen=True, slots=True)
class Drafted:
    """Origin of an answer that two arms of an experiment made, or were to make."""

    seconds: tuple[float, float]
    """Time of each arm; of one that failed or came too late, until then."""
    one_arm: bool = False
    """True if the results are those of one arm alone, as if there were no other: they are not counted."""
    served: int = 0
    """The arm, 0 or 1, whose reports, course and flags the answer has."""
    failed_arm: str = ""
    """Name of the arm that failed or came too late; empty where there is none, or where the caller is to blame."""
    course: Course | None = None
    """That of the second arm; None for one arm alone."""
    failure_reason: str = ""
    """Reason for one arm alone, as an UPPER_SNAKE_CASE word."""
    reports: Sequence[StageReport] = ()
    """Reports of the second arm's stages, where its results are here beside the first's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of results and the report of every stage."""

    results: Sequence[Result]
    reports: Sequence[StageReport]
    course: Course
    following: int | None
    """Offset of the page after this one; None if it is the last."""
    enrichment_score: float | None = None
    """Probability that the first five hold all that an answer needs; None where no relations were followed."""
    drafted: Drafted | None = None
    """Set where an experiment interleaves."""

    @property
    def index_version(self) -> str:
        """The version that answered."""
        return self.course.index_version

    @property
    def more(self) -> bool:
        """True if there are results after this page."""
        return self.following is not None

    @property
    def idle_stages(self) -> frozenset[str]:
        """Stages that were asked and did not do their work, as in "rerank"."""
        return frozenset(report.stage.name.lower() for report in self.reports if not report.did_its_work)


class Expander(Protocol):
    """Makes variants of a query."""

    async def expand(self, query: str, features: Features, *, deadline: float) -> Expanded:
        """Make variants as the features say."""


class Embedder(Protocol):
    """Makes vectors of queries, by the model that made a collection's vectors."""

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        """Embed queries to a collection."""

    async def embed_query_tokens(self, query: str, *, collection: str, deadline: float) -> QueryTokens:
        """Make vectors of the tokens of a query to a collection; FailedPrecondition where that is not possible."""

    def forget(self, collection: str) -> None:
        """Drop the cached model of a collection."""


class Retriever(Protocol):
    """Finds candidates for variants."""

    def together(self) -> Retriever:
        """Return one for a single request, which makes searches of one moment in one call."""

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
        """Find the best candidates over all variants, the first `whole` with their texts if there is room.

        `model` names that of a caller's vector. With the id of a document as `like`, find what is like it, too. The
        first `late_count` are compared with the query's tokens; their order stays.
        """

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
        """Follow relations from candidates, and find at most so many passages that they lead to.

        With the query's tokens each is compared by them, together with the passage that leads to it.
        """

    async def diversify(
        self, collection: str, ids: Sequence[str], scores: Sequence[float], diversity: float, *, deadline: float
    ) -> Sequence[int]:
        """Return the places of passages in an order of much relevance and little repetition."""

    async def highlight(
        self, collection: str, query: str, texts: Sequence[str], *, deadline: float
    ) -> Sequence[Sequence[passage_pb2.Highlight]]:
        """Find the sentences of each text that have most of the query's words."""

    def passages(self, collection: str, ids: Sequence[str], *, deadline: float) -> AsyncIterator[passage_pb2.Passage]:
        """Read passages in the order of their ids, as they are taken; those that do not exist are left out."""


class Reranker(Protocol):
    """Scores passages."""

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        """Score each passage for a query."""
