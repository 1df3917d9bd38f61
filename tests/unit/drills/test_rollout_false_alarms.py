"""A small version of `make rollout-false-alarms`."""

from __future__ import annotations

import math

from drills.rollout_false_alarms.__main__ import MOST_FALSE_ALARMS, REGRESSIONS, detection, false_alarms
from services.rollout.evidence import ALPHA


def test_ramps_that_change_nothing_are_left_alone_however_often_one_looks() -> None:
    found = false_alarms(100, checked=1)
    assert found["false_alarm_share"] <= MOST_FALSE_ALARMS
    assert found["held_for_mismatch_share"] == 0.0
    assert found["differing"] == 0


def test_a_ramp_that_makes_four_times_as_many_errors_is_found_within_a_thousand_requests_or_so() -> None:
    found = detection(REGRESSIONS[0], 100, math.log(1 / ALPHA))
    assert found["found_share"] == 1.0
    assert 700 < found["median_treatment_requests"] < 1300
