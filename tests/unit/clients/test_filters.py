from __future__ import annotations

import datetime

import pytest

from sluice.type.v1 import filter_pb2 as pb
from sluice_client import Condition, Filter, SluiceError, all_of, any_of, field, none_of


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


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (field("n") >= 2**53 + 1, pb.Condition(field="n", integer_range=pb.IntegerRange(gte=2**53 + 1))),
        (field("n") < -5, pb.Condition(field="n", integer_range=pb.IntegerRange(lt=-5))),
        (field("n") > 1.5, pb.Condition(field="n", range=pb.Range(gt=1.5))),
        (field("n") <= 2**70, pb.Condition(field="n", range=pb.Range(lte=float(2**70)))),
        (field("day") >= "2024-05-01", pb.Condition(field="day", date_range=pb.DateRange(gte="2024-05-01"))),
        (field("day") < datetime.date(2024, 5, 1), pb.Condition(field="day", date_range=pb.DateRange(lt="2024-05-01"))),
        (
            field("day") <= datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC),
            pb.Condition(field="day", date_range=pb.DateRange(lte="2024-05-01T12:00:00+00:00")),
        ),
    ],
)
def test_a_range_is_one_of_whole_numbers_of_decimals_or_of_dates(condition: Condition, expected: pb.Condition) -> None:
    assert condition.to_proto() == expected


def test_filters_hold_filters() -> None:
    kind, year = field("kind") == "class", field("year") >= 2020
    made = all_of(year, any_of(kind, none_of(year, kind)))
    assert made == Filter(must=(year, Filter(should=(kind, Filter(must_not=(year, kind))))))
    inner = pb.Filter(must_not=[year.to_proto(), kind.to_proto()])
    middle = pb.Filter(should=[kind.to_proto(), pb.Condition(filter=inner)])
    assert made.to_proto() == pb.Filter(must=[year.to_proto(), pb.Condition(filter=middle)])


def test_a_test_that_makes_no_sense_is_named_by_its_place_in_nested_filters() -> None:
    with pytest.raises(SluiceError) as refused:
        all_of(any_of(field("year") > "soon")).to_proto("filter")
    assert refused.value.field == "filter.must[0].filter.should[0]"
