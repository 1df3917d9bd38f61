from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import FailedPrecondition, Unavailable
from services.gateway.search.order.calibration import CROSS_ENCODER, LATE
from services.gateway.search.question import Policies, Policy, Question
from services.gateway.search.reranking import MOST_INSTEAD
from services.gateway.search.stages import Answer, Outcome, Stage, StageReport
from tests.unit.gateway.samples import passage
from tests.unit.gateway.search.world import World, ids, reports, with_features

LATE_SCORES = [0.5, 0.1, 0.9, 0.7, 0.3, 0.2, 0.8, 0.6]
BY_LATE = ["2", "6", "3", "7", "0", "4", "5", "1"]
"""The eight passages in the order of these scores."""
MANY = [passage(str(number), "", f"text {number}") for number in range(40)]


def by(method: str, **features: Any) -> Question:
    return with_features(expansion=False, rerank_method=method, **features)


def world(**options: Any) -> World:
    made = World(**{"late": LATE_SCORES, **options})
    made.embedding.set()
    return made


def report_of(answer: Answer) -> StageReport:
    return reports(answer)[Stage.RERANK]


async def test_late_interaction_reorders_without_the_cross_encoder() -> None:
    stages = world()
    answer = await stages.answer(by("late", rerank_candidate_count=8))
    assert ids(answer) == BY_LATE[:3]
    assert not stages.reranked
    report = report_of(answer)
    assert (report.outcome, report.reason, report.model, report.item_count) == (Outcome.RAN, "", "tokens", 8)
    assert stages.compared == [8]


async def test_the_tokens_of_a_query_are_embedded_while_it_is_being_expanded() -> None:
    stages = World(late=LATE_SCORES)
    stages.expand_waits_for = stages.embedding_tokens
    answer = await stages.answer(with_features(rerank_method="late"))
    assert report_of(answer).model == "tokens"


async def test_candidates_that_were_not_compared_stay_below_in_their_order() -> None:
    answer = await world(found=MANY).answer(replace(by("late", rerank_candidate_count=4), limit=10))
    assert ids(answer) == ["2", "3", "0", "1", "4", "5", "6", "7", "8", "9"]


async def test_in_a_cascade_the_cross_encoder_reads_the_best_after_late_interaction() -> None:
    stages = world()
    answer = await stages.answer(replace(by("cascade", rerank_candidate_count=8, cascade_count=3), limit=5))
    assert stages.reranked == [f"title {identity}\ntext {identity}" for identity in BY_LATE[:3]]
    # It likes the last that it reads best; those that it does not read keep the order before.
    assert ids(answer) == [*BY_LATE[:3][::-1], *BY_LATE[3:5]]
    report = report_of(answer)
    assert (report.outcome, report.model, report.item_count) == (Outcome.RAN, "cross", 3)


async def test_what_the_cross_encoder_did_not_come_to_by_the_deadline_keeps_the_order_before_it() -> None:
    stages = world(time_for=2)
    answer = await stages.answer(replace(by("cascade", rerank_candidate_count=8, cascade_count=3), limit=5))
    assert ids(answer) == [*BY_LATE[:2][::-1], *BY_LATE[2:5]]
    report = report_of(answer)
    assert (report.outcome, report.reason, report.item_count) == (Outcome.DEGRADED, "FEWER_CANDIDATES", 2)


async def test_each_result_has_the_scores_of_those_that_looked_at_it_and_a_relevance() -> None:
    question = replace(by("cascade", rerank_candidate_count=6, cascade_count=2), limit=8)
    results = {result.passage.id: result for result in (await world().answer(question)).results}
    assert {key for key, result in results.items() if result.rerank_score is not None} == {"2", "3"}
    assert {key for key, result in results.items() if result.late_score is None} == {"6", "7"}
    assert results["3"].relevance == CROSS_ENCODER.relevance(10.0)
    assert results["0"].relevance == LATE.relevance(0.5)
    scores = results["7"].to_proto().scores
    assert not any(scores.HasField(field) for field in ("rerank", "late", "relevance"))
    assert results["0"].to_proto().scores.late == pytest.approx(0.5)


@pytest.mark.parametrize("method", ["late", "cascade"])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FailedPrecondition("none", reason="NO_TOKEN_VECTORS"), "NO_TOKEN_VECTORS"),
        (FailedPrecondition("another", reason="TOKEN_MODEL_NOT_SERVED"), "TOKEN_MODEL_NOT_SERVED"),
        (Unavailable("down"), "DEPENDENCY_DOWN"),
        (None, "NOT_COMPARED"),
    ],
    ids=["no vectors", "no model", "down", "nothing compared"],
)
async def test_without_token_vectors_the_cross_encoder_serves_and_the_report_says_why(
    method: str, failure: Exception | None, reason: str
) -> None:
    stages = world(token_error=failure, late=())
    answer = await stages.answer(by(method, rerank_candidate_count=4))
    assert ids(answer) == ["3", "2", "1"]
    report = report_of(answer)
    assert (report.outcome, report.reason, report.model, report.item_count) == (Outcome.DEGRADED, reason, "cross", 4)
    assert answer.idle_stages == {"rerank"}


async def test_token_vectors_that_would_come_too_late_are_not_asked_for() -> None:
    stages = world(deadline_seconds=0.5)
    stages.budgets.tokens.observe(time.monotonic(), 60.0)
    report = report_of(await stages.answer(by("late")))
    assert not stages.embedding_tokens.is_set()
    assert (report.outcome, report.reason, report.model) == (Outcome.DEGRADED, "NO_TIME", "cross")
    required = replace(by("late"), policies=Policies(rerank=Policy.REQUIRED))
    assert report_of(await stages.answer(required)).outcome is Outcome.RAN


async def test_the_cross_encoder_does_not_read_all_that_late_interaction_was_to_compare() -> None:
    stages = world(found=MANY, token_error=FailedPrecondition("none", reason="NO_TOKEN_VECTORS"))
    beginning = await stages.answer(by("late", rerank_candidate_count=40))
    assert report_of(beginning).item_count == len(stages.reranked) == MOST_INSTEAD
    question = replace(by("late", rerank_candidate_count=40), offset=3, course=beginning.course)
    assert report_of(await stages.answer(question)).item_count == MOST_INSTEAD


async def test_a_method_is_not_degraded_by_the_cross_encoder_alone() -> None:
    stages = world()
    answer = await stages.answer(by("cross_encoder"))
    assert report_of(answer).outcome is Outcome.RAN
    assert not stages.embedding_tokens.is_set()
    assert stages.compared == [0]


async def test_no_tokens_are_embedded_where_nothing_is_reranked() -> None:
    for question in (by("late", rerank=False), replace(by("late"), query="", like_document_id="5")):
        stages = world()
        await stages.answer(question)
        assert not stages.embedding_tokens.is_set()


@pytest.mark.parametrize(("slow", "reason"), [(True, "NO_TIME"), (False, "DEPENDENCY_DOWN")])
async def test_a_cascade_without_its_cross_encoder_keeps_the_order_after_late_interaction(
    slow: bool, reason: str
) -> None:
    stages = world(deadline_seconds=0.5 if slow else 30, rerank_error=None if slow else Unavailable("down"))
    if slow:
        stages.budgets.rerank_token.observe(time.monotonic(), 60.0)
    answer = await stages.answer(by("cascade", rerank_candidate_count=8))
    assert ids(answer) == BY_LATE[:3]
    report = report_of(answer)
    assert (report.outcome, report.reason, report.model, report.item_count) == (Outcome.DEGRADED, reason, "tokens", 8)


async def test_a_cross_encoder_that_is_required_fails_a_cascade() -> None:
    question = replace(by("cascade"), policies=Policies(rerank=Policy.REQUIRED))
    with pytest.raises(Unavailable):
        await world(rerank_error=Unavailable("down")).answer(question)
    assert ids(await world(rerank_error=Unavailable("down")).answer(replace(question, features=by("late").features)))


async def test_a_search_that_a_switch_of_the_token_model_overtakes_is_made_again() -> None:
    stages = world(token_mismatches=2)
    assert ids(await stages.answer(by("late", rerank_candidate_count=8))) == BY_LATE[:3]


MANY_LATE = [(number * 7 % 40) / 40 for number in range(40)]


@pytest.mark.parametrize("method", ["late", "cascade"])
@pytest.mark.parametrize(
    "options", [{}, {"group_by_document": True}, {"collapse_duplicates": True}, {"diversity": 0.5}]
)
async def test_all_pages_have_one_order(method: str, options: dict[str, Any]) -> None:
    question = replace(by(method, rerank_candidate_count=12, cascade_count=5), **options)
    whole = await World(found=MANY, late=MANY_LATE).answer(replace(question, limit=40))
    page = await World(found=MANY, late=MANY_LATE).answer(replace(question, limit=3))
    shown, course = ids(page), page.course
    assert (course.late, course.reranked) == (12, 5 if method == "cascade" else 0)
    while page.following is not None:
        later = World(found=MANY, late=MANY_LATE)
        page = await later.answer(replace(question, limit=3, offset=page.following, course=course))
        assert later.compared[0] == 12
        assert not any(later.compared[1:])
        shown += ids(page)
    assert shown == ids(whole)


async def test_candidates_that_are_found_deeper_are_not_compared() -> None:
    copies = [passage(str(number), "", "the same" if number < 30 else f"other {number}") for number in range(40)]
    question = replace(by("late", rerank_candidate_count=4), collapse_duplicates=True)
    stages = world(found=copies)
    assert ids(await stages.answer(question)) == ["2", "30", "31"]
    assert stages.compared == [4, 0]


FALLEN_BACK = {"token_error": Unavailable("down")}
NOT_READ = {"rerank_error": Unavailable("down")}


@pytest.mark.parametrize(("method", "first"), [("late", FALLEN_BACK), ("cascade", FALLEN_BACK), ("cascade", NOT_READ)])
async def test_a_page_is_made_as_the_first_though_what_failed_then_serves_again(
    method: str, first: dict[str, Any]
) -> None:
    question = by(method, rerank_candidate_count=8)
    beginning = await world(**first).answer(question)
    following = replace(question, offset=3, course=beginning.course)
    answer = await world().answer(following)
    assert ids(answer) == ids(await world(**first).answer(replace(question, offset=3)))
    assert (report_of(answer).outcome, report_of(answer).reason) == (Outcome.DEGRADED, "NOT_ON_FIRST_PAGE")


@pytest.mark.parametrize(
    ("later", "features", "error", "reason"),
    [
        (world(token_error=Unavailable("down")), {}, Unavailable, "DEPENDENCY_DOWN"),
        (world(late=()), {}, FailedPrecondition, "ANSWER_CHANGED"),
        (world(), {"rerank_method": "cross_encoder"}, FailedPrecondition, "ANSWER_CHANGED"),
        (world(), {"rerank_method": "late"}, FailedPrecondition, "ANSWER_CHANGED"),
        (world(), {"rerank": False}, FailedPrecondition, "ANSWER_CHANGED"),
    ],
)
async def test_a_page_that_cannot_follow_the_first_is_refused(
    later: World, features: dict[str, Any], error: type[Exception], reason: str
) -> None:
    beginning = await world().answer(by("cascade"))
    with pytest.raises(error) as refused:
        await later.answer(
            replace(
                with_features(**{"expansion": False, "rerank_method": "cascade", **features}),
                offset=3,
                course=beginning.course,
            )
        )
    assert refused.value.reason == reason
