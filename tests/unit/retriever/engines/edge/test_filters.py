from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.retriever.engines.edge.shard import Shard
from services.retriever.fields import ALL, AnyOf, DateRange, Equals, Exists, FieldType, Filter, Range
from services.retriever.store import Parts
from tests.unit.retriever.engines.edge.shelf import DIMENSION, row

SCHEMA = {
    "kind": FieldType.KEYWORD,
    "day": FieldType.KEYWORD,
    "size": FieldType.INTEGER,
    "share": FieldType.FLOAT,
    "open": FieldType.BOOL,
}
BASE = datetime(2024, 5, 1, tzinfo=UTC)
NUMBERS = [0, 1, -1, 7, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62 + 1, 2**62 + 2, -(2**62), 2**63 - 1, -(2**63)]


def metadata(number):
    """Return metadata of which every field is left out now and then."""
    values = {
        "kind": ["a", ["a", "b"], ["c"], []][number % 4],
        "day": (BASE + timedelta(hours=5 * number)).isoformat() if number % 5 else "no date",
        "size": NUMBERS[number % len(NUMBERS)],
        "share": number / 4 if number % 2 else number / 7,
        "open": number % 3 == 0,
    }
    return {name: value for place, (name, value) in enumerate(values.items()) if (number + place) % 7}


STORED = [metadata(number) for number in range(60)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    opened = Shard.create(tmp_path_factory.mktemp("edge") / "v", DIMENSION)
    opened.declare(SCHEMA)
    opened.write([row(number, **values) for number, values in enumerate(STORED)])
    yield opened
    opened.close()


def holds(condition, values):
    """The meaning of a condition, told without an engine."""
    if isinstance(condition, Filter):
        return (
            all(holds(one, values) for one in condition.must)
            and (not condition.should or any(holds(one, values) for one in condition.should))
            and not any(holds(one, values) for one in condition.must_not)
        )
    value = values.get(condition.field)
    found = value if isinstance(value, list) else [] if value is None else [value]
    match condition:
        case Exists(exists=exists):
            return bool(found) == exists
        case Equals(value=wanted):
            return wanted in found
        case AnyOf(values=wanted):
            return any(one in wanted for one in found)
        case DateRange():
            found = [datetime.fromisoformat(one) for one in found if one[:1].isdigit()]
    return any(
        (condition.gt is None or one > condition.gt)
        and (condition.gte is None or one >= condition.gte)
        and (condition.lt is None or one < condition.lt)
        and (condition.lte is None or one <= condition.lte)
        for one in found
    )


def ranged(kind, field, bounds):
    names = st.sampled_from([("gt",), ("gte",), ("lt",), ("lte",), ("gt", "lt"), ("gte", "lte"), ("gt", "lte")])
    return names.flatmap(lambda chosen: st.builds(kind, st.just(field), **dict.fromkeys(chosen, bounds)))


near = st.sampled_from(NUMBERS).flatmap(lambda one: st.integers(max(one - 1, -(2**63)), min(one + 1, 2**63 - 1)))
scalars = {
    "kind": st.sampled_from(["a", "b", "c", "d"]),
    "size": near,
    "share": st.integers(0, 60).flatmap(lambda one: st.sampled_from([one / 4, one / 7])),
    "open": st.booleans(),
}
simple = st.one_of(
    st.sampled_from(sorted(scalars)).flatmap(lambda field: st.builds(Equals, st.just(field), scalars[field])),
    st.sampled_from(sorted(scalars)).flatmap(
        lambda field: st.builds(AnyOf, st.just(field), st.lists(scalars[field], min_size=1, max_size=3))
    ),
    ranged(Range, "size", near),
    ranged(Range, "share", scalars["share"]),
    ranged(DateRange, "day", st.integers(0, 300).map(lambda hours: BASE + timedelta(hours=hours))),
    st.builds(Exists, st.sampled_from(sorted(SCHEMA)), st.booleans()),
)


def filters(conditions):
    some = st.lists(conditions, max_size=3)
    return st.builds(Filter, some, some, some)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=filters(simple | filters(simple | filters(simple))))
def test_a_filter_keeps_what_its_conditions_say(shard, condition):
    right = {f"p{number}" for number, values in enumerate(STORED) if holds(condition, values)}
    rows, _ = shard.scroll(None, 100, Parts.KEYS, condition)
    assert {one.passage.id for one in rows} == right
    assert shard.count(condition) == len(right)


def test_the_empty_filter_keeps_everything(shard):
    assert shard.count(ALL) == shard.count(Filter([ALL])) == len(STORED)
