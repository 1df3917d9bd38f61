import numpy as np
import pytest

from drills.experiments.aa.experiments import judgments, served
from drills.experiments.aa.false_verdicts import run
from drills.experiments.aa.streams import Activity, Scenario, answered, interleaved, known, proneness, side_by_side
from services.rollout.experiments.analysis import analyse
from sluice_statistics.answers import Metric
from sluice_statistics.units import UnitValues

PEOPLE = 60
SCENARIOS = [
    Scenario(metric.name, activity, PEOPLE, 300, 0.4, metric, learning=0.5)
    for metric, activity in (
        (Metric.RECIPROCAL_RANK, Activity.ZIPF),
        (Metric.CLICK_RATE, Activity.LOG_NORMAL),
        (Metric.SATISFACTION, Activity.EVEN),
        (Metric.PREFERENCE, Activity.EVEN),
    )
]


def drawn(scenario, seed=3):
    chance = np.random.default_rng(seed)
    users, prone = answered(scenario, chance), proneness(scenario, chance)
    if scenario.metric is Metric.PREFERENCE:
        return interleaved(scenario, users, prone, "salt", chance)[0]
    return side_by_side(scenario, users, prone, chance)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_what_is_known_after_each_event_is_what_the_products_values_of_users_say(scenario):
    stream = drawn(scenario)
    treated = np.arange(PEOPLE) % 2 == 1
    history = np.linspace(0, 1, PEOPLE)
    values = UnitValues(2, dict(enumerate(history.tolist())))
    found = [known(stream, treated[stream.users] == bool(arm), history) for arm in (0, 1)]
    rows = zip(stream.users.tolist(), stream.counted.tolist(), stream.changes.tolist(), strict=True)
    for event, (user, counted, change) in enumerate(rows):
        arm = int(treated[user])
        if counted:
            values.add(user, arm, change)
        elif change:
            values.change(user, arm, 0.0, change)
        for place in (0, 1):
            moments, past = values.moments(place), values.history(place)
            at, before = found[place]
            assert at.count[event] == moments.count
            assert (at.mean[event], at.variance[event]) == pytest.approx((moments.mean, moments.variance), abs=1e-9)
            assert (before.mean[event], before.variance[event], before.covariance[event]) == pytest.approx(
                (past.mean, past.variance, past.covariance), abs=1e-9
            )


def test_neither_ranking_is_preferred():
    scenario = Scenario("many", Activity.EVEN, 3000, 9000, 0.9, Metric.PREFERENCE)
    moments, _ = known(stream := drawn(scenario), np.ones(len(stream.users), bool))
    error = np.sqrt(moments.variance[-1] / moments.count[-1])
    assert moments.count[-1] > 2000
    assert moments.variance[-1] > 0.2
    assert abs(moments.mean[-1]) < 3 * error


def test_a_few_people_ask_most():
    counts = np.bincount(drawn(SCENARIOS[0]).users, minlength=PEOPLE)
    assert np.sort(counts)[-6:].sum() > 0.4 * counts.sum()


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("ranks", Activity.EVEN, 400, 500, 0.3, history_share=0.5),
        Scenario("ratings", Activity.EVEN, 300, 400, 0.6, Metric.SATISFACTION),
        Scenario("preference", Activity.EVEN, 150, 400, 0.9, Metric.PREFERENCE),
    ],
    ids=lambda scenario: scenario.name,
)
def test_every_judgment_is_that_of_the_analysis_of_what_is_stored_by_then(scenario):
    experiment = served(scenario, 1)
    known_by_then = list(judgments(experiment))
    history = {scenario.metric: experiment.history}
    for event in range(6, len(known_by_then), 29):
        rows = experiment.stored(event + 1)
        found = analyse(experiment.experiment, rows, history, 0.0).judgment
        assert found.verdict is known_by_then[event].verdict
        assert found.reasons == known_by_then[event].reasons
    assert "users may be needed" in known_by_then[-1].reasons[0]


def test_experiments_that_change_nothing_go_on():
    found = run(1)
    assert (found["aa_false_ab"], found["aa_false_interleave"]) == (0.0, 0.0)
    assert found["aa_looks"] > 5000
