"""The life of an index: versions, rebuilds, checks and snapshots."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


class VersionState(enum.StrEnum):
    """How far a version is."""

    BUILDING = "building"
    """It is being filled, or was left unfinished; nothing can be switched to it."""
    READY = "ready"
    UNKNOWN = "unknown"
    """Sent by a newer gateway than this client knows."""


@dataclass(frozen=True, slots=True)
class CollectionVersion:
    """One version of a collection: the documents, and their vectors by one model."""

    collection: str
    version: str
    live: bool
    """Whether the collection's name stands for it now."""
    state: VersionState
    model: str
    model_fingerprint: str
    model_served: bool
    """Whether one of the gateway's embedders serves the model; always false where the gateway was not asked."""
    dimension: int
    precision: str
    lexical_settings: str
    source: str
    """What it was made from."""
    document_count: int
    created: datetime
    building_version: str
    """The version that is being built from it; empty where there is none."""
    previous_version: str
    """The version that was live before it; empty where there was none."""


class ReindexPhase(enum.StrEnum):
    """A part of the way to another model."""

    COPY = "copy"
    """Documents are embedded and copied."""
    SWEEP = "sweep"
    """What was deleted meanwhile is looked for."""
    VERIFY = "verify"
    SWITCHED = "switched"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VersionCheck:
    """One thing that was checked of a version."""

    name: str
    """COUNT, SAMPLED_VECTORS, SELF_RETRIEVAL or OVERLAP."""
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ReindexProgress:
    """How far a rebuild is."""

    version: str
    """The version that is being built."""
    phase: ReindexPhase
    """What was just done."""
    done: int
    """Documents gone through in this phase."""
    total: int
    """Documents to go through in this phase, about."""
    copied: int
    """Documents embedded and copied in this step."""
    checks: Sequence[VersionCheck]
    """The checks, once they are made. One that has failed is the end: nothing is switched."""
    previous_version: str
    """The version that was live before the switch, once it is done."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the checks of a version found."""

    version: str
    checks: Sequence[VersionCheck]

    @property
    def passed(self) -> bool:
        """Whether all did."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class Switched:
    """What a collection's name stands for, and stood for."""

    live: CollectionVersion
    previous_version: str
    """The version that was live before; it stays."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a version as it was at a moment."""

    name: str
    version: str
    created: datetime
    size_bytes: int
