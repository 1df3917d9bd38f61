from __future__ import annotations

import pytest

from drills.experiments.faults import BEST, Leak, leak, move_down
from sluice.retriever.v1 import retriever_pb2
from sluice.rollout.v1 import feedback_pb2
from sluice.type.v1 import feedback_pb2 as type_feedback_pb2
from sluice.type.v1 import impression_pb2, passage_pb2


def found(count: int) -> retriever_pb2.SearchPassagesResponse:
    return retriever_pb2.SearchPassagesResponse(
        candidates=[
            retriever_pb2.Candidate(
                passage=passage_pb2.Passage(id=str(place)), score=1.0 - place / 100, whole=place < BEST
            )
            for place in range(count)
        ]
    )


def test_half_of_the_best_results_are_moved_down_and_scores_stay() -> None:
    response = found(25)
    move_down(response)
    ids = [candidate.passage.id for candidate in response.candidates]
    assert ids[:BEST] == ["10", "1", "12", "3", "14", "5", "16", "7", "18", "9"]
    assert sorted(ids, key=int) == [str(place) for place in range(25)]
    assert [candidate.score for candidate in response.candidates] == [one.score for one in found(25).candidates]
    assert [candidate.whole for candidate in response.candidates[:4]] == [False, True, False, True]


@pytest.mark.parametrize("count", [0, 5, BEST])
def test_few_results_stay_as_they_are(count: int) -> None:
    response = found(count)
    move_down(response)
    assert response == found(count)


def impression(unit: int, arm: str) -> feedback_pb2.ServedImpression:
    return feedback_pb2.ServedImpression(
        impression=impression_pb2.Impression(
            query_id=f"{arm}-{unit}", unit=unit, exposures=[impression_pb2.Exposure(experiment="e", arm=arm)]
        )
    )


def test_a_third_of_one_arms_users_is_lost_with_all_that_they_did() -> None:
    units = range(3000)
    request = feedback_pb2.StoreFeedbackRequest(
        impressions=[impression(unit, arm) for unit in units for arm in ("dense", "hybrid")],
        events=[
            feedback_pb2.StoredEvent(
                event=type_feedback_pb2.Event(query_id=f"hybrid-{unit}"), impression_index=2 * unit + 1
            )
            for unit in units
        ],
    )
    left = leak(request, Leak("hybrid", 1 / 3))
    by_arm = {
        arm: [one for one in left.impressions if one.impression.exposures[0].arm == arm] for arm in ("dense", "hybrid")
    }
    assert len(by_arm["dense"]) == len(units)
    assert 1900 < len(by_arm["hybrid"]) < 2100
    assert len(left.events) == len(by_arm["hybrid"])
    assert all(
        left.impressions[event.impression_index].impression.query_id == event.event.query_id for event in left.events
    )
    # The same users again, in another request.
    again = feedback_pb2.StoreFeedbackRequest(impressions=[impression(unit, "hybrid") for unit in units])
    assert len(leak(again, Leak("hybrid", 1 / 3)).impressions) == len(by_arm["hybrid"])
