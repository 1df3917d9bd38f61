from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import DeadlineExceeded, Internal, InvalidArgument, Unavailable
from services.gateway.search.arms.two_arms import Asked, TwoArms
from services.gateway.search.flags import Features
from services.gateway.search.order.interleaving import Coin, draft
from services.gateway.search.order.ranking import Weights
from services.gateway.search.pipeline import Pipeline, Stages
from services.gateway.search.question import QueryVector, Question
from services.gateway.search.stages import (
    Answer,
    Embedded,
    Outcome,
    QueryTokens,
    Reranked,
    Retrieved,
    Stage,
)
from sluice.type.v1 import passage_pb2
from tests.unit.gateway.samples import passage
from tests.unit.gateway.search.world import PASSAGES, QUESTION, World, ids, reports

HYBRID = replace(QUESTION, features=Features(), limit=4)
RERANKED = replace(HYBRID, features=Features(rerank=True, rerank_method="cross_encoder", rerank_candidate_count=20))
LATE = replace(HYBRID, features=Features(rerank=True, rerank_method="late", rerank_candidate_count=20))
EXPANDED = replace(HYBRID, features=Features(expansion=True))
HOPPING = replace(HYBRID, features=Features(multi_hop=True))
DENSE = replace(HYBRID, features=Features(lexical=False))
NAMES = ("control", "treatment")


@dataclass
class Arms(World):
    """Stages of two arms, which count their calls; each may be made to fail for one arm alone."""

    embedded: int = 0
    tokens_made: int = 0
    searched_by: list[tuple[float, float]] = field(default_factory=list)
    dense_error: Exception | None = None
    """Error of searches by vectors alone."""
    hybrid_error: Exception | None = None
    hangs: bool = False
    """True if a reranking never ends."""
    switched: bool = False
    """True if searches by vectors alone meet another version."""

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        self.embedded += 1
        return await super().embed_queries(texts, collection=collection, deadline=deadline)

    async def embed_query_tokens(self, query: str, *, collection: str, deadline: float) -> QueryTokens:
        self.tokens_made += 1
        return await super().embed_query_tokens(query, collection=collection, deadline=deadline)

    async def search(self, collection: str, *args: object, **kwargs: object) -> Retrieved:
        weights = (kwargs["dense_weight"], kwargs["lexical_weight"])
        self.searched_by.append(weights)  # type: ignore[arg-type]
        error = self.hybrid_error if weights[1] else self.dense_error
        if error is not None:
            raise error
        before = self.found
        self.found = before if weights[1] else [*before[1:], *before[:1]]
        found = await super().search(collection, *args, **kwargs)  # type: ignore[arg-type]
        self.found = before
        return replace(found, index_version="docs-v2" if self.switched and not weights[1] else "docs-v1")

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().rerank(query, passages, partial=partial, deadline=deadline)


def both(first: Question, second: Question, *, user: str = "ada") -> Asked:
    return Asked((first, second), NAMES, "salt", user)


async def asked(world: World, question: Asked, *, within: float = 30.0, page_bytes: int = 2**20) -> Answer:
    pipeline = Pipeline(
        Stages(world, world, world, world), Weights(1, 0.67, 1, 1), world.budgets, page_bytes=page_bytes
    )
    return await TwoArms(pipeline).search(question, deadline=time.monotonic() + within)


async def alone(world: World, question: Question) -> Answer:
    return await world.answer(question)


def later(question: Asked, answer: Answer) -> Asked:
    """The same question for the page after an answer."""
    assert answer.following is not None
    assert answer.drafted is not None
    assert answer.drafted.course is not None
    courses = (answer.course, answer.drafted.course)
    first, second = (
        replace(one, offset=answer.following, course=course)
        for one, course in zip(question.questions, courses, strict=True)
    )
    return replace(question, questions=(first, second))


async def pages(world: World, question: Asked, *, page_bytes: int = 2**20) -> list[Answer]:
    """All pages of an answer."""
    answers = [await asked(world, question, page_bytes=page_bytes)]
    while answers[-1].following is not None:
        answers.append(await asked(world, later(question, answers[-1]), page_bytes=page_bytes))
    return answers


@pytest.mark.parametrize("question", [HYBRID, RERANKED, LATE, EXPANDED, HOPPING, DENSE])
@pytest.mark.parametrize("more", [{}, {"diversity": 0.5}, {"highlights": True}, {"collapse_duplicates": True}])
async def test_two_equal_arms_give_the_answer_of_either(question: Question, more: dict[str, object]) -> None:
    question = replace(question, **more)  # type: ignore[arg-type]
    world = Arms(late=[0.1, 0.9, 0.5], related=[(PASSAGES[5], 0.9, 0.5), (passage("new", "", "new"), 0.8, None)])
    expected = await alone(world, question)
    answer = await asked(world, both(question, question))
    assert list(answer.results) == list(expected.results)
    assert (answer.course, answer.following, answer.enrichment_score) == (
        expected.course,
        expected.following,
        expected.enrichment_score,
    )
    assert [report._replace(seconds=0) for report in answer.reports] == [
        report._replace(seconds=0) for report in expected.reports
    ]
    assert answer.drafted is not None
    assert not answer.drafted.one_arm
    assert {one.team for one in answer.results} == {0}


async def test_results_of_both_arms_are_drafted_and_keep_the_scores_of_their_arm() -> None:
    first, second = await alone(Arms(), HYBRID), await alone(Arms(), RERANKED)
    answer = await asked(Arms(), both(HYBRID, RERANKED))
    rankings = (ids(first), ids(second))
    placed = list(draft(rankings, Coin("salt", "ada", b"how do pools work"), set()))[:4]
    assert [(one.passage.id, one.team) for one in answer.results] == [
        (rankings[one.arm][one.place], one.team) for one in placed
    ]
    assert {one.team for one in answer.results} == {1, 2}
    assert [one.rank for one in answer.results] == [1, 2, 3, 4]
    of_arm = [{one.passage.id: one for one in found.results} for found in (first, second)]
    for result in answer.results:
        own = of_arm[result.team - 1][result.passage.id]
        assert result._replace(rank=own.rank, team=0) == own
    assert reports(answer)[Stage.RERANK].reason == "FEATURE_OFF"


async def test_users_have_coins_of_their_own() -> None:
    begins = {
        (await asked(Arms(), both(HYBRID, RERANKED, user=f"user-{number}"))).results[0].team for number in range(20)
    }
    assert begins == {1, 2}


async def test_questions_without_words_have_coins_of_their_own() -> None:
    def of(**fields: object) -> list[bool]:
        coin = both(replace(HYBRID, query="", **fields), HYBRID).coin  # type: ignore[arg-type]
        return [coin(number) for number in range(64)]

    made = [of(like_document_id="a"), of(like_document_id="b"), of(vector=QueryVector(b"1234", "m")), of()]
    assert len({tuple(one) for one in made}) == len(made)


@pytest.mark.parametrize(
    ("first", "second", "searches"), [(HYBRID, LATE, 2), (HYBRID, HYBRID, 1), (LATE, LATE, 1), (HYBRID, HOPPING, 2)]
)
async def test_what_both_arms_ask_is_asked_once(first: Question, second: Question, searches: int) -> None:
    world = Arms(late=[0.1, 0.9])
    await asked(world, both(first, second))
    assert (world.embedded, len(world.searched_by)) == (1, searches)
    assert world.tokens_made == (LATE in (first, second))


@pytest.mark.parametrize("error", [Unavailable("down"), Internal("broken"), RuntimeError("a bug")])
async def test_where_the_second_arm_fails_the_answer_is_the_first_s_and_is_not_counted(error: Exception) -> None:
    answer = await asked(Arms(dense_error=error), both(HYBRID, DENSE))
    expected = await alone(Arms(), HYBRID)
    assert (list(answer.results), answer.following) == (list(expected.results), expected.following)
    drafted = answer.drafted
    assert drafted is not None
    assert (drafted.one_arm, drafted.served, drafted.failed_arm, drafted.course) == (True, 0, "treatment", None)


async def test_where_the_first_arm_fails_the_answer_is_the_second_s() -> None:
    answer = await asked(Arms(hybrid_error=Unavailable("down")), both(HYBRID, DENSE))
    expected = await alone(Arms(), DENSE)
    assert (list(answer.results), answer.course) == (list(expected.results), expected.course)
    drafted = answer.drafted
    assert drafted is not None
    assert (drafted.one_arm, drafted.served, drafted.failed_arm) == (True, 1, "control")


async def test_where_both_fail_the_first_arm_s_error_is_raised() -> None:
    world = Arms(hybrid_error=Unavailable("first"), dense_error=Internal("second"))
    with pytest.raises(Unavailable, match="first"):
        await asked(world, both(HYBRID, DENSE))


async def test_an_arm_is_not_blamed_for_a_question_that_it_cannot_take() -> None:
    answer = await asked(Arms(dense_error=InvalidArgument("vector", "is none")), both(HYBRID, DENSE))
    assert answer.drafted is not None
    assert (answer.drafted.one_arm, answer.drafted.failed_arm) == (True, "")


async def test_an_arm_that_comes_too_late_is_left_out_in_time() -> None:
    started = time.monotonic()
    answer = await asked(Arms(hangs=True), both(HYBRID, RERANKED), within=0.3)
    assert time.monotonic() < started + 0.3
    assert ids(answer) == ids(await alone(Arms(), HYBRID))
    drafted = answer.drafted
    assert drafted is not None
    assert (drafted.one_arm, drafted.failed_arm) == (True, "treatment")
    assert drafted.seconds[0] < drafted.seconds[1] < 0.3


async def test_two_arms_that_come_too_late_are_a_missed_deadline() -> None:
    with pytest.raises(DeadlineExceeded):
        await asked(Arms(hangs=True), both(RERANKED, RERANKED), within=0.1)


async def test_arms_that_met_two_versions_of_a_collection_make_no_draft() -> None:
    answer = await asked(Arms(switched=True), both(HYBRID, DENSE))
    assert answer.drafted is not None
    assert (answer.drafted.one_arm, answer.drafted.failed_arm, answer.index_version) == (True, "", "docs-v1")


async def test_a_best_effort_stage_that_fails_in_one_arm_leaves_the_draft() -> None:
    answer = await asked(Arms(rerank_error=Unavailable("down")), both(RERANKED, HYBRID))
    assert answer.drafted is not None
    assert not answer.drafted.one_arm
    assert reports(answer)[Stage.RERANK].outcome is Outcome.FAILED


@settings(max_examples=30)
@given(st.integers(1, 25), st.integers(1, 12), st.sampled_from([(HYBRID, RERANKED), (DENSE, RERANKED), (LATE, DENSE)]))
async def test_pages_go_on_with_the_draft_without_repeating_or_leaving_out_results(
    found: int, limit: int, arms: tuple[Question, Question]
) -> None:
    passages = [passage(str(number), "", f"text {number}") for number in range(found)]
    first, second = (replace(one, limit=limit) for one in arms)
    answers = await pages(Arms(found=passages, late=[0.5, 0.1, 0.9]), both(first, second))
    results = [result for answer in answers for result in answer.results]
    [whole] = await pages(
        Arms(found=passages, late=[0.5, 0.1, 0.9]), both(replace(first, limit=100), replace(second, limit=100))
    )
    assert results == list(whole.results)
    assert sorted(result.passage.id for result in results) == sorted(one.id for one in passages)
    assert [result.rank for result in results] == list(range(1, found + 1))


async def test_a_page_that_a_message_has_no_room_for_goes_on_on_the_next() -> None:
    passages = [passage(str(number), "", "x" * 400) for number in range(12)]
    answers = await pages(Arms(found=passages), both(HYBRID, RERANKED), page_bytes=1000)
    assert {len(answer.results) for answer in answers} == {2}
    assert len({one for answer in answers for one in ids(answer)}) == len(passages)


async def test_a_later_page_is_made_by_both_arms_or_not_at_all() -> None:
    passages = [passage(str(number), "", f"text {number}") for number in range(20)]
    question = both(HYBRID, DENSE)
    first = await asked(Arms(found=passages), question)
    with pytest.raises(Unavailable, match="down"):
        await asked(Arms(found=passages, dense_error=Unavailable("down")), later(question, first))
    with pytest.raises(Unavailable, match="down"):
        await asked(Arms(found=passages, hybrid_error=Unavailable("down")), later(question, first))


def chunk(number: int, document: str, text: str = "") -> passage_pb2.Passage:
    return passage_pb2.Passage(id=f"{document}#{number}", document_id=document, text=text or f"text {number}")


async def test_each_document_has_one_result_where_its_best_chunks_differ_between_the_arms() -> None:
    passages = [chunk(number, f"d{number // 3}") for number in range(24)]
    first, second = (replace(one, group_by_document=True, limit=3) for one in (HYBRID, RERANKED))
    answers = await pages(Arms(found=passages), both(first, second))
    documents = [one.passage.document_id for answer in answers for one in answer.results]
    assert sorted(documents) == sorted({one.document_id for one in passages})


async def test_near_duplicates_are_the_same_result_where_the_arms_prefer_different_ones() -> None:
    texts = ["a pool of threads waits for work to do", "rain falls on the roof of the house", "pools are full of water"]
    passages = [passage(str(number), "", texts[number // 3]) for number in range(9)]
    first, second = (replace(one, collapse_duplicates=True, limit=2) for one in (HYBRID, RERANKED))
    answers = await pages(Arms(found=passages), both(first, second))
    kinds = [texts.index(one.passage.text) for answer in answers for one in answer.results]
    assert sorted(kinds) == [0, 1, 2]
    assert {one.duplicate_count for answer in answers for one in answer.results} == {2}


async def test_sentences_are_named_once_for_the_page() -> None:
    world = Arms()
    first, second = (replace(one, highlights=True) for one in (HYBRID, RERANKED))
    answer = await asked(world, both(first, second))
    assert world.marked == [HYBRID.query, *(one.passage.text for one in answer.results)]
    assert all(one.highlights for one in answer.results)


async def test_an_answer_has_an_enrichment_score_where_one_arm_followed_relations() -> None:
    world = Arms(related=[(passage("new", "", "new"), 0.95, None)])
    answer = await asked(world, both(HYBRID, HOPPING))
    assert answer.enrichment_score is not None
    assert (await asked(world, both(HYBRID, RERANKED))).enrichment_score is None
    assert [one.path for one in answer.results if one.passage.id == "new"]


async def test_calls_of_an_arm_that_is_given_up_end_with_the_search() -> None:
    world = Arms(hangs=True)
    before = asyncio.all_tasks()
    search = asyncio.create_task(asked(world, both(RERANKED, RERANKED)))
    while not world.searched_by:
        await asyncio.sleep(0)
    search.cancel()
    await asyncio.wait([search])
    for _ in range(10):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_an_answer_tells_what_each_arm_did() -> None:
    answer = await asked(Arms(), both(HYBRID, RERANKED))
    assert answer.drafted is not None
    outcomes = [{report.stage: report.outcome for report in found.reports} for found in (answer, answer.drafted)]
    assert [outcome[Stage.RERANK] for outcome in outcomes] == [Outcome.SKIPPED, Outcome.RAN]
    failing = (await asked(Arms(hybrid_error=Unavailable("down", reason="SOME_REASON")), both(HYBRID, DENSE))).drafted
    assert failing is not None
    assert (list(failing.reports), failing.failure_reason) == ([], "SOME_REASON")
