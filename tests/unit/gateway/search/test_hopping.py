"""Hops in the pipeline: what they bring, what they cost, and what is left when they fail."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, SluiceError, Unavailable
from services.gateway.search.question import Policies, Policy, Question
from services.gateway.search.stages import Answer, Outcome, Stage, StageReport
from tests.unit.gateway.samples import passage
from tests.unit.gateway.search.world import PASSAGES, World, ids, reports, with_features

BROUGHT = passage("brought", "far away", "text of it")


def hopping(**features: Any) -> Question:
    return replace(with_features(**{"expansion": False, "rerank": False, "multi_hop": True, **features}), limit=4)


def world(**options: Any) -> World:
    made = World(**{"related": [(BROUGHT, 0.6, None), (PASSAGES[5], 0.4, None)], **options})
    made.embedding.set()
    return made


def report_of(answer: Answer) -> StageReport:
    return reports(answer)[Stage.HOP]


async def test_what_relations_lead_to_takes_its_place_by_its_score_with_its_path() -> None:
    answer = await world().answer(hopping())
    assert ids(answer) == ["0", "brought", "1", "5"]
    brought, moved = answer.results[1], answer.results[3]
    assert [(step.passage_id, step.key) for step in brought.path] == [("0", "x")]
    assert brought.passage.text == "text of it"
    assert moved.passage.text == "text 5"
    assert answer.results[0].path == ()
    report = report_of(answer)
    assert (report.outcome, report.item_count) == (Outcome.RAN, 2)
    assert report.detail == "2 keys led somewhere, 1 were too frequent"
    assert answer.results[1].to_proto().path[0].weight == 1


async def test_without_the_flag_or_without_hops_nothing_is_followed() -> None:
    for question in (hopping(multi_hop=False), hopping(max_hops=0), replace(hopping(), query="", like_document_id="d")):
        stages = world()
        answer = await stages.answer(question)
        assert not stages.hopped
        assert report_of(answer).outcome is Outcome.SKIPPED
        assert "brought" not in ids(answer)


@pytest.mark.parametrize(
    ("failure", "outcome", "reason"),
    [
        (FailedPrecondition("no keys", reason="NOT_ENRICHED"), Outcome.SKIPPED, "NOT_ENRICHED"),
        (DeadlineExceeded("too slow"), Outcome.FAILED, "DEADLINE_EXCEEDED"),
        (Unavailable("down"), Outcome.FAILED, "DEPENDENCY_DOWN"),
    ],
    ids=["not enriched", "too slow", "down"],
)
async def test_a_hop_that_fails_leaves_the_answer_without_it(
    failure: SluiceError, outcome: Outcome, reason: str
) -> None:
    answer = await world(hop_error=failure).answer(hopping())
    assert ids(answer) == ["0", "1", "2", "3"]
    assert (report_of(answer).outcome, report_of(answer).reason) == (outcome, reason)


async def test_a_required_hop_that_fails_fails_the_search() -> None:
    question = replace(hopping(), policies=Policies(hop=Policy.REQUIRED))
    with pytest.raises(Unavailable):
        await world(hop_error=Unavailable("down")).answer(question)


async def test_a_slow_hop_is_left_out_when_the_deadline_leaves_no_time_for_it() -> None:
    stages = world(deadline_seconds=0.5)
    stages.budgets.hop.observe(time.monotonic(), 5.0)
    answer = await stages.answer(hopping())
    assert report_of(answer).reason == "NO_TIME"
    assert not stages.hopped


async def test_the_cross_encoder_reads_the_bridge_before_what_it_leads_to() -> None:
    stages = world()
    await stages.answer(hopping(rerank=True, rerank_method="cross_encoder", rerank_candidate_count=3))
    bridge = "title 0\ntext 0"
    assert stages.reranked == [bridge, f"{bridge}\nfar away\ntext of it", "title 1\ntext 1"]


async def test_late_interaction_takes_the_scores_of_the_hop_for_what_it_brought() -> None:
    stages = world(related=[(BROUGHT, 0.1, 0.9)], late=[0.5, 0.1, 0.4, 0.3])
    answer = await stages.answer(hopping(rerank=True, rerank_method="late", rerank_candidate_count=4))
    assert stages.hopped == [(1, [str(number) for number in range(8)], True)]
    assert {result.passage.id: result.late_score for result in answer.results}["brought"] == 0.9


async def test_later_pages_follow_relations_as_the_first_one_did() -> None:
    first = await world().answer(hopping())
    second = await world().answer(replace(hopping(), offset=4, course=first.course))
    assert ids(first) + ids(second) == ["0", "brought", "1", "5", "2", "3", "4", "6"]
    plain = await world().answer(hopping(multi_hop=False))
    again = await world().answer(replace(hopping(), offset=4, course=plain.course))
    assert report_of(again).reason == "NOT_ON_FIRST_PAGE"
    assert ids(plain) + ids(again) == [str(number) for number in range(8)]
    with pytest.raises(FailedPrecondition):
        await world().answer(replace(hopping(multi_hop=False), offset=4, course=first.course))
    with pytest.raises(Unavailable):
        await world(hop_error=Unavailable("down")).answer(replace(hopping(), offset=4, course=first.course))
