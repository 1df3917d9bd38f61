from __future__ import annotations

import math

import pytest

from services.gateway.recent import WINDOW_SECONDS, RecentEnrichment


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> RecentEnrichment:
    return RecentEnrichment(clock)


def test_means_are_of_the_searches_that_followed_relations(recent: RecentEnrichment) -> None:
    for score, relations in ((0.4, 1), (0.8, 4), (None, 0), (None, 0)):
        recent.add(score, relations)
    assert recent.usage_rate() == 0.5
    assert recent.mean_score() == pytest.approx(0.6)
    assert recent.mean_relations() == 2.5


def test_there_is_no_mean_of_nothing(recent: RecentEnrichment) -> None:
    assert recent.usage_rate() == 0.0
    recent.add(None, 0)
    assert recent.usage_rate() == 0.0
    assert math.isnan(recent.mean_score())
    assert math.isnan(recent.mean_relations())


def test_what_is_older_than_five_minutes_is_forgotten(recent: RecentEnrichment, clock: Clock) -> None:
    recent.add(0.2, 1)
    clock.now += WINDOW_SECONDS / 2
    recent.add(0.8, 3)
    assert recent.mean_score() == 0.5
    clock.now += WINDOW_SECONDS / 2
    assert recent.mean_score() == 0.8
    clock.now += WINDOW_SECONDS
    assert recent.usage_rate() == 0.0
