"""Filters in Qdrant's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from qdrant_client import grpc as api

from services.retriever.engines.payloads import WIDE, halves, is_wide, payload_key, wide_key
from services.retriever.fields import AnyOf, Condition, DateRange, Equals, Exists, Filter, Range, Scalar, Test, Value
from services.retriever.store import Revisions

_BOUNDS = ("gt", "gte", "lt", "lte")


def to_filter(condition: Filter) -> api.Filter | None:
    """Return a filter that fits the fields; None if it is empty."""
    return _filter(condition) if condition else None


def still_so(still: Revisions) -> api.Filter:
    """Return a filter for the passages that still have these revisions."""
    return _any(
        _all(
            api.Condition(has_id=api.HasIdCondition(has_id=[api.PointId(uuid=point)])),
            _field("revision", match=api.Match(keyword=revision)),
        )
        for point, revision in still.items()
    ).filter


def set_halves(messages: Any, value: Value) -> None:
    """Write the halves of a whole number into a map of messages."""
    for name, half in halves(value).items():
        messages[name].integer_value = half


def _filter(condition: Filter) -> api.Filter:
    return api.Filter(
        must=_conditions(condition.must), should=_conditions(condition.should), must_not=_conditions(condition.must_not)
    )


def _conditions(conditions: Sequence[Condition]) -> list[api.Condition]:
    return [api.Condition(filter=_filter(one)) if isinstance(one, Filter) else _condition(one) for one in conditions]


def _condition(condition: Test) -> api.Condition:
    match condition:
        case Equals(field=field, value=value):
            return _equals(payload_key(field), value)
        case AnyOf(field=field, values=values):
            return _any_of(payload_key(field), values)
        case Range(field=field):
            bounds = {name: bound for name in _BOUNDS if (bound := getattr(condition, name)) is not None}
            return _range(field, bounds)
        case DateRange(field=field, gt=gt, gte=gte, lt=lt, lte=lte):
            moments = {"gt": _moment(gt), "gte": _moment(gte), "lt": _moment(lt), "lte": _moment(lte)}
            return _field(payload_key(field), datetime_range=api.DatetimeRange(**moments))
        case Exists(field=field, exists=exists):
            empty = api.Condition(is_empty=api.IsEmptyCondition(key=payload_key(field)))
            return api.Condition(filter=api.Filter(must_not=[empty])) if exists else empty


def _field(key: str, **test: Any) -> api.Condition:
    return api.Condition(field=api.FieldCondition(key=key, **test))


def _all(*conditions: api.Condition) -> api.Condition:
    return api.Condition(filter=api.Filter(must=conditions))


def _any(conditions: Any) -> api.Condition:
    return api.Condition(filter=api.Filter(should=conditions))


def _equals(key: str, value: Scalar) -> api.Condition:
    match value:
        case bool():
            return _field(key, match=api.Match(boolean=value))
        case float():  # Qdrant matches no floats, but ranges of them
            return _field(key, range=api.Range(gte=value, lte=value))
        case int():
            return _field(key, match=api.Match(integer=value))
    return _field(key, match=api.Match(keyword=value))


def _any_of(key: str, values: Sequence[Scalar]) -> api.Condition:
    if any(isinstance(value, bool | float) for value in values):
        return _any(_equals(key, value) for value in values)
    if isinstance(values[0], int):
        return _field(key, match=api.Match(integers=api.RepeatedIntegers(integers=values)))  # type: ignore[arg-type]
    return _field(key, match=api.Match(keywords=api.RepeatedStrings(strings=values)))  # type: ignore[arg-type]


def _range(field: str, bounds: Mapping[str, float]) -> api.Condition:
    plain = {name: bound for name, bound in bounds.items() if not is_wide(bound)}
    parts = [_beyond(field, name, int(bound)) for name, bound in bounds.items() if is_wide(bound)]
    if plain:
        parts.append(_field(payload_key(field), range=api.Range(**plain)))
    return parts[0] if len(parts) == 1 else _all(*parts)


def _moment(bound: datetime | None) -> Timestamp | None:
    if bound is None:
        return None
    moment = Timestamp()
    moment.FromDatetime(bound)
    return moment


def _beyond(field: str, name: str, bound: int) -> api.Condition:
    """Return the condition that a whole number is beyond a bound that double precision does not tell from others."""
    high, low = wide_key(field, "high"), wide_key(field, "low")
    parts = halves(max(-(2**63) - 1, min(bound, 2**63)))
    side = name[:2]
    cases = [
        _field(high, range=api.Range(**{side: parts["high"]})),
        _all(
            _field(high, match=api.Match(integer=parts["high"])),
            _field(low, range=api.Range(**{name: parts["low"]})),
        ),
    ]
    # Numbers that are not stored as halves lie on one side of the bound.
    if side == "gt" and bound < 0:
        cases.append(_field(payload_key(field), range=api.Range(gt=-WIDE)))
    if side == "lt" and bound > 0:
        cases.append(_field(payload_key(field), range=api.Range(lt=WIDE)))
    return _any(cases)
