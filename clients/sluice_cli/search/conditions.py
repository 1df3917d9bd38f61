"""Filters of the command line: conditions, and trees of them as JSON.

`--filter` has a condition: `year>=2020`, `kind=class`, `lang=en,de`, `draft!=true`, `year=*`. `--filter-json` has an
object with lists of conditions and objects: {"any": ["kind=class", {"all": ["year>=2020"], "none": ["draft=true"]}]}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_client import Condition, Filter, field, none_of
from sluice_client.filters import Scalar

_CONDITION = re.compile(r"\s*(?P<field>[^\s<>=!]+)\s*(?P<operator>>=|<=|!=|==|=|>|<)\s*(?P<value>.*?)\s*", re.DOTALL)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = re.compile(rf'\s*(?:({_QUOTED})|([^,"]+?))\s*(?:,|$)', re.DOTALL)
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.?\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PARTS = {"all": "must", "any": "should", "none": "must_not"}
_WORDS = {"true": True, "false": False}


def parse_filter(conditions: Sequence[str] | None, tree: str = "") -> Filter | None:
    """Parse conditions and a tree, of which all hold, into one filter, if there are any. Raises Problem."""
    given = [_parse(text) for text in conditions or ()]
    must: list[Condition | Filter] = [condition for negated, condition in given if not negated]
    must_not = [condition for negated, condition in given if negated]
    if tree:
        parsed = _parse_tree(tree)
        if not given:
            return parsed
        must.append(parsed)
    return Filter(must=tuple(must), must_not=tuple(must_not)) if must or must_not else None


def _parse_tree(tree: str) -> Filter:
    try:
        return _node(json.loads(tree))
    except (ValueError, RecursionError):
        raise _tree_problem("is no JSON") from None


def _node(node: Any) -> Filter:
    if not isinstance(node, dict) or not node or not node.keys() <= set(_PARTS):
        raise _tree_problem('has something else than an object with "all", "any" or "none"')
    parts = {_PARTS[name]: _members(name, members) for name, members in node.items()}
    return Filter(**parts)


def _members(name: str, members: Any) -> tuple[Condition | Filter, ...]:
    if not isinstance(members, list) or not members:
        raise _tree_problem(f'has no list of conditions in "{name}"')
    return tuple(_member(member) for member in members)


def _member(member: Any) -> Condition | Filter:
    if not isinstance(member, str):
        return _node(member)
    negated, condition = _parse(member)
    return none_of(condition) if negated else condition


def _parse(text: str) -> tuple[bool, Condition]:
    parts = _CONDITION.fullmatch(text)
    if parts is None:
        raise _problem(text, "is no condition")
    subject, operator, written = field(parts["field"]), parts["operator"], parts["value"]
    if operator not in ("=", "==", "!="):
        bound = _value(written)
        if isinstance(bound, bool) or (isinstance(bound, str) and not _DATE.match(bound)):
            raise _problem(text, f"needs a number or a date after {operator}")
        ranges = {">": subject > bound, ">=": subject >= bound, "<": subject < bound, "<=": subject <= bound}
        return False, ranges[operator]
    if written == "*":
        return operator == "!=", subject.exists()
    values = _values(text, written)
    condition = subject == values[0] if len(values) == 1 else subject.any_of(*values)
    return operator == "!=", condition


def _values(text: str, written: str) -> list[Scalar]:
    values: list[Scalar] = []
    end = 0
    while end < len(written):
        found = _VALUE.match(written, end)
        if found is None:
            raise _problem(text, "has a value that cannot be read")
        quoted, bare = found.groups()
        values.append(_unquoted(text, quoted) if quoted else _value(bare))
        end = found.end()
    if not values or written.endswith(","):
        raise _problem(text, "lacks a value")
    return values


def _unquoted(text: str, quoted: str) -> str:
    try:
        return str(json.loads(quoted, strict=False))
    except ValueError:
        raise _problem(text, "has a quoted value that cannot be read") from None


def _value(written: str) -> Scalar:
    if written in _WORDS:
        return _WORDS[written]
    if _INTEGER.fullmatch(written):
        return int(written)
    # 02139 is text: numbers are not written with a leading zero.
    if _NUMBER.fullmatch(written) and not re.match(r"[+-]?0\d", written):
        return float(written)
    return written


def _tree_problem(what: str) -> Problem:
    return Problem(
        f"--filter-json {what}",
        'write {"all": [...], "any": [...], "none": [...]} with some of these, whose lists hold conditions as in '
        '--filter ("kind=class") and such objects',
        exit_code=WRONG_COMMAND_LINE,
    )


def _problem(text: str, what: str) -> Problem:
    return Problem(
        f"--filter {text!r} {what}",
        "write FIELD=VALUE, FIELD!=VALUE, FIELD>=NUMBER or FIELD>=DATE (or <=, >, <), FIELD=A,B or FIELD=*; quote text "
        "that holds a comma, as in 'title=\"a, b\"'",
        exit_code=WRONG_COMMAND_LINE,
    )
