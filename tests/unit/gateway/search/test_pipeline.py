"""The graph of stages, with stages that answer from memory so that each can be made to fail at will."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from services.chassis.errors import FailedPrecondition, SluiceError, Unavailable
from services.gateway.search.budgets import Budgets
from services.gateway.search.flags import Features
from services.gateway.search.pipeline import Pipeline, StageObserver, Stages, Weights
from services.gateway.search.stages import (
    Answer,
    Candidate,
    Embedded,
    Expanded,
    Outcome,
    Policies,
    Policy,
    Question,
    Reranked,
    Retrieved,
    SearchVariant,
    Stage,
    StageReport,
    Variant,
)
from sluice.type.v1 import filter_pb2, passage_pb2
from tests.unit.gateway.samples import embedded, model, passage

QUESTION = Question(
    query="how do pools work",
    collection="docs",
    features=Features(expansion=True, rerank=True),
    limit=3,
)
PASSAGES = [passage(str(number), f"title {number}", f"text {number}") for number in range(8)]


@dataclass
class World:
    """Four stages in memory, and a note of what they were asked."""

    expand_error: SluiceError | None = None
    embed_error: SluiceError | None = None
    variant_embed_error: SluiceError | None = None
    retrieve_error: SluiceError | None = None
    rerank_error: SluiceError | None = None
    pseudo: bool = False
    found: Sequence[passage_pb2.Passage] = field(default_factory=lambda: PASSAGES)
    searched: list[SearchVariant] = field(default_factory=list)
    fingerprint: str | None = None
    weights: tuple[float, float] | None = None
    reranked: list[str] = field(default_factory=list)
    embedding: asyncio.Event = field(default_factory=asyncio.Event)
    expanding: asyncio.Event = field(default_factory=asyncio.Event)
    budgets: Budgets = field(default_factory=Budgets)
    deadline_seconds: float = 30.0
    model: str = "f00d"
    index_model: str = "f00d"
    switched_while_expanding: bool = False
    switches: int = 0
    """Number of switches of the collection just before it is searched."""

    async def expand(self, query: str, features: Features, *, deadline: float) -> Expanded:
        self.expanding.set()
        await asyncio.wait_for(self.embedding.wait(), 5)
        if self.expand_error:
            raise self.expand_error
        return Expanded([Variant(query, 1.0), Variant("another way", 0.3)])

    def forget(self, collection: str) -> None:
        self.model = self.index_model

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        self.embedding.set()
        if self.embed_error:
            raise self.embed_error
        if self.variant_embed_error and QUESTION.query not in texts:
            raise self.variant_embed_error
        vectors = [text.encode() for text in texts]
        if QUESTION.query not in texts and self.switched_while_expanding:
            self.switched_while_expanding = False
            self.model = self.index_model = "beef"
        return embedded(vectors, model(self.model, pseudo=self.pseudo))

    async def search(
        self,
        collection: str,
        variants: Sequence[SearchVariant],
        *,
        filter: filter_pb2.Filter,
        limit: int,
        dense_weight: float,
        lexical_weight: float,
        model_fingerprint: str,
        deadline: float,
    ) -> Retrieved:
        if self.retrieve_error:
            raise self.retrieve_error
        if self.switches:
            self.switches -= 1
            self.index_model = f"model {self.switches}"
        if model_fingerprint and model_fingerprint != self.index_model:
            raise FailedPrecondition("other model", reason="MODEL_MISMATCH")
        self.searched = list(variants)
        self.fingerprint = model_fingerprint
        self.weights = (dense_weight, lexical_weight)
        candidates = [Candidate(passage, 1.0 / (rank + 1)) for rank, passage in enumerate(self.found[:limit])]
        return Retrieved(candidates, "docs-v1")

    async def rerank(self, query: str, passages: Sequence[str], *, deadline: float) -> Reranked:
        if self.rerank_error:
            raise self.rerank_error
        self.reranked = list(passages)
        return Reranked([float(number) * 10 for number in range(len(passages))], "cross")

    async def answer(self, question: Question = QUESTION) -> Answer:
        return await self.pipeline().search(question, deadline=time.monotonic() + self.deadline_seconds)

    def pipeline(self, observe: StageObserver = lambda _features, _reports: None) -> Pipeline:
        weights = Weights(dense=1.0, lexical=0.67, rerank=1.0)
        return Pipeline(Stages(self, self, self, self), weights, self.budgets, observe)


def reports(answer: Answer) -> dict[Stage, StageReport]:
    return {report.stage: report for report in answer.reports}


def with_features(**features: object) -> Question:
    return replace(QUESTION, features=replace(QUESTION.features, **features))


def ids(answer: Answer) -> list[str]:
    return [result.passage.id for result in answer.results]


async def test_the_query_is_embedded_while_it_is_being_expanded() -> None:
    # expand() waits until embed has begun: one after the other, this would time out.
    answer = await World().answer()
    assert [report.outcome for report in answer.reports] == [Outcome.RAN] * 4


async def test_every_variant_is_searched_with_its_own_vector_and_weight() -> None:
    world = World()
    await world.answer()
    assert world.searched == [
        SearchVariant("how do pools work", b"how do pools work", 1.0),
        SearchVariant("another way", b"another way", 0.3),
    ]
    assert world.fingerprint == "f00d"


async def test_the_cross_encoder_reorders_and_ranks_before_are_kept() -> None:
    answer = await World().answer(with_features(rerank_candidate_count=4))
    assert ids(answer) == ["3", "2", "1"]
    assert [result.retrieval_rank for result in answer.results] == [4, 3, 2]
    assert [result.rank for result in answer.results] == [1, 2, 3]


async def test_features_that_are_off_are_reported_as_skipped() -> None:
    world = World()
    world.embedding.set()
    answer = await world.answer(with_features(expansion=False, rerank=False, dense=False))
    skipped = {stage for stage, report in reports(answer).items() if report.outcome is Outcome.SKIPPED}
    assert skipped == {Stage.EXPAND, Stage.EMBED, Stage.RERANK}
    assert world.weights == (0.0, 0.67)
    assert world.fingerprint == ""


async def test_an_expander_that_fails_is_left_out() -> None:
    world = World(expand_error=Unavailable("down"))
    answer = await world.answer()
    assert reports(answer)[Stage.EXPAND].outcome is Outcome.FAILED
    assert reports(answer)[Stage.EXPAND].reason == "DEPENDENCY_DOWN"
    assert len(world.searched) == 1


async def test_without_vectors_words_alone_serve_and_the_report_says_so() -> None:
    world = World(embed_error=Unavailable("down"))
    answer = await world.answer()
    assert reports(answer)[Stage.EMBED].outcome is Outcome.FAILED
    assert reports(answer)[Stage.RETRIEVE].outcome is Outcome.DEGRADED
    assert reports(answer)[Stage.RETRIEVE].reason == "LEXICAL_ONLY"
    assert [variant.vector for variant in world.searched] == [b"", b""]
    assert ids(answer)


async def test_without_vectors_and_without_words_there_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        await World(embed_error=Unavailable("down")).answer(with_features(lexical=False))


async def test_variants_that_cannot_be_embedded_are_searched_by_words() -> None:
    world = World(variant_embed_error=Unavailable("busy"))
    answer = await world.answer()
    assert reports(answer)[Stage.EMBED].outcome is Outcome.DEGRADED
    assert [variant.vector for variant in world.searched] == [b"how do pools work", b""]


async def test_a_reranker_that_fails_leaves_the_first_stages_order() -> None:
    answer = await World(rerank_error=Unavailable("down")).answer()
    assert reports(answer)[Stage.RERANK].outcome is Outcome.FAILED
    assert ids(answer) == ["0", "1", "2"]


async def test_nothing_found_is_an_answer_and_nothing_is_reranked() -> None:
    answer = await World(found=[]).answer()
    assert answer.results == []
    assert reports(answer)[Stage.RERANK].reason == "NO_CANDIDATES"


async def test_pseudo_embeddings_are_reported_with_every_answer() -> None:
    report = reports(await World(pseudo=True).answer())[Stage.EMBED]
    assert (report.outcome, report.reason) == (Outcome.DEGRADED, "PSEUDO_EMBEDDINGS")


@pytest.mark.parametrize(
    ("policies", "world"),
    [
        (Policies(expansion=Policy.REQUIRED), World(expand_error=Unavailable("down", reason="NO_EXPANDER"))),
        (Policies(embedding=Policy.REQUIRED), World(embed_error=Unavailable("down", reason="NO_EMBEDDER"))),
        (Policies(rerank=Policy.REQUIRED), World(rerank_error=Unavailable("down", reason="NO_RERANKER"))),
    ],
    ids=["expansion", "embedding", "rerank"],
)
async def test_a_required_stage_fails_the_call_with_its_own_error(policies: Policies, world: World) -> None:
    with pytest.raises(Unavailable, match="down") as caught:
        await world.answer(replace(QUESTION, policies=policies))
    assert caught.value.reason.startswith("NO_")


async def test_a_stage_that_the_search_did_not_come_to_has_a_report_as_well() -> None:
    seen: list[list[StageReport]] = []
    world = World(retrieve_error=Unavailable("down"))
    with pytest.raises(Unavailable):
        await world.pipeline(lambda _, reports: seen.append(list(reports))).search(QUESTION, deadline=math.inf)
    (reports,) = seen
    assert [(report.stage, report.reason) for report in reports[2:]] == [
        (Stage.RETRIEVE, "DEPENDENCY_DOWN"),
        (Stage.RERANK, "NOT_REACHED"),
    ]
    assert [report.stage for report in reports] == list(Stage)


async def test_retrieval_is_always_required() -> None:
    with pytest.raises(FailedPrecondition):
        await World(retrieve_error=FailedPrecondition("other model", reason="MODEL_MISMATCH")).answer()


async def test_a_search_that_a_switch_overtakes_is_made_again_with_the_new_model() -> None:
    world = World(index_model="beef")
    answer = await world.answer()
    assert (world.fingerprint, reports(answer)[Stage.EMBED].outcome) == ("beef", Outcome.RAN)


async def test_a_search_is_made_again_after_each_switch_up_to_a_limit() -> None:
    world = World(switches=4)
    await world.answer()
    assert world.fingerprint == "model 0"
    with pytest.raises(FailedPrecondition, match="other model"):
        await World(switches=1000).answer()


async def test_a_query_and_its_variants_are_never_embedded_by_different_models() -> None:
    world = World(switched_while_expanding=True)
    await world.answer(with_features(expansion=True))
    assert world.fingerprint == "beef"


async def test_pages_follow_one_another_without_gap_or_repeat() -> None:
    pages, offset = [], 0
    while True:
        answer = await World().answer(replace(QUESTION, offset=offset))
        pages += [(result.rank, result.passage.id) for result in answer.results]
        offset += len(answer.results)
        if not answer.more:
            break
    assert [rank for rank, _ in pages] == list(range(1, 9))
    assert len({identity for _, identity in pages}) == 8


async def test_near_duplicates_are_collapsed_on_request_after_reranking_and_pages_stay_full() -> None:
    copies = [passage(f"{kind}{number}", "", f"what is said of {kind}") for number in range(3) for kind in "abc"]
    question = replace(QUESTION, limit=2, features=replace(QUESTION.features, rerank_candidate_count=9))
    assert ids(await World(found=copies).answer(question)) == ["c2", "b2"]
    question = replace(question, collapse_duplicates=True)
    first = await World(found=copies).answer(question)
    last = await World(found=copies).answer(replace(question, offset=2))
    assert [(ids(page), page.more) for page in (first, last)] == [(["c2", "b2"], True), (["a2"], False)]
    assert [result.duplicate_count for result in [*first.results, *last.results]] == [2, 2, 2]
    assert last.results[0].rank == 3


async def test_nothing_is_collapsed_unless_it_is_asked_for() -> None:
    copies = [passage(str(number), "", "the same") for number in range(3)]
    answer = await World(found=copies).answer()
    assert [result.duplicate_count for result in answer.results] == [0, 0, 0]


async def test_the_reranker_reads_title_and_text() -> None:
    world = World()
    await world.answer()
    assert world.reranked[0] == "title 0\ntext 0"


async def test_optional_stages_that_do_not_fit_the_deadline_are_skipped() -> None:
    world = World(deadline_seconds=0.5)
    world.embedding.set()
    now = time.monotonic()
    for pace in (world.budgets.expansion, world.budgets.embedding, world.budgets.rerank_character):
        pace.observe(now, 60.0)
    answer = await world.answer()
    skipped = {stage: report.reason for stage, report in reports(answer).items() if report.outcome is Outcome.SKIPPED}
    assert skipped == {Stage.EXPAND: "NO_TIME", Stage.EMBED: "NO_TIME", Stage.RERANK: "NO_TIME"}
    assert ids(answer) == ["0", "1", "2"]


async def test_a_required_stage_is_asked_however_little_time_there_is() -> None:
    world = World(deadline_seconds=0.5)
    world.budgets.rerank_character.observe(time.monotonic(), 60.0)
    required = replace(QUESTION, policies=Policies(rerank=Policy.REQUIRED))
    assert reports(await world.answer(required))[Stage.RERANK].outcome is Outcome.RAN


async def test_the_reranker_reads_fewer_candidates_where_time_is_short() -> None:
    world = World(deadline_seconds=1.0)
    world.budgets.rerank_character.observe(time.monotonic(), 0.1 / len("title 0\ntext 0"))
    report = reports(await world.answer())[Stage.RERANK]
    assert (report.outcome, report.reason) == (Outcome.DEGRADED, "FEWER_CANDIDATES")
    assert 0 < len(world.reranked) == report.item_count < 5
