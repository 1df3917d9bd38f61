"""Schemas of callers, and of what a model returns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.chassis.errors import InvalidArgument
from services.reasoner.schemas import MAX_SCHEMA_BYTES, conforms, read_schema, reply_schema

PORTS = {
    "type": "object",
    "title": "Ports",
    "properties": {
        "pattern": {"type": "string", "maxLength": 20},
        "ports": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}, "maxItems": 3},
        "kind": {"enum": ["tcp", "udp", None]},
        "either": {"anyOf": [{"type": "string"}, {"const": 7}]},
    },
    "required": ["ports"],
    "additionalProperties": False,
}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"type": "array", "items": schema}
    return schema


def test_a_schema_of_the_taken_keywords_is_read_and_checked_against() -> None:
    schema = read_schema(json.dumps(PORTS), "answer_schema")
    assert conforms({"ports": [80, 443], "kind": None, "either": 7}, schema)
    for wrong in (
        {},
        {"ports": [0]},
        {"ports": [1, 2, 3, 4]},
        {"ports": [], "more": 1},
        {"ports": [], "kind": "x"},
        [],
    ):
        assert not conforms(wrong, schema)


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ("[", "schema"),
        ("[]", "schema"),
        ('"type"', "schema"),
        ("[" * 5000, "schema"),
        ('{"type": "thing"}', "schema"),
        ('{"type": "object", "properties": []}', "schema"),
        ('{"minLength": -1}', "schema"),
        ('{"type": "string", "pattern": "(a+)+$"}', "schema.pattern"),
        ('{"properties": {"a": {"items": {"$ref": "#"}}}}', "schema.properties.a.items.$ref"),
        ('{"anyOf": [{"type": "string"}, {"not": {}}]}', "schema.anyOf[1].not"),
        ('{"additionalProperties": {"type": "string"}}', "schema.additionalProperties"),
        ('{"items": true}', "schema.items"),
        (json.dumps(nested(17)), "schema" + ".items" * 16),
        (json.dumps({"title": "x" * MAX_SCHEMA_BYTES}), "schema"),
    ],
)
def test_what_is_none_or_not_taken_is_named(schema: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_schema(schema, "schema")
    assert refused.value.field == field


def test_sixteen_levels_are_taken() -> None:
    assert read_schema(json.dumps(nested(16)), "schema")


def test_a_reply_has_its_quotes_first_and_nothing_more_than_was_asked() -> None:
    schema = reply_schema(None, passages=2, quotes=1, quote_characters=10, answer_characters=20, sub_questions=0)
    reply = {"citations": [{"passage": 2, "quote": "ten"}], "answer": "x", "in_sources": True, "confidence": 50}
    assert list(schema["properties"]) == ["citations", "answer", "in_sources", "confidence"]
    assert conforms(reply, schema)
    for change in (
        {"citations": [{"passage": 3, "quote": "ten"}]},
        {"citations": [{"passage": 1, "quote": ""}]},
        {"citations": [{"passage": 1, "quote": "eleven signs"}]},
        {"citations": [{"passage": 1, "quote": "a"}, {"passage": 2, "quote": "b"}]},
        {"answer": "x" * 21},
        {"confidence": 101},
        {"confidence": 0.5},
        {"in_sources": "yes"},
        {"sub_questions": []},
    ):
        assert not conforms({**reply, **change}, schema)
