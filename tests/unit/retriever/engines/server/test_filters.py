"""Filters as messages; that they mean the same is tested on every engine (tests/integration)."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client.conversions.conversion import GrpcToRest

from services.retriever.engines.server.filters import still_so, to_filter
from services.retriever.fields import ALL, AnyOf, DateRange, Equals, Exists, FieldType, Filter, Range

SCHEMA = {
    "kind": FieldType.KEYWORD,
    "year": FieldType.INTEGER,
    "since": FieldType.FLOAT,
    "stable": FieldType.BOOL,
}
values = {
    "kind": st.text(),
    "year": st.integers(-(2**63), 2**63 - 1),
    "since": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
    "stable": st.booleans(),
}
moments = st.datetimes(datetime(1970, 1, 2), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))]))
tests = st.sampled_from(sorted(SCHEMA)).flatmap(
    lambda field: st.one_of(
        st.builds(Equals, st.just(field), values[field]),
        st.builds(AnyOf, st.just(field), st.lists(values[field], min_size=1, max_size=3)),
        st.builds(Exists, st.just(field), st.booleans()),
        st.builds(Range, st.just("since"), gte=st.floats(-1e9, 1e9)),
        st.builds(Range, st.just("year"), gt=values["year"], lte=values["year"]),
        st.builds(DateRange, st.just("kind"), gt=moments, lte=st.none() | moments),
    )
)


def filters(conditions):
    some = st.lists(conditions, max_size=2)
    return st.builds(Filter, some, some, some)


def test_an_empty_filter_is_none():
    assert to_filter(ALL) is None


@settings(max_examples=50)
@given(filters(tests | filters(tests)))
def test_every_filter_that_fits_the_fields_has_a_message_that_qdrant_s_client_understands(condition):
    message = to_filter(condition.fit(SCHEMA))
    if message is None:
        assert not condition
        return
    groups = (message.must, message.should, message.must_not)
    assert list(map(len, groups)) == [len(condition.must), len(condition.should), len(condition.must_not)]
    GrpcToRest.convert_filter(message)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Equals("kind", "a"), 'field { key: "metadata.kind" match { keyword: "a" } }'),
        (Equals("year", 7), 'field { key: "metadata.year" match { integer: 7 } }'),
        (Equals("stable", False), 'field { key: "metadata.stable" match { boolean: false } }'),
        (Equals("since", 1.5), 'field { key: "metadata.since" range { gte: 1.5 lte: 1.5 } }'),
        (
            AnyOf("kind", ["a", "b"]),
            'field { key: "metadata.kind" match { keywords { strings: "a" strings: "b" } } }',
        ),
        (AnyOf("year", [1, 2]), 'field { key: "metadata.year" match { integers { integers: 1 integers: 2 } } }'),
        (Range("year", gt=1, lte=5), 'field { key: "metadata.year" range { gt: 1 lte: 5 } }'),
        (
            DateRange("kind", gte=datetime(2024, 5, 1, tzinfo=UTC)),
            'field { key: "metadata.kind" datetime_range { gte { seconds: 1714521600 } } }',
        ),
        (Exists("kind", False), 'is_empty { key: "metadata.kind" }'),
        (Exists("kind"), 'filter { must_not { is_empty { key: "metadata.kind" } } }'),
        (
            Filter(must_not=[Equals("kind", "a")]),
            'filter { must_not { field { key: "metadata.kind" match { keyword: "a" } } } }',
        ),
        (
            Range("year", gte=2**53 + 1),
            """filter {
              should { field { key: "wide.year.high" range { gt: 2097152 } } }
              should { filter {
                must { field { key: "wide.year.high" match { integer: 2097152 } } }
                must { field { key: "wide.year.low" range { gte: 1 } } }
              } }
            }""",
        ),
    ],
)
def test_a_condition_is_this_message(condition, message):
    [made] = to_filter(Filter([condition])).must
    assert text_format.MessageToString(made) == text_format.MessageToString(text_format.Parse(message, type(made)()))


def test_a_write_asks_for_each_point_with_its_revision():
    [one, other] = still_so({"p": "r1", "q": "r2"}).should
    assert [condition.has_id.has_id[0].uuid for condition in (one.filter.must[0], other.filter.must[0])] == ["p", "q"]
    assert other.filter.must[1].field.match.keyword == "r2"
