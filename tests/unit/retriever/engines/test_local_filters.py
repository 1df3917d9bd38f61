from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client.local import payload_filters

from services.retriever.documents import Passage
from services.retriever.engines import conversions, local_filters
from services.retriever.fields import AnyOf, DateRange, Equals, Exists, FieldType, Filter, Range
from services.retriever.store import Row

SCHEMA = {
    "kind": FieldType.KEYWORD,
    "year": FieldType.INTEGER,
    "since": FieldType.FLOAT,
    "stable": FieldType.BOOL,
    "day": FieldType.KEYWORD,
}
BASE = 2**53
integers = st.one_of(
    st.integers(-3, 3),
    st.integers(BASE - 3, BASE + 3),
    st.integers(-BASE - 3, -BASE + 3),
    st.integers(-(2**63), 2**63 - 1),
)
days = st.datetimes(datetime(2024, 1, 1), datetime(2024, 1, 3), timezones=st.just(UTC))
values: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from("abc") | st.lists(st.sampled_from("abc"), max_size=2),
    "year": integers,
    "since": st.floats(-3, 3) | st.integers(-3, 3).map(float),
    "stable": st.booleans(),
    "day": st.sampled_from(["2024-01-02", "no day", ""]) | days.map(datetime.isoformat),
}
metadata = st.fixed_dictionaries({}, optional=values)
scalars: dict[str, st.SearchStrategy[Any]] = {**values, "kind": st.sampled_from("abc")}
BOUNDS = ["gt", "gte", "lt", "lte"]
conditions = st.sampled_from(sorted(SCHEMA)).flatmap(
    lambda field: st.one_of(
        st.builds(Equals, st.just(field), scalars[field]),
        st.builds(AnyOf, st.just(field), st.lists(scalars[field], min_size=1, max_size=4)),
        st.builds(Exists, st.just(field), st.booleans()),
        st.dictionaries(st.sampled_from(BOUNDS), integers | st.floats(-9, 9), min_size=1).map(
            lambda bounds: Range("year", **bounds)
        ),
        st.dictionaries(st.sampled_from(BOUNDS), st.integers(-3, 3) | st.floats(-3, 3), min_size=1).map(
            lambda bounds: Range("since", **bounds)
        ),
        st.dictionaries(st.sampled_from(BOUNDS), days, min_size=1).map(lambda bounds: DateRange("day", **bounds)),
    )
)
filters = st.builds(
    Filter, st.lists(conditions, max_size=2), st.lists(conditions, max_size=3), st.lists(conditions, max_size=2)
)


def payload_of(stored: dict[str, Any]) -> dict[str, Any]:
    payload = conversions.to_point(Row("1", Passage("a", metadata=stored), "r1")).payload
    assert payload is not None
    return payload


def mask(payloads: list[dict[str, Any]], wanted: Filter) -> list[bool]:
    with local_filters.ending(math.inf):
        return list(local_filters.payload_mask(payloads, conversions.to_filter(wanted), ["1"] * len(payloads), {}))


@given(st.lists(metadata, max_size=6), filters)
def test_a_filter_keeps_what_the_engine_would_keep(stored: list[dict[str, Any]], wanted: Filter) -> None:
    fitted = conversions.to_filter(wanted.fit(SCHEMA))
    payloads = [payload_of(one) for one in stored]
    with local_filters.ending(math.inf):
        ours = local_filters.payload_mask(payloads, fitted, ["1"] * len(payloads), {})
    theirs = payload_filters.calculate_payload_mask(payloads, fitted, ["1"] * len(payloads), {})
    assert np.array_equal(ours, theirs)


@given(st.lists(integers, min_size=1, max_size=8), integers, st.sampled_from(BOUNDS))
def test_ranges_of_whole_numbers_are_exact(numbers: list[int], bound: int, name: str) -> None:
    compare = {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}[name]
    wanted = Filter(must=[Range("year", **{name: bound})]).fit(SCHEMA)
    assert mask([payload_of({"year": one}) for one in numbers], wanted) == [compare(one, bound) for one in numbers]


@given(st.lists(integers, min_size=1, max_size=8), integers, st.sampled_from(BOUNDS))
def test_ranges_are_exact_in_an_engine_that_compares_in_double_precision(
    numbers: list[int], bound: int, name: str
) -> None:
    compare = {"gt": int.__gt__, "gte": int.__ge__, "lt": int.__lt__, "lte": int.__le__}[name]
    wanted = Filter(must=[Range("year", **{name: bound})]).fit(SCHEMA)
    payloads = [payload_of({"year": one}) for one in numbers]
    for payload in payloads:
        payload["metadata"]["year"] = float(payload["metadata"]["year"])
    assert mask(payloads, wanted) == [compare(one, bound) for one in numbers]


@given(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(BOUNDS))
def test_whole_bounds_of_decimals_are_exact(bound: int, number: float, name: str) -> None:
    wanted = Filter(must=[Range("since", **{name: bound})]).fit(SCHEMA)
    exact = {"gt": number > bound, "gte": number >= bound, "lt": number < bound, "lte": number <= bound}[name]
    assert mask([payload_of({"since": number})], wanted) == [exact]


def test_a_deadline_ends_the_check_of_a_filter() -> None:
    payloads = [payload_of({"year": number}) for number in range(1000)]
    wanted = conversions.to_filter(Filter(must=[Equals("year", 3)]))
    with local_filters.ending(time.monotonic() - 1), pytest.raises(TimeoutError):
        local_filters.payload_mask(payloads, wanted, ["1"] * 1000, {})
    with local_filters.ending(math.inf):
        assert sum(local_filters.payload_mask(payloads, wanted, ["1"] * 1000, {})) == 1


def test_a_filter_is_checked_once_for_all_searches_of_an_operation_and_anew_for_the_next() -> None:
    payloads = [payload_of({"year": 3})]
    wanted = conversions.to_filter(Filter(must=[Equals("year", 3)]))
    with local_filters.ending(math.inf):
        first = local_filters.payload_mask(payloads, wanted, ["1"], {})
        assert local_filters.payload_mask(payloads, wanted, ["1"], {}) is first
    payloads[0]["metadata"]["year"] = 4
    with local_filters.ending(math.inf):
        assert list(local_filters.payload_mask(payloads, wanted, ["1"], {})) == [False]


def test_conditions_on_ids_and_revisions_are_checked_together() -> None:
    still = conversions.to_condition({"1": "r1", "2": "r2"})
    payloads = [payload_of({}), payload_of({}), payload_of({})]
    with local_filters.ending(math.inf):
        assert list(local_filters.payload_mask(payloads, still, ["1", "2", "3"], {})) == [True, False, False]
