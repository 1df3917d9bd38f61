from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_cli.search.conditions import parse_filter
from sluice_client import Condition, Filter, all_of, any_of, none_of
from sluice_client.filters import Scalar


@pytest.mark.parametrize(
    ("written", "condition"),
    [
        ("kind=class", Condition("kind", "==", "class")),
        ("kind==class", Condition("kind", "==", "class")),
        (" kind = a class ", Condition("kind", "==", "a class")),
        ("year>=2020", Condition("year", ">=", 2020)),
        ("year > 2020", Condition("year", ">", 2020)),
        ("day>=2024-05-01", Condition("day", ">=", "2024-05-01")),
        ("day<2024-05-01T12:00:00Z", Condition("day", "<", "2024-05-01T12:00:00Z")),
        ("n>9007199254740993", Condition("n", ">", 2**53 + 1)),
        ("score<0.5", Condition("score", "<", 0.5)),
        ("score<=-1e3", Condition("score", "<=", -1000.0)),
        ("draft=true", Condition("draft", "==", True)),
        ('draft="true"', Condition("draft", "==", "true")),
        ('year="2020"', Condition("year", "==", "2020")),
        ("zip=02139", Condition("zip", "==", "02139")),
        ("lang=en,de", Condition("lang", "any_of", ("en", "de"))),
        ('title="a, b",c', Condition("title", "any_of", ("a, b", "c"))),
        ('title=""', Condition("title", "==", "")),
        ("year=*", Condition("year", "exists", True)),
        ('year="*"', Condition("year", "==", "*")),
        ("formula=a=b>c", Condition("formula", "==", "a=b>c")),
    ],
)
def test_a_condition_means_what_it_looks_like(written: str, condition: Condition) -> None:
    parsed = parse_filter([written])
    assert parsed == Filter(must=(condition,))
    assert type(value_in(parsed)) is type(condition.value)


def value_in(parsed: Filter) -> object:
    """The value of the only condition."""
    (condition,) = parsed.must
    assert isinstance(condition, Condition)
    return condition.value


def test_not_equal_and_not_there_must_not_hold() -> None:
    assert parse_filter(["kind!=module", "lang!=en,de", "year!=*", "year<2"]) == Filter(
        must=(Condition("year", "<", 2),),
        must_not=(
            Condition("kind", "==", "module"),
            Condition("lang", "any_of", ("en", "de")),
            Condition("year", "exists", True),
        ),
    )


def test_no_conditions_are_no_filter() -> None:
    assert parse_filter([]) is None


@pytest.mark.parametrize(
    "written", ["", "kind", "=class", "kind=", "kind~class", "year>=new", "year>true", "a=b,", "a=,b", 'a="b', 'a="b"c']
)
def test_what_is_no_condition_is_refused_with_a_remedy(written: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_filter([written])
    assert repr(written) in caught.value.message
    assert "FIELD=VALUE" in caught.value.remedy
    assert caught.value.exit_code == WRONG_COMMAND_LINE


_SCALARS = st.one_of(st.text(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
_FIELDS = st.text("abcXYZ019_-", min_size=1, max_size=12)


def _written(value: Scalar) -> str:
    return json.dumps(value)


@given(name=_FIELDS, value=_SCALARS)
def test_any_value_can_be_written_and_read_back(name: str, value: Scalar) -> None:
    parsed = parse_filter([f"{name}={_written(value)}"])
    assert parsed == Filter(must=(Condition(name, "==", value),))
    assert type(value_in(parsed)) is type(value)


@given(name=_FIELDS, values=st.lists(_SCALARS, min_size=2, max_size=5))
def test_any_values_can_be_written_and_read_back(name: str, values: list[Scalar]) -> None:
    parsed = parse_filter([f"{name} = {' , '.join(map(_written, values))}"])
    assert parsed == Filter(must=(Condition(name, "any_of", tuple(values)),))


@given(written=st.text())
def test_whatever_is_written_is_a_condition_or_a_problem(written: str) -> None:
    with contextlib.suppress(Problem):
        parse_filter([written])


A, B, C = (Condition(name, "==", 1) for name in "abc")


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ('{"all": ["a=1"]}', all_of(A)),
        ('{"any": ["a=1", "b=1"], "none": ["c=1"]}', Filter(should=(A, B), must_not=(C,))),
        ('{"any": ["a=1", {"all": ["b=1", {"none": ["c=1"]}]}]}', any_of(A, all_of(B, none_of(C)))),
        ('{"any": ["a!=1"], "none": ["b!=1"]}', Filter(should=(none_of(A),), must_not=(none_of(B),))),
    ],
)
def test_a_tree_of_conditions_is_a_filter_of_filters(tree: str, expected: Filter) -> None:
    assert parse_filter([], tree) == expected


def test_a_tree_holds_together_with_conditions() -> None:
    assert parse_filter(["a=1", "b!=1"], '{"any": ["c=1"]}') == Filter(must=(A, any_of(C)), must_not=(B,))


@pytest.mark.parametrize(
    "tree",
    ["{", "[]", "{}", "1", '"a=1"', '{"some": ["a=1"]}', '{"all": "a=1"}', '{"all": []}', '{"all": [1]}', "[" * 99_999],
)
def test_what_is_no_tree_is_refused_with_a_remedy(tree: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_filter(None, tree)
    assert '{"all": [...]' in caught.value.remedy
    assert caught.value.exit_code == WRONG_COMMAND_LINE
