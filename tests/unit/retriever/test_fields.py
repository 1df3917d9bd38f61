import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from services.chassis.errors import InvalidArgument
from services.retriever.fields import (
    AnyOf,
    Equals,
    Exists,
    FieldType,
    Filter,
    Range,
    declare,
    stored,
    to_qdrant,
    type_of,
)

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


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a[0]", '"a"', "é", "x" * 65])
def test_a_name_that_would_not_survive_a_path_is_refused_without_repeating_it(name):
    with pytest.raises(InvalidArgument) as refusal:
        declare({name: 1}, {}, "passages[0].metadata")
    assert refusal.value.field == "passages[0].metadata"
    assert len(refusal.value.message) < 200


def test_an_unknown_field_is_answered_with_the_known_ones_but_not_with_hundreds():
    many = {f"field{number:03}": FieldType.KEYWORD for number in range(256)}
    with pytest.raises(InvalidArgument, match="field000, field001") as refusal:
        to_qdrant(Filter(must=[Equals("x" * 10_000, 1)]), many)
    assert len(refusal.value.message) < 500


def test_an_empty_filter_is_none():
    assert to_qdrant(Filter(), SCHEMA) is None


values = {
    "kind": st.text(),
    "year": st.integers(-(2**63), 2**63 - 1),
    "since": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
    "stable": st.booleans(),
}
conditions = st.sampled_from(sorted(SCHEMA)).flatmap(
    lambda field: st.one_of(
        st.builds(Equals, st.just(field), values[field]),
        st.builds(AnyOf, st.just(field), st.lists(values[field], min_size=1, max_size=5)),
        st.builds(Exists, st.just(field), st.booleans()),
        st.builds(Range, st.sampled_from(["year", "since"]), gte=st.floats(-1e9, 1e9)),
    )
)


@given(st.lists(conditions, max_size=4), st.lists(conditions, max_size=4), st.lists(conditions, max_size=4))
def test_every_filter_that_fits_the_fields_has_a_counterpart_in_qdrant(must, should, must_not):
    translated = to_qdrant(Filter(must, should, must_not), SCHEMA)
    if translated is None:
        assert not (must or should or must_not)
        return
    groups = (translated.must, translated.should, translated.must_not)
    assert [len(group) for group in groups] == [len(must), len(should), len(must_not)]
    assert models.Filter.model_validate(translated.model_dump()) == translated
