"""GatewayService: validate, translate, delegate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import grpc
from opentelemetry import trace

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, SluiceError, kind_of
from services.chassis.interceptors import request_id
from services.chassis.timing import deadline_of, duration
from services.chassis.validation import MAX_QUERY_BYTES, check_count, check_text
from services.experiment.bucketing import Arm
from services.gateway import metrics
from services.gateway.collections.embedders import EmbeddingModel
from services.gateway.collections.indexing import Chunking, Indexing
from services.gateway.rollout.exposure import Exposure, Observed
from services.gateway.rollout.shadow import Answered, Shadow, quality_of
from services.gateway.rollout.table import NOTHING, Decision, ExpansionStrategy, FeatureOverrides, Features, combine
from services.gateway.rpc.collections_servicer import Life, LifeServicer
from services.gateway.rpc.stage_clients import (
    EmbedderClient,
    ExpanderClient,
    RerankerClient,
    RetrieverClient,
)
from services.gateway.search import paging
from services.gateway.search.comparison import DEFAULT_PERSISTENCE, overlap, rank_biased_overlap
from services.gateway.search.pipeline import Pipeline
from services.gateway.search.query_log import QueryLog
from services.gateway.search.stages import (
    Answer,
    Outcome,
    Passage,
    Policies,
    Policy,
    Question,
    Result,
    Stage,
    StageReport,
)
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import gateway_pb2

Context = grpc.aio.ServicerContext[Any, Any]

MAX_LIMIT = 100
DEFAULT_LIMIT = 10
MAX_DOCUMENTS = 512
MAX_IDS = 1000
# Asking four stages how they are must not take longer than a person waits.
CONFIG_DEADLINE_SECONDS = 2.0
MAX_USER_BYTES = 1024
# What a comparison switches on where it is not told.
ENHANCED = FeatureOverrides(expansion=True, rerank=True)

_STRATEGIES = {
    gateway_pb2.EXPANSION_STRATEGY_UNSPECIFIED: None,
    gateway_pb2.EXPANSION_STRATEGY_SYNONYMS: ExpansionStrategy.SYNONYMS,
    gateway_pb2.EXPANSION_STRATEGY_MULTI_QUERY: ExpansionStrategy.MULTI_QUERY,
}
_POLICIES = {
    gateway_pb2.STAGE_POLICY_UNSPECIFIED: None,
    gateway_pb2.STAGE_POLICY_REQUIRED: Policy.REQUIRED,
    gateway_pb2.STAGE_POLICY_BEST_EFFORT: Policy.BEST_EFFORT,
}
_STAGES = {
    Stage.EXPAND: gateway_pb2.STAGE_EXPAND,
    Stage.EMBED: gateway_pb2.STAGE_EMBED,
    Stage.RETRIEVE: gateway_pb2.STAGE_RETRIEVE,
    Stage.RERANK: gateway_pb2.STAGE_RERANK,
}
_ARMS = {
    Arm.TREATMENT: gateway_pb2.ARM_TREATMENT,
    Arm.CONTROL: gateway_pb2.ARM_CONTROL,
    Arm.STANDARD: gateway_pb2.ARM_STANDARD,
}
_OUTCOMES = {
    Outcome.RAN: gateway_pb2.STAGE_OUTCOME_RAN,
    Outcome.SKIPPED: gateway_pb2.STAGE_OUTCOME_SKIPPED,
    Outcome.DEGRADED: gateway_pb2.STAGE_OUTCOME_DEGRADED,
    Outcome.FAILED: gateway_pb2.STAGE_OUTCOME_FAILED,
}


@dataclass(frozen=True, slots=True)
class StageClients:
    """One client for every stage."""

    expander: ExpanderClient
    embedder: EmbedderClient
    retriever: RetrieverClient
    reranker: RerankerClient
    additional_embedders: Sequence[EmbedderClient] = ()


class GatewayServicer(LifeServicer):
    """The one door."""

    def __init__(
        self,
        pipeline: Pipeline,
        indexing: Indexing,
        clients: StageClients,
        life: Life,
        settings: GatewaySettings,
        exposure: Exposure,
        shadow: Shadow | None = None,
    ) -> None:
        super().__init__(life, settings)
        self._pipeline = pipeline
        self._exposure = exposure
        self._shadow = shadow
        self._indexing = indexing
        self._clients = clients
        self._query_log = QueryLog(settings.log_queries, settings.log_query_key.get_secret_value())

    async def Search(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.SearchRequest, context: Context
    ) -> gateway_pb2.SearchResponse:
        """Answers a question."""
        _check_question(request)
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        digest = paging.question_digest(
            request.query.encode(),
            request.collection.encode(),
            request.filter.SerializeToString(deterministic=True),
            request.user_id.encode(),
            request.features.SerializeToString(deterministic=True),
            request.policies.SerializeToString(deterministic=True),
            *([b"collapse_duplicates"] if request.collapse_duplicates else []),
            b"by document" if request.group_by_document else b"",
        )
        page = paging.decode(request.page_token, digest)
        asked = _overrides(request.features)
        decision = self._exposure.decide(request.user_id, page.pinned if page.offset else asked)
        _trace(decision)
        question = self._question(request, decision.features, page.offset)
        self._query_log.note(request.query)
        with (
            metrics.ObservedSearch(decision.features, deadline) as counted,
            Observed(self._exposure.evidence, decision, deadline) as observed,
        ):
            answer = await self._pipeline.search(question, deadline=deadline)
            counted.answered(answer)
            observed.answered(empty=not answer.results, quality=quality_of(answer.results))
        if self._shadow is not None:
            self._shadow.offer(
                Answered(decision, question, answer, observed.seconds),
                lambda arm: self._exposure.table.treated(arm.ramp_id, request.user_id, asked),
            )
        last = question.offset + len(answer.results)
        return self._answer(
            question, answer, decision, paging.encode(last, decision.features, digest) if answer.more else ""
        )

    async def CompareSearch(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.CompareSearchRequest, context: Context
    ) -> gateway_pb2.CompareSearchResponse:
        """Answers a question twice, one after the other, so that neither slows the other down."""
        search = request.search
        _check_question(search, "search.")
        if search.page_token:
            raise InvalidArgument("search.page_token", "has no meaning here; compare first pages")
        persistence = request.persistence if request.HasField("persistence") else DEFAULT_PERSISTENCE
        if not 0 < persistence < 1:
            raise InvalidArgument("persistence", f"must be between 0 and 1, without these, not {persistence}")
        deadline = deadline_of(context, self._settings.default_deadline_seconds)
        asked = _overrides(search.features)
        # Nobody's exposure: no user, so no ramp reaches either answer, and kills hold for both.
        standard = self._exposure.table.decide("", asked)
        enhanced = self._exposure.table.decide("", self._enhanced(request, asked))
        self._query_log.note(search.query)
        started = time.monotonic()
        questions = [self._question(search, decision.features, 0) for decision in (standard, enhanced)]
        first = await self._pipeline.search(questions[0], deadline=started + (deadline - started) / 2)
        between = time.monotonic()
        second = await self._pipeline.search(questions[1], deadline=deadline)
        ended = time.monotonic()
        ranking, other = ([result.passage.id for result in answer.results] for answer in (first, second))
        return gateway_pb2.CompareSearchResponse(
            standard=self._answer(questions[0], first, standard),
            enhanced=self._answer(questions[1], second, enhanced),
            standard_duration=duration(between - started),
            enhanced_duration=duration(ended - between),
            depth=questions[0].limit,
            overlap=overlap(ranking, other, questions[0].limit),
            rank_biased_overlap=rank_biased_overlap(ranking, other, persistence),
            persistence=persistence,
        )

    def _enhanced(self, request: gateway_pb2.CompareSearchRequest, asked: FeatureOverrides) -> FeatureOverrides:
        """What the enhanced answer switches, over what the question itself does."""
        table = self._exposure.table
        beyond = _overrides(request.enhanced)
        if request.feature:
            if beyond != NOTHING:
                raise InvalidArgument("feature", "and enhanced are both set; set one of them")
            if any(kill.name == request.feature for kill in table.kills):
                raise FailedPrecondition(f"the feature {request.feature!r} is killed", reason="FEATURE_KILLED")
            ramp = next((ramp for ramp in table.ramps if ramp.name == request.feature), None)
            if ramp is None:
                known = ", ".join(ramp.name for ramp in table.ramps) or "none"
                raise NotFound(f"there is no feature {request.feature!r} here; there are: {known}")
            return combine(asked, ramp.overrides)
        return combine(beyond if beyond != NOTHING else ENHANCED, asked)

    def _question(self, request: gateway_pb2.SearchRequest, features: Features, offset: int) -> Question:
        return Question(
            query=request.query,
            collection=request.collection or self._settings.qdrant_collection,
            features=features,
            policies=Policies(
                expansion=_policy("expansion", request.policies.expansion),
                embedding=_policy("embedding", request.policies.embedding),
                rerank=_policy("rerank", request.policies.rerank),
            ),
            filter=request.filter.SerializeToString(),
            offset=offset,
            limit=_limit(request),
            collapse_duplicates=request.collapse_duplicates,
            group_by_document=request.group_by_document,
        )

    @staticmethod
    def _answer(
        question: Question, answer: Answer, decision: Decision, next_page_token: str = ""
    ) -> gateway_pb2.SearchResponse:
        return gateway_pb2.SearchResponse(
            results=[_result(result) for result in answer.results],
            next_page_token=next_page_token,
            stages=[_report(report) for report in answer.reports],
            features=_features(decision.features),
            collection=question.collection,
            index_version=answer.index_version,
            request_id=request_id.get(),
            snapshot_version=decision.snapshot_version,
            arms=[
                gateway_pb2.FeatureArm(
                    feature=arm.feature, arm=_ARMS[arm.arm], ramp_id=arm.ramp_id, reason=arm.reason.value
                )
                for arm in decision.arms
            ],
        )

    async def IndexDocuments(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.IndexDocumentsRequest, context: Context
    ) -> gateway_pb2.IndexDocumentsResponse:
        """Stores documents."""
        check_count("documents", len(request.documents), MAX_DOCUMENTS)
        documents = [
            Passage(
                document.id,
                document.title,
                document.text,
                {field: value.SerializeToString() for field, value in document.metadata.items()},
            )
            for document in request.documents
        ]
        indexed = await self._indexing.index(
            request.collection or self._settings.qdrant_collection,
            documents,
            chunking=_chunking(request.chunking) if request.HasField("chunking") else None,
            deadline=deadline_of(context, self._settings.index_deadline_seconds),
        )
        return gateway_pb2.IndexDocumentsResponse(
            indexed_count=indexed.count,
            truncated_ids=indexed.truncated_ids,
            index_version=indexed.index_version,
            model=indexed.model,
            passage_count=indexed.passage_count,
        )

    async def DeleteDocuments(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.DeleteDocumentsRequest, context: Context
    ) -> gateway_pb2.DeleteDocumentsResponse:
        """Deletes documents."""
        check_count("ids", len(request.ids), MAX_IDS)
        deleted = await self._life.writing.delete(
            request.collection or self._settings.qdrant_collection,
            request.ids,
            deadline=deadline_of(context, self._settings.default_deadline_seconds),
        )
        return gateway_pb2.DeleteDocumentsResponse(deleted_count=deleted.count)

    async def GetConfig(  # noqa: N802  # gRPC's name
        self, request: gateway_pb2.GetConfigRequest, context: Context
    ) -> gateway_pb2.GetConfigResponse:
        """Describes what is in effect. A stage that is down is described as down, not an error."""
        deadline = min(deadline_of(context), time.monotonic() + CONFIG_DEADLINE_SECONDS)
        name = request.collection or self._settings.qdrant_collection
        clients = self._clients
        stages, collection = await asyncio.gather(
            asyncio.gather(
                _stage_config(Stage.EXPAND, clients.expander, deadline),
                _stage_config(Stage.EMBED, clients.embedder, deadline),
                _stage_config(Stage.RETRIEVE, clients.retriever, deadline),
                _stage_config(Stage.RERANK, clients.reranker, deadline),
                *(_stage_config(Stage.EMBED, embedder, deadline) for embedder in clients.additional_embedders),
            ),
            _collection_config(clients.retriever, name, deadline),
        )
        return gateway_pb2.GetConfigResponse(
            default_features=_features(self._exposure.table.standard),
            stages=stages,
            collection=collection,
            release=version("sluice"),
        )


def _trace(decision: Decision) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        arms = [f"{arm.feature}={arm.arm.value}" for arm in decision.arms if arm.arm is not Arm.STANDARD]
        span.set_attributes({"sluice.rollout.version": decision.snapshot_version, "sluice.rollout.arms": arms})


async def _stage_config(
    stage: Stage,
    client: ExpanderClient | EmbedderClient | RetrieverClient | RerankerClient,
    deadline: float,
) -> gateway_pb2.StageConfig:
    config = gateway_pb2.StageConfig(stage=_STAGES[stage], address=client.channel.address)
    problem = await client.channel.health(client.service, deadline=deadline)
    config.serving = problem is None
    config.problem = problem or ""
    if config.serving and isinstance(client, EmbedderClient | RerankerClient):
        try:
            card = await client.model(deadline=deadline)
        except SluiceError as error:
            config.problem = error.message
            return config
        config.model = card.name
        config.model_fingerprint = card.fingerprint
        config.runtime = card.runtime
        config.pseudo = isinstance(card, EmbeddingModel) and card.pseudo
    return config


async def _collection_config(retriever: RetrieverClient, name: str, deadline: float) -> gateway_pb2.CollectionConfig:
    config = gateway_pb2.CollectionConfig(name=name)
    try:
        card = await retriever.collection(name, deadline=deadline)
    except SluiceError as error:
        if kind_of(error).retryable:
            return config  # the report of the retriever says why
        raise
    if card is None:
        return config
    config = gateway_pb2.CollectionConfig(
        name=name,
        exists=True,
        index_version=card.index_version,
        model=card.model,
        model_fingerprint=card.model_fingerprint,
        dimension=card.dimension,
        document_count=card.passage_count,
        fields=card.fields,
    )
    config.create_time.FromDatetime(card.created)
    return config


def _chunking(chunking: gateway_pb2.Chunking) -> Chunking:
    return Chunking(chunking.chunk_tokens, chunking.overlap_tokens if chunking.HasField("overlap_tokens") else None)


def _check_question(request: gateway_pb2.SearchRequest, path: str = "") -> None:
    check_text(f"{path}query", request.query, MAX_QUERY_BYTES)
    size = len(request.user_id.encode())
    if size > MAX_USER_BYTES:
        raise InvalidArgument(f"{path}user_id", f"is {size} bytes long; at most {MAX_USER_BYTES} are taken")


def _limit(request: gateway_pb2.SearchRequest) -> int:
    limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument("limit", f"must be between 1 and {MAX_LIMIT}, not {limit}; use page_token for more")
    return limit


def _overrides(features: gateway_pb2.Features) -> FeatureOverrides:
    if not features.ByteSize():
        return NOTHING

    def given(name: str) -> Any:
        return getattr(features, name) if features.HasField(name) else None  # type: ignore[arg-type]

    if features.expansion_strategy not in _STRATEGIES:
        raise InvalidArgument(
            "features.expansion_strategy", f"is unknown ({features.expansion_strategy}); use synonyms or multi_query"
        )
    return FeatureOverrides(
        dense=given("dense"),
        lexical=given("lexical"),
        expansion=given("expansion"),
        expansion_strategy=_STRATEGIES[features.expansion_strategy],
        max_variant_count=given("max_variant_count"),
        rerank=given("rerank"),
        rerank_candidate_count=given("rerank_candidate_count"),
    )


def _policy(name: str, policy: gateway_pb2.StagePolicy.ValueType) -> Policy | None:
    if policy not in _POLICIES:
        raise InvalidArgument(f"policies.{name}", f"is unknown ({policy}); use required or best effort")
    return _POLICIES[policy]


def _features(features: Features) -> gateway_pb2.Features:
    strategy = next(number for number, known in _STRATEGIES.items() if known is features.expansion_strategy)
    return gateway_pb2.Features(
        dense=features.dense,
        lexical=features.lexical,
        expansion=features.expansion,
        expansion_strategy=strategy,
        max_variant_count=features.max_variant_count,
        rerank=features.rerank,
        rerank_candidate_count=features.rerank_candidate_count,
    )


def _result(result: Result) -> gateway_pb2.Result:
    part = result.passage.chunk
    return gateway_pb2.Result(
        id=result.passage.id,
        document_id=result.passage.document_id,
        chunk=gateway_pb2.Chunk(number=part.number, count=part.count, start=part.start, end=part.end) if part else None,
        title=result.passage.title,
        text=result.passage.text,
        # The retriever's values and the gateway's are the same on the wire.
        metadata={field: gateway_pb2.Value.FromString(raw) for field, raw in result.passage.metadata.items()},
        score=result.score,
        rank=result.rank,
        scores=gateway_pb2.StageScores(
            retrieval=result.retrieval_score,
            retrieval_rank=result.retrieval_rank,
            rerank=result.rerank_score,
        ),
        duplicate_count=result.duplicate_count,
    )


def _report(report: StageReport) -> gateway_pb2.StageReport:
    return gateway_pb2.StageReport(
        stage=_STAGES[report.stage],
        outcome=_OUTCOMES[report.outcome],
        reason=report.reason,
        detail=report.detail,
        duration=duration(report.seconds),
        model=report.model,
        item_count=report.item_count,
    )
