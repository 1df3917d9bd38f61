from __future__ import annotations

import threading

import pytest

from services.rollout.storage.turns import Turns


def test_a_decision_goes_before_feedback_that_came_earlier() -> None:
    turns, order = Turns(), list[str]()

    def feed() -> None:
        with turns.last():
            order.append("feedback")

    def decide() -> None:
        with turns.first():
            order.append("decision")

    with turns.last():
        feeding, deciding = threading.Thread(target=feed), threading.Thread(target=decide)
        feeding.start()
        deciding.start()
        while not turns.decision_waiting:
            pass
    feeding.join(20)
    deciding.join(20)
    assert order == ["decision", "feedback"]


def test_a_turn_ends_with_an_error_as_well() -> None:
    turns = Turns()
    for turn in (turns.first, turns.last):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
    with turns.last():
        pass
