from __future__ import annotations

import pytest

from services.rollout.experiments.turns import LARGEST_SHARE, Turns


def test_a_long_analysis_of_one_run_delays_no_other() -> None:
    turns = Turns()
    turns.keep(["large.1"])
    turns.took("large.1", 8.0, now=100.0)
    turns.keep(["large.1", "new.1"])
    assert turns.due("new.1", 100.0)
    assert not turns.due("large.1", 100.0)


@pytest.mark.parametrize("runs", [1, 3])
def test_all_runs_together_take_no_more_than_their_share(runs: int) -> None:
    turns, now, spent = Turns(), 0.0, 0.0
    names = [f"run.{number}" for number in range(runs)]
    while now < 1000.0:
        turns.keep(names)
        for name in names:
            if turns.due(name, now):
                now, spent = now + 0.5, spent + 0.5
                turns.took(name, 0.5, now)
        now += 0.1
    assert 0.8 * LARGEST_SHARE < spent / now <= LARGEST_SHARE * 1.02


def test_a_run_that_ended_is_forgotten_and_begins_anew() -> None:
    turns = Turns()
    turns.keep(["large.1"])
    turns.took("large.1", 8.0, now=100.0)
    turns.keep([])
    turns.keep(["large.1"])
    assert turns.due("large.1", 100.0)
