"""Layout of a version: how an engine keeps and searches its passages."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from services.chassis.errors import InvalidArgument
from sluice.type.v1 import layout_pb2 as pb

BOUNDS: Mapping[str, tuple[float, float]] = {
    "shards": (0, 1024),
    "replicas": (1, 32),
    "write_consistency": (1, 32),
    "read_consistency": (0, 32),
    "read_fanout": (0, 32),
    "hnsw_m": (4, 128),
    "hnsw_ef_construct": (4, 2000),
    "hnsw_ef": (0, 5000),
    "oversampling": (1, 100),
    "read_rate": (0, 2**31 - 1),
    "write_rate": (0, 2**31 - 1),
    "most_passages": (0, 2**63 - 1),
}
"""Least and most of each number."""

_FIELD = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Quantization(enum.StrEnum):
    """Form of the copy of the vectors that a search compares first."""

    NONE = "none"
    INT8 = "int8"
    """A byte a value."""
    BINARY = "binary"
    """A bit a value; for models of many dimensions."""
    TURBO = "turbo"
    """Four bits a value, after a rotation; where the engine has it."""

    @classmethod
    def from_proto(cls, number: int) -> Quantization:
        """Read a form. Raises InvalidArgument for one that this release does not know."""
        known = {int(pb.Quantization.Value(f"QUANTIZATION_{one.name}")): one for one in cls}
        if number not in known:
            raise InvalidArgument("layout.quantization", f"is {number}; send one of {', '.join(cls)}")
        return known[number]


@dataclass(frozen=True, slots=True)
class Layout:
    """Way of keeping and searching a version. The defaults are right for up to some million passages on one node."""

    shards: int = 0
    """Parts that a cluster spreads over its nodes; 0 leaves it to the engine."""
    replicas: int = 1
    """Nodes that hold each part."""
    write_consistency: int = 1
    """Replicas that have a write before it is acknowledged."""
    read_consistency: int = 0
    """Replicas that agree on what is read; 0 takes the word of any."""
    read_fanout: int = 0
    """Further replicas that are asked at the same time for every read; the first answer counts."""
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

    @classmethod
    def from_proto(cls, message: pb.Layout, base: Layout) -> Layout:
        """Read a layout, in which what is unset is as in `base`; InvalidArgument for a field that is out of bounds."""
        given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
        if "quantization" in given:
            given["quantization"] = Quantization.from_proto(message.quantization)
        for name, (least, most) in BOUNDS.items():
            if name in given and not least <= given[name] <= most:
                raise InvalidArgument(f"layout.{name}", f"is {given[name]}; send {least} to {most}")
        found = replace(base, **given)
        if found.tenant and not _FIELD.fullmatch(found.tenant):
            raise InvalidArgument("layout.tenant", 'is not the name of a field: 1 to 64 letters, digits, "_" or "-"')
        if found.tenant_required and not found.tenant:
            raise InvalidArgument("layout.tenant_required", "needs a field that tells tenants apart; send `tenant`")
        for name in ("write_consistency", "read_consistency"):
            if getattr(found, name) > found.replicas:
                raise InvalidArgument(f"layout.{name}", f"is more than the {found.replicas} replicas that there are")
        return found

    def to_proto(self) -> pb.Layout:
        """Write the layout."""
        return pb.Layout(**{**asdict(self), "quantization": f"QUANTIZATION_{self.quantization.name}"})
