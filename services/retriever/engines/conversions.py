"""The product's types in Qdrant's models, and back."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from services.retriever.fields import AnyOf, Condition, Equals, Exists, Filter, Range, Scalar


def to_filter(condition: Filter) -> models.Filter | None:
    """Return a filter that fits the fields in Qdrant's words; None if it is empty."""
    if not condition:
        return None
    return models.Filter(
        must=_conditions(condition.must),
        should=_conditions(condition.should),
        must_not=_conditions(condition.must_not),
    )


def payload_key(field: str) -> str:
    """Return the path of a metadata field in a point's payload."""
    return f"metadata.{field}"


def _conditions(conditions: Sequence[Condition]) -> list[models.Condition]:
    return [_condition(condition) for condition in conditions]


def _condition(condition: Condition) -> models.Condition:
    key = payload_key(condition.field)
    match condition:
        case Equals(value=value):
            return _equals(key, value)
        case AnyOf(values=values):
            if any(isinstance(value, bool | float) for value in values):
                return models.Filter(should=[_equals(key, value) for value in values])
            return models.FieldCondition(key=key, match=models.MatchAny.model_validate({"any": values}))
        case Range(gt=gt, gte=gte, lt=lt, lte=lte):
            return models.FieldCondition(key=key, range=models.Range(gt=gt, gte=gte, lt=lt, lte=lte))
        case Exists(exists=exists):
            empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
            return models.Filter(must_not=[empty]) if exists else empty


def _equals(key: str, value: Scalar) -> models.FieldCondition:
    if isinstance(value, float):  # Qdrant matches no floats, but ranges of them
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))
