"""JSON schemas of answers: that of a caller, and that of all the model returns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry

from services.chassis.errors import InvalidArgument

MAX_SCHEMA_BYTES = 16_384
_MOST_LEVELS = 16
SUB_QUESTION_CHARACTERS = 200
_KEYWORDS = (
    *("type", "properties", "required", "items", "enum", "const", "anyOf", "additionalProperties"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "title", "description"),
)


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
    if not isinstance(schema, dict):
        raise InvalidArgument(field, 'is no schema; send a JSON object, as {"type": "object", ...}')
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError):
        raise InvalidArgument(field, "is no valid JSON schema (draft 2020-12)") from None
    _check(schema, field, 1)
    return schema


def reply_schema(
    answer: Mapping[str, Any] | None,
    *,
    passages: int,
    quotes: int,
    quote_characters: int,
    answer_characters: int,
    sub_questions: int,
) -> dict[str, Any]:
    """Make the schema of all that a model returns; quotes come first, so that the answer stands on them."""
    citation = {
        "type": "object",
        "properties": {
            "passage": {"type": "integer", "enum": list(range(1, passages + 1))},
            "quote": {"type": "string", "minLength": 1, "maxLength": quote_characters},
        },
        "required": ["passage", "quote"],
        "additionalProperties": False,
    }
    properties: dict[str, Any] = {
        "citations": {"type": "array", "items": citation, "maxItems": quotes},
        "answer": answer or {"type": "string", "maxLength": answer_characters},
        "in_sources": {"type": "boolean"},
        # A percentage: servers hold the bounds of whole numbers, and not those of decimals.
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
    }
    if sub_questions:
        question = {"type": "string", "maxLength": SUB_QUESTION_CHARACTERS}
        properties["sub_questions"] = {"type": "array", "items": question, "maxItems": sub_questions}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def conforms(value: Any, schema: Mapping[str, Any]) -> bool:
    """True if a value is one of a schema."""
    return Draft202012Validator(schema, registry=Registry()).is_valid(value)


def _check(schema: Any, path: str, level: int) -> None:
    """Raise InvalidArgument for a keyword that is not taken, here or further down."""
    if not isinstance(schema, dict):
        raise InvalidArgument(path, 'is no schema; send a JSON object, as {"type": "object", ...}')
    if level > _MOST_LEVELS:
        raise InvalidArgument(path, f"is nested deeper than {_MOST_LEVELS} levels")
    for keyword in schema:
        if keyword not in _KEYWORDS:
            raise InvalidArgument(f"{path}.{keyword}", f"is not taken; use {', '.join(_KEYWORDS)}")
    if not isinstance(schema.get("additionalProperties", False), bool):
        raise InvalidArgument(f"{path}.additionalProperties", "is a schema; use true or false")
    for name, each in schema.get("properties", {}).items():
        _check(each, f"{path}.properties.{name}", level + 1)
    if "items" in schema:
        _check(schema["items"], f"{path}.items", level + 1)
    for place, each in enumerate(schema.get("anyOf", [])):
        _check(each, f"{path}.anyOf[{place}]", level + 1)
