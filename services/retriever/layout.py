"""Layout of a version: how an engine keeps and searches its passages."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


class Quantization(enum.StrEnum):
    """Form of the copy of the vectors that a search compares first."""

    NONE = "none"
    INT8 = "int8"
    """A byte a value."""
    BINARY = "binary"
    """A bit a value; for models of many dimensions."""
    TURBO = "turbo"
    """Four bits a value, after a rotation; where the engine has it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a version is kept. The defaults are right for up to some million passages on one node."""

    shards: int = 0
    """Parts that a cluster spreads over its nodes; 0 leaves it to the engine."""
    replicas: int = 1
    """Nodes that hold each part."""
    write_consistency: int = 1
    """Replicas that have a write before it is acknowledged."""
    read_consistency: int = 0
    """Replicas that agree on what is read; 0 takes the word of any."""
    vectors_on_disk: bool = False
    """Keep vectors in mapped files that need not fit into memory."""
    payload_on_disk: bool = True
    """The same for texts and metadata."""
    hnsw_m: int = 16
    """Edges of a node of the graph."""
    hnsw_ef_construct: int = 100
    """Candidates that building the graph looks at."""
    hnsw_ef: int = 0
    """Candidates that a search of the graph looks at; 0 leaves it to the engine."""
    quantization: Quantization = Quantization.NONE
    rescore: bool = True
    """Compare the best of a quantized search by the whole vectors."""
    oversampling: float = 2.0
    """Number of those, as a multiple of the limit."""
    read_rate: int = 0
    """Most reads a minute and replica that the engine takes; 0 for no limit."""
    write_rate: int = 0
    """The same for writes."""
    most_passages: int = 0
    """Most passages that the engine takes, about; 0 for no limit."""
    tenant: str = ""
    """Field of keywords by which tenants are told apart; empty where there are none."""
    tenant_required: bool = False
    """Refuse what does not name its tenant in the filter."""

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Self:
        """Read a layout from a version's notes; what they do not say, or this release does not know, is a default."""
        said = notes.get("layout") or {}
        known = {field.name: said[field.name] for field in fields(cls) if field.name in said}
        if "quantization" in known:
            known["quantization"] = Quantization(known["quantization"])
        return cls(**known)

    def to_notes(self) -> dict[str, Any]:
        """Write what is no default."""
        defaults = asdict(Layout())
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    def changed(self, other: Layout) -> set[str]:
        """Return the names of the fields that differ."""
        return {field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)}
