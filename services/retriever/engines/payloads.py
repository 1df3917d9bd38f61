"""Payloads of passages, as every engine of Qdrant stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.late.codes import Codes
from services.retriever.documents import NO_RELATIONS, Chunk, Passage, Relations, Vector, check_stored
from services.retriever.fields import Value
from services.retriever.store import Row

KEYS = ("id", "chunk", "revision")

WIDE = 2**53
"""Engines compare ranges in double precision, which tells whole numbers apart only below this.

Larger ones are stored a second time, as two halves that it does tell apart.
"""
_HALF_BITS = 32

UNREVISED = "0"
"""Revision of passages that earlier releases stored without one."""


def to_payload(row: Row) -> dict[str, Any]:
    """Return the payload of a passage."""
    passage = row.passage
    payload: dict[str, Any] = {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "metadata": dict(passage.metadata),
        "revision": row.revision,
    }
    if wide := {name: halves(value) for name, value in passage.metadata.items() if is_wide(value)}:
        payload["wide"] = wide
    if passage.chunk:
        payload["chunk"] = asdict(passage.chunk)
    if passage.relations:
        payload["relations"] = asdict(passage.relations)
    return payload


def to_passage(payload: Mapping[str, Any], vector: Vector | None = None, tokens: Codes | None = None) -> Passage:
    """Return the passage of a payload, as far as it was read; see `check_stored`."""
    chunk = payload.get("chunk")
    passage = Passage(
        payload["id"],
        payload.get("text", ""),
        payload.get("title", ""),
        payload.get("metadata", {}),
        vector,
        Chunk(chunk["number"], chunk["count"], chunk["start"], chunk["end"]) if chunk else None,
        tokens,
        Relations.of(**payload["relations"]) if "relations" in payload else NO_RELATIONS,
    )
    check_stored(passage)
    return passage


def revision_of(payload: Mapping[str, Any]) -> str:
    """Return the revision in a payload."""
    return str(payload.get("revision", UNREVISED))


def payload_key(field: str) -> str:
    """Return the path of a metadata field in a payload."""
    return f"metadata.{field}"


def wide_key(field: str, half: str) -> str:
    """Return the path of a half, "high" or "low", of a field's large numbers."""
    return f"wide.{field}.{half}"


def is_wide(value: Value) -> bool:
    """True for a whole number that double precision may not tell from others."""
    return isinstance(value, int) and abs(value) >= WIDE


def halves(value: Value) -> dict[str, int]:
    """Return the halves of a whole number."""
    assert isinstance(value, int)  # noqa: S101  see `is_wide`
    return {"high": value >> _HALF_BITS, "low": value & (1 << _HALF_BITS) - 1}
