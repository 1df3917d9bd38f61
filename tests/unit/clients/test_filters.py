from __future__ import annotations

import pytest

from sluice_client import Condition, field


def test_comparing_a_field_makes_a_condition() -> None:
    assert [field("year") >= 2020, field("kind") == "class", field("lang").any_of("en", "de")] == [
        Condition("year", ">=", 2020),
        Condition("kind", "==", "class"),
        Condition("lang", "any_of", ("en", "de")),
    ]
    assert [field("a") > 1, field("a") < 1, field("a") <= 1] == [
        Condition("a", ">", 1),
        Condition("a", "<", 1),
        Condition("a", "<=", 1),
    ]


def test_a_bound_may_stand_on_the_left() -> None:
    assert (field("year") >= 2020) == Condition("year", ">=", 2020)


def test_what_would_silently_mean_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="two conditions"):
        _ = 2000 <= field("year") <= 2020
    with pytest.raises(TypeError, match="must_not"):
        _ = (field("kind") == "class") and (field("year") > 2000)
    with pytest.raises(TypeError, match="must_not"):
        _ = field("kind") != "class"
