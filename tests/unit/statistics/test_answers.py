import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.rollout.v1 import experiment_pb2
from sluice_statistics.answers import AnswerEvent, AnswerOutcome, Metric, credit

TEAMS = [1, 2, 0, 2, 1]
CLICK = AnswerEvent("click", "b", 2)
CITE = AnswerEvent("cite", "a", 1)


def values(*events, **kwargs):
    outcome = AnswerOutcome.of(events, **kwargs)
    return {metric: outcome.value(metric) for metric in Metric}


def test_the_metrics_are_those_of_the_contract():
    names = set(experiment_pb2.ExperimentMetric.keys()) - {"EXPERIMENT_METRIC_UNSPECIFIED"}
    assert {f"EXPERIMENT_METRIC_{metric.name}" for metric in Metric} == names


def test_an_answer_of_which_nothing_was_used_is_abandoned():
    found = values(AnswerEvent("rate", rating=0.25), AnswerEvent("label"), seconds=0.5, tokens=300)
    assert found == {
        Metric.CLICK_RATE: 0.0,
        Metric.CITATION_RATE: 0.0,
        Metric.SATISFACTION: 0.25,
        Metric.ABANDONMENT: 1.0,
        Metric.RECIPROCAL_RANK: 0.0,
        Metric.LATENCY: 0.5,
        Metric.COST: 300.0,
        Metric.PREFERENCE: None,
    }


def test_the_best_rank_that_was_used_counts_in_any_order_of_events():
    for events in ((CLICK, CITE), (CITE, CLICK)):
        found = values(*events)
        assert found[Metric.RECIPROCAL_RANK] == 1.0
        assert (found[Metric.CLICK_RATE], found[Metric.CITATION_RATE], found[Metric.ABANDONMENT]) == (1.0, 1.0, 0.0)
    assert values(CLICK)[Metric.RECIPROCAL_RANK] == 0.5


def test_an_answer_that_nobody_rated_says_nothing_of_satisfaction():
    assert values(CLICK)[Metric.SATISFACTION] is None
    rated = AnswerEvent("rate", rating=1.0), AnswerEvent("rate", "a", 1, 0.5)
    assert values(*rated)[Metric.SATISFACTION] == 0.75


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ((), None),
        ({2}, None),
        ({0}, -1.0),
        ({1}, 1.0),
        ({0, 1}, 0.0),
        ({0, 1, 2, 3}, pytest.approx(1 / 3)),
        ({7, -1}, None),
    ],
)
def test_credit_is_the_difference_of_what_was_used_of_either_team(used, expected):
    assert credit(TEAMS, used) == expected


@given(st.lists(st.integers(0, 2), max_size=12), st.sets(st.integers(0, 15)))
def test_credit_lies_between_the_arms_and_turns_with_them(teams, used):
    found = credit(teams, used)
    swapped = credit([{0: 0, 1: 2, 2: 1}[team] for team in teams], used)
    assert (found is None) == (swapped is None)
    if found is not None:
        assert -1 <= found <= 1
        assert swapped == -found


def test_ranks_of_a_later_page_find_their_teams_and_a_result_opened_twice_counts_once():
    events = [AnswerEvent("click", "x", 12), AnswerEvent("cite", "x", 12), AnswerEvent("click", "y", 11)]
    assert AnswerOutcome.of(events, teams=TEAMS, first_position=11).credit == 0.0
    assert AnswerOutcome.of(events[:2], teams=TEAMS, first_position=11).credit == 1.0
