from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from services.chassis.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.gateway.feedback.impressions import Impressions, Origin
from services.gateway.feedback.showing import Showing, Showings
from services.gateway.quotas.spending import spend
from services.gateway.rollout.evidence import Evidence
from services.gateway.rollout.exposure import Observed
from services.gateway.rollout.table import Decision, ExperimentArm
from services.gateway.search.flags import Features
from services.gateway.search.question import Question
from services.gateway.search.stages import Answer, Drafted, Result
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.type.v1.passage_pb2 import Passage
from tests.unit.gateway.samples import COURSE

IMPRESSIONS = Impressions(["a key of sixteen characters"])
PART = Decision(Features(), experiments=[ExperimentArm("ranking", "ranking/1", "control")])
ANSWER = Answer([Result(Passage(id="a"), 1.0, 1, 1.0, 1, None)], [], COURSE, None)


class Request:
    """One request from its decision to its end, and what was reported of it."""

    def __init__(self, decision: Decision = PART, kept: Any = "experiments", queries: Any = "off") -> None:
        self.reported: list[pb.ServedImpression] = []
        showings = Showings(IMPRESSIONS, self.reported.append, kept, queries)
        question = Question("who knows", "docs", Features())
        self.decision = decision
        self.showing: Showing = showings.begin(Origin("q1", "user-42", "blue"), question, decision)

    def end(
        self, answer: Answer | None, error: BaseException | None = None, *, late: bool = False
    ) -> pb.ServedImpression:
        observed = Observed(Evidence(), self.decision, time.monotonic() + (-1 if late else 60), self.showing)
        with contextlib.suppress(*([type(error)] if error else [])), observed:
            if answer is not None:
                observed.answered(answer, quality=None)
            if error is not None:
                raise error
        (reported,) = self.reported
        return reported


def test_an_answer_is_reported_as_its_token_says() -> None:
    request = Request()
    served = request.end(ANSWER)
    assert served.ending == pb.IMPRESSION_ENDING_ANSWERED
    assert served.HasField("duration")
    assert IMPRESSIONS.verified(request.showing.token()) == served.impression
    assert served.query == ""


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (Answer([], [], COURSE, None), pb.IMPRESSION_ENDING_EMPTY),
        (
            Answer(ANSWER.results, [], COURSE, None, drafted=Drafted((0.1, 0.3), one_arm=True, failed_arm="dense")),
            pb.IMPRESSION_ENDING_ONE_ARM,
        ),
    ],
)
def test_the_ending_is_told_apart(answer: Answer, ending: int) -> None:
    assert Request().end(answer).ending == ending


def test_of_an_interleaved_answer_both_arms_are_reported() -> None:
    drafted = Drafted((0.25, 0.5), one_arm=True, failed_arm="dense")
    served = Request().end(Answer(ANSWER.results, [], COURSE, None, drafted=drafted))
    assert [one.ToTimedelta().total_seconds() for one in served.arm_durations] == [0.25, 0.5]
    assert served.missing_arm == "dense"


@pytest.mark.parametrize("error", [Unavailable("away"), DeadlineExceeded("late"), RuntimeError("a fault")])
def test_a_request_that_failed_is_reported_without_results(error: Exception) -> None:
    served = Request().end(None, error)
    assert served.ending == pb.IMPRESSION_ENDING_FAILED
    assert served.impression.object_ids == []
    assert [part.arm for part in served.impression.exposures] == ["control"]


def test_a_request_whose_deadline_passed_has_failed_and_one_that_the_caller_gave_up_is_not_reported() -> None:
    assert Request().end(None, asyncio.CancelledError(), late=True).ending == pb.IMPRESSION_ENDING_FAILED
    given_up = Request()
    observed = Observed(Evidence(), PART, time.monotonic() + 60, given_up.showing)
    with contextlib.suppress(asyncio.CancelledError), observed:
        raise asyncio.CancelledError
    assert given_up.reported == []


def test_what_a_stream_has_shown_is_reported_though_the_caller_leaves_before_its_end() -> None:
    request = Request()
    with (
        contextlib.suppress(GeneratorExit),
        Observed(Evidence(), PART, time.monotonic() + 60, request.showing) as observed,
    ):
        observed.answered(ANSWER, quality=None)
        token = request.showing.token()
        raise GeneratorExit
    (served,) = request.reported
    assert (served.ending, served.impression) == (pb.IMPRESSION_ENDING_ANSWERED, IMPRESSIONS.verified(token))


def test_a_mistake_of_the_caller_is_not_reported() -> None:
    request = Request()
    observed = Observed(Evidence(), PART, time.monotonic() + 60, request.showing)
    with pytest.raises(InvalidArgument), observed:
        raise InvalidArgument("limit", "is wrong")
    assert request.reported == []


def test_outside_of_experiments_an_answer_has_a_token_and_is_reported_only_if_all_are() -> None:
    outside = Decision(Features())
    quiet = Request(outside)
    with Observed(Evidence(), outside, time.monotonic() + 60, quiet.showing) as observed:
        observed.answered(ANSWER, quality=None)
    assert quiet.reported == []
    assert IMPRESSIONS.verified(quiet.showing.token()) is not None
    assert Request(outside, "all").end(ANSWER).impression.exposures == []


@pytest.mark.parametrize(
    ("queries", "query"), [("off", ""), ("hashed", IMPRESSIONS.hashed("who knows")), ("clear", "who knows")]
)
def test_a_query_is_kept_as_the_policy_says(queries: str, query: str) -> None:
    assert Request(queries=queries).end(ANSWER).query == query


def test_an_answer_that_grew_has_another_impression_and_one_that_did_not_the_same() -> None:
    request = Request()
    request.showing.shown(ANSWER)
    first = request.showing.token()
    request.showing.shown(ANSWER)
    assert request.showing.token() == first
    grown = [*ANSWER.results, Result(Passage(id="b"), 0.5, 2, 1.0, 2, None)]
    served = request.end(Answer(grown, [], COURSE, None))
    assert list(served.impression.object_ids) == ["a", "b"]
    assert request.showing.token() != first


def test_the_work_of_models_is_reported() -> None:
    request = Request()
    spend(12)
    assert request.end(ANSWER).model_token_count == 12
