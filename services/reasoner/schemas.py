"""JSON schemas of answers: that of a caller, and that of all the model returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from services.chassis.errors import InvalidArgument

MAX_SCHEMA_BYTES = 16_384
_MOST_LEVELS = 16
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}


def read_schema(text: str, field: str) -> Mapping[str, Any]:
    """Read the schema of a caller. Raises InvalidArgument for what is none, or has keywords that are not taken.

    Taken is what servers of models enforce alike, and what is checked in time that grows with the answer alone: no
    patterns, no references.
    """
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidArgument(field, f"is longer than {MAX_SCHEMA_BYTES} bytes; ask for fewer fields")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgument(field, "is not JSON") from None
    _check(schema, field, 1)
    return dict(schema)


def _check(schema: Any, path: str, level: int) -> None:
    if not isinstance(schema, dict):
        raise InvalidArgument(path, 'is no schema; send a JSON object, as {"type": "object", ...}')
    if level > _MOST_LEVELS:
        raise InvalidArgument(path, f"is nested deeper than {_MOST_LEVELS} levels")
    for keyword, value in schema.items():
        if keyword not in _KEYWORDS:
            raise InvalidArgument(f"{path}.{keyword}", f"is not taken; use {', '.join(_KEYWORDS)}")
        if not _KEYWORDS[keyword](value):
            raise InvalidArgument(f"{path}.{keyword}", "has a value that JSON Schema does not allow here")
    if not schema.keys() & {"type", "enum", "const", "anyOf"}:
        raise InvalidArgument(path, "has none of type, enum, const and anyOf; add the type")
    for name, each in schema.get("properties", {}).items():
        _check(each, f"{path}.properties.{name}", level + 1)
    if "items" in schema:
        _check(schema["items"], f"{path}.items", level + 1)
    for place, each in enumerate(schema.get("anyOf", [])):
        _check(each, f"{path}.anyOf[{place}]", level + 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


_KEYWORDS: Mapping[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "properties": lambda value: isinstance(value, dict),
    "required": _are_words,
    "items": lambda value: isinstance(value, dict),
    "enum": lambda value: isinstance(value, list) and bool(value),
    "const": lambda value: True,
    "anyOf": lambda value: isinstance(value, list) and bool(value),
    "additionalProperties": lambda value: isinstance(value, bool),
    "minimum": _is_number,
    "maximum": _is_number,
    "minLength": _is_count,
    "maxLength": _is_count,
    "minItems": _is_count,
    "maxItems": _is_count,
    "title": lambda value: isinstance(value, str),
    "description": lambda value: isinstance(value, str),
}
