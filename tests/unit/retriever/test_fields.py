from datetime import UTC, datetime

import pytest

from services.chassis.errors import InvalidArgument
from services.retriever.fields import (
    AnyOf,
    DateRange,
    Equals,
    Exists,
    FieldType,
    Filter,
    Range,
    declare,
    go_together,
    stored,
    type_of,
)
from sluice.type.v1 import filter_pb2 as pb

SCHEMA = {
    "kind": FieldType.KEYWORD,
    "year": FieldType.INTEGER,
    "since": FieldType.FLOAT,
    "stable": FieldType.BOOL,
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", FieldType.KEYWORD),
        (["x", "y"], FieldType.KEYWORD),
        ([], FieldType.KEYWORD),
        (1, FieldType.INTEGER),
        (-(2**63), FieldType.INTEGER),
        (1.0, FieldType.FLOAT),
        (True, FieldType.BOOL),
    ],
)
def test_a_value_has_a_type(value, expected):
    assert type_of(value, "here") is expected


@pytest.mark.parametrize("value", [None, [1], ["x", None], {}, 2**63, float("nan"), float("-inf"), b"x"])
def test_other_values_are_refused_with_their_place(value):
    with pytest.raises(InvalidArgument) as refusal:
        type_of(value, "passages[0].metadata.odd")
    assert refusal.value.field == "passages[0].metadata.odd"


def test_the_first_value_declares_the_type():
    assert declare({"new": 1, "year": 2000}, SCHEMA, "m") == {"new": FieldType.INTEGER}


def test_a_whole_number_fits_a_field_of_numbers_and_is_stored_as_one():
    assert declare({"since": 3}, SCHEMA, "m") == {}
    assert repr(stored(3, FieldType.FLOAT)) == "3.0"
    assert repr(stored(3, FieldType.INTEGER)) == "3"


def test_a_field_of_whole_numbers_widens_with_the_first_decimal_and_never_back():
    assert declare({"year": 10.5}, SCHEMA, "m") == {"year": FieldType.FLOAT}
    assert declare({"since": 3}, SCHEMA, "m") == {}


def test_a_whole_number_that_no_decimal_equals_is_refused_in_a_field_of_decimals():
    assert declare({"since": 2**53}, SCHEMA, "m") == {}
    with pytest.raises(InvalidArgument, match="exactly") as refusal:
        declare({"since": 2**53 + 1}, SCHEMA, "m")
    assert refusal.value.field == "m.since"


def test_values_of_two_types_go_together_only_where_both_are_numbers():
    together = {(one, other) for one in FieldType for other in FieldType if one != other and go_together(one, other)}
    assert together == {(FieldType.INTEGER, FieldType.FLOAT), (FieldType.FLOAT, FieldType.INTEGER)}


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a[0]", '"a"', "é", "x" * 65])
def test_a_name_that_would_not_survive_a_path_is_refused_without_repeating_it(name):
    with pytest.raises(InvalidArgument) as refusal:
        declare({name: 1}, {}, "passages[0].metadata")
    assert refusal.value.field == "passages[0].metadata"
    assert len(refusal.value.message) < 200


def test_an_unknown_field_is_answered_with_the_known_ones_but_not_with_hundreds():
    many = {f"field{number:03}": FieldType.KEYWORD for number in range(256)}
    with pytest.raises(InvalidArgument, match="field000, field001") as refusal:
        Filter(must=[Equals("x" * 10_000, 1)]).fit(many)
    assert len(refusal.value.message) < 500


def test_whole_numbers_fit_a_field_of_numbers_as_numbers():
    fitted = Filter([Equals("since", 3)], [AnyOf("since", [1, 2.5])]).fit(SCHEMA)
    assert repr(fitted) == repr(Filter([Equals("since", 3.0)], [AnyOf("since", [1.0, 2.5])], []))


def test_a_filter_comes_from_the_wire_with_every_kind_of_test():
    def condition(**test):
        return pb.Condition(field="f", **test)

    message = pb.Filter(
        must=[condition(equals=pb.Value(bool_value=False)), condition(range=pb.Range(gte=0, lt=2))],
        should=[condition(any_of=pb.ValueList(values=[pb.Value(integer_value=1), pb.Value(string_value="x")]))],
        must_not=[condition(exists=False)],
    )
    assert Filter.from_proto(message) == Filter(
        [Equals("f", False), Range("f", gte=0.0, lt=2.0)], [AnyOf("f", [1, "x"])], [Exists("f", False)]
    )
    assert not Filter.from_proto(pb.Filter())


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (pb.Condition(field="f"), "filter.should[0]"),
        (pb.Condition(field="f", equals=pb.Value()), "filter.should[0].equals"),
        (pb.Condition(field="f", any_of=pb.ValueList(values=[pb.Value()])), "filter.should[0].any_of[0]"),
        (
            pb.Condition(field="f", equals=pb.Value(string_list_value=pb.StringList(values=["x"]))),
            "filter.should[0].equals",
        ),
    ],
)
def test_a_condition_without_a_test_or_a_value_is_refused_with_its_place(condition, field):
    with pytest.raises(InvalidArgument) as refusal:
        Filter.from_proto(pb.Filter(should=[condition]))
    assert refusal.value.field == field


def condition(**test):
    return pb.Condition(field="f", **test)


def many(count, **test):
    return [condition(**test) for _ in range(count)]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (pb.Filter(must=many(65, exists=True)), "filter: has 65 conditions; send at most 64"),
        (pb.Filter(must=many(30, exists=True), should=many(30, exists=True), must_not=many(30, exists=True)), "has 90"),
        (
            pb.Filter(should=many(2, any_of=pb.ValueList(values=[pb.Value(integer_value=1)] * 501))),
            "filter: has 1002 values in its conditions; send at most 1000",
        ),
    ],
)
def test_a_filter_that_takes_too_long_to_check_is_refused(message, problem):
    with pytest.raises(InvalidArgument, match=problem) as refused:
        Filter.from_proto(message)
    assert refused.value.field == "filter"
    assert refused.value.reason.startswith("TOO_MANY_")


def test_a_filter_may_have_64_conditions_and_a_thousand_values():
    values = pb.ValueList(values=[pb.Value(integer_value=1)] * 1000)
    assert Filter.from_proto(pb.Filter(must=many(63, exists=True), should=many(1, any_of=values)))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-01", datetime(2024, 5, 1, tzinfo=UTC)),
        ("2024-05-01T12:30:00Z", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("2024-05-01t12:30:00.5z", datetime(2024, 5, 1, 12, 30, 0, 500_000, tzinfo=UTC)),
        ("2024-05-01 12:30:00+02:00", datetime(2024, 5, 1, 10, 30, tzinfo=UTC)),
    ],
)
def test_a_bound_may_be_a_date_of_rfc_3339(text, moment):
    found = Filter.from_proto(pb.Filter(must=[condition(date_range=pb.DateRange(gte=text))]))
    assert found.must == [DateRange("f", gte=moment)]
    assert found.fit({"f": FieldType.KEYWORD}) == found
    with pytest.raises(InvalidArgument, match=r"filter\.must\[0\]\.date_range: needs a field of keywords"):
        found.fit({"f": FieldType.FLOAT})


@pytest.mark.parametrize(
    "text", ["", "soon", "2024-13-01", "2024-02-30", "24-05-01", "2024-05-01T25:00:00Z", "20240501"]
)
def test_a_bound_that_is_no_date_is_refused_by_its_field(text):
    with pytest.raises(InvalidArgument, match="no date") as refused:
        Filter.from_proto(pb.Filter(should=[condition(date_range=pb.DateRange(lt=text))]))
    assert refused.value.field == "filter.should[0].date_range.lt"


def test_a_range_of_whole_numbers_keeps_all_of_their_digits():
    found = Filter.from_proto(pb.Filter(must=[condition(integer_range=pb.IntegerRange(gte=2**53 + 1, lt=2**63 - 1))]))
    assert found.fit({"f": FieldType.INTEGER}).must == [Range("f", gte=2**53 + 1, lt=2**63 - 1)]


def within(part, **inner):
    """A filter that is the only condition in a part of another."""
    return pb.Filter(**{part: [pb.Condition(filter=pb.Filter(**inner))]})


def nested(levels):
    """A filter with this many levels."""
    found = pb.Filter(must=many(1, exists=True))
    for _ in range(levels - 1):
        found = pb.Filter(must=[pb.Condition(filter=found)])
    return found


def test_a_filter_may_be_a_condition_of_a_filter_and_fits_with_it():
    since = [pb.Condition(field="since", equals=pb.Value(integer_value=3))]
    found = Filter.from_proto(within("should", must_not=since))
    assert found == Filter([], [Filter([], [], [Equals("since", 3)])], [])
    assert repr(found.fit(SCHEMA)) == repr(Filter([], [Filter([], [], [Equals("since", 3.0)])], []))


def test_filters_reach_four_levels_deep():
    expected = Exists("f")
    for _ in range(4):
        expected = Filter([expected], [], [])
    assert Filter.from_proto(nested(4)) == expected
    with pytest.raises(InvalidArgument, match="more than 4 levels") as refused:
        Filter.from_proto(nested(5))
    assert refused.value.field == "filter" + ".must[0].filter" * 4
    assert refused.value.reason == "NESTED_TOO_DEEP"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (within("must", should=[condition()]), "filter.must[0].filter.should[0]"),
        (within("must_not"), "filter.must_not[0].filter"),
        (pb.Filter(must=[pb.Condition(field="f", filter=nested(1))]), "filter.must[0].field"),
        (within("must", should=many(63, exists=True)), "filter.must[0].filter.should[0].field"),
        (within("must", should=many(64, exists=True)), "filter"),
        (
            pb.Filter(
                must=many(1, any_of=pb.ValueList(values=[pb.Value()] * 500)),
                should=[pb.Condition(filter=pb.Filter(must=many(1, any_of=pb.ValueList(values=[pb.Value()] * 501))))],
            ),
            "filter",
        ),
    ],
)
def test_what_is_wrong_within_a_nested_filter_is_refused_by_its_place(message, field):
    with pytest.raises(InvalidArgument) as refused:
        Filter.from_proto(message).fit(SCHEMA)
    assert refused.value.field == field
