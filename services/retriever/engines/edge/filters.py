"""Filters in Qdrant Edge's words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import qdrant_edge as edge

from services.retriever.engines.payloads import WIDE, halves, is_wide, payload_key, wide_key
from services.retriever.fields import AnyOf, Condition, DateRange, Equals, Exists, Filter, Range, Scalar

EVERYTHING = edge.Filter()

_BOUNDS = ("gt", "gte", "lt", "lte")
_EXACT_LENGTH = 16
_NOTHING = edge.HasIdCondition(set())


def bool_key(field: str) -> str:
    """Return the path of the copy of a field's booleans as text: Edge 0.9.0 takes those in conditions for numbers."""
    return f"bools.{field}"


def date_key(field: str) -> str:
    """Return the path of the copy of a field's dates: a path has one index, and that of keywords knows no ranges."""
    return f"dates.{field}"


def decimal_key(field: str) -> str:
    """Return the path of the copy of a field's long decimals as text: Edge 0.9.0 stores some a trifle off."""
    return f"decimals.{field}"


def is_long(value: Any) -> bool:
    """True for a decimal that Edge, which writes and reads JSON, may not read back as it was."""
    return isinstance(value, float) and (len(text := repr(value)) > _EXACT_LENGTH or "e" in text)


def to_filter(condition: Filter, indexed: Collection[str]) -> edge.Filter | None:
    """Return a filter in Edge's words; None if it is empty. `indexed` holds the paths that have an index."""
    return _filter(condition, indexed) if condition else None


def _filter(condition: Filter, indexed: Collection[str]) -> edge.Filter:
    return edge.Filter(
        must=_conditions(condition.must, indexed),
        should=_conditions(condition.should, indexed),
        must_not=_conditions(condition.must_not, indexed),
    )


def _conditions(conditions: Sequence[Condition | Filter], indexed: Collection[str]) -> list[Any] | None:
    return [_condition(condition, indexed) for condition in conditions] or None


def _condition(condition: Condition | Filter, indexed: Collection[str]) -> Any:  # noqa: PLR0911  one for each kind
    match condition:
        case Filter():
            return _filter(condition, indexed)
        case Equals(field, value):
            return _equals(field, value, indexed)
        case AnyOf(field, values):
            if any(isinstance(value, bool | float) for value in values):
                return edge.Filter(should=[_equals(field, value, indexed) for value in values])
            return edge.FieldCondition(payload_key(field), match=edge.MatchAny(list(values)))  # type: ignore[arg-type]
        case Range(field):
            return _range(condition, indexed)
        case DateRange(field):
            if date_key(field) not in indexed:
                return _NOTHING
            moments = {name: at.isoformat() for name in _BOUNDS if (at := getattr(condition, name)) is not None}
            return edge.FieldCondition(date_key(field), range=edge.RangeDateTime(**moments))
        case Exists(field, exists):
            empty = edge.IsEmptyCondition(payload_key(field))
            return edge.Filter(must_not=[empty]) if exists else empty


def _equals(field: str, value: Scalar, indexed: Collection[str]) -> Any:
    if isinstance(value, bool):
        return edge.FieldCondition(bool_key(field), match=edge.MatchValue(str(value)))
    if is_long(value):
        return _is_decimal(field, value) if decimal_key(field) in indexed else _NOTHING
    if isinstance(value, float):  # Qdrant matches no floats, but ranges of them
        return edge.FieldCondition(payload_key(field), range=edge.RangeFloat(gte=value, lte=value))
    return edge.FieldCondition(payload_key(field), match=edge.MatchValue(value))


def _is_decimal(field: str, value: Scalar) -> edge.FieldCondition:
    return edge.FieldCondition(decimal_key(field), match=edge.MatchValue(repr(value)))


def _range(condition: Range, indexed: Collection[str]) -> Any:
    field = condition.field
    plain: dict[str, float] = {}
    parts: list[Any] = []
    for name in _BOUNDS:
        if (bound := getattr(condition, name)) is None:
            continue
        if is_wide(bound):
            parts.append(_beyond(field, name, bound, indexed))
        elif is_long(bound) and decimal_key(field) in indexed:
            beyond = edge.FieldCondition(payload_key(field), range=edge.RangeFloat(**{name: bound}))
            same = _is_decimal(field, bound)
            parts.append(
                edge.Filter(should=[beyond, same]) if "e" in name else edge.Filter(must=[beyond], must_not=[same])
            )
        else:
            plain[name] = bound
    if plain:
        parts.append(edge.FieldCondition(payload_key(field), range=edge.RangeFloat(**plain)))
    return parts[0] if len(parts) == 1 else edge.Filter(must=parts)


def _beyond(field: str, name: str, bound: int, indexed: Collection[str]) -> edge.Filter:
    """Return the condition that a whole number is beyond a bound that double precision does not tell from others."""
    high, low = wide_key(field, "high"), wide_key(field, "low")
    side = name[:2]
    cases: list[Any] = [_NOTHING]
    if high in indexed:
        half = halves(max(-(2**63) - 1, min(bound, 2**63)))
        cases = [
            edge.FieldCondition(high, range=edge.RangeFloat(**{side: half["high"]})),
            edge.Filter(
                must=[
                    edge.FieldCondition(high, match=edge.MatchValue(half["high"])),
                    edge.FieldCondition(low, range=edge.RangeFloat(**{name: half["low"]})),
                ]
            ),
        ]
    # Numbers that are not stored as halves lie on one side of the bound.
    if side == "gt" and bound < 0:
        cases.append(edge.FieldCondition(payload_key(field), range=edge.RangeFloat(gt=-WIDE)))
    if side == "lt" and bound > 0:
        cases.append(edge.FieldCondition(payload_key(field), range=edge.RangeFloat(lt=WIDE)))
    return edge.Filter(should=cases)
