"""Versions of collections: models, rebuilds, checks and snapshots."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sluice.gateway.v1 import collections_pb2 as pb
from sluice.type.v1 import collection_pb2, layout_pb2, model_pb2
from sluice_client.messages import Received, Sent


class FieldType(enum.StrEnum):
    """Type of a metadata field in a collection."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"
    UNKNOWN = "unknown"


class VersionState(enum.StrEnum):
    """Progress of a version."""

    BUILDING = "building"
    """It is being filled, or was left unfinished; no collection can be switched to it."""
    READY = "ready"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ModelInfo(Received, proto=model_pb2.ModelInfo):
    """A model, and its way to compute. Equal fingerprints make comparable vectors."""

    name: str
    fingerprint: str
    dimension: int
    """Number of values in each vector; 0 for a reranker."""
    max_token_count: int
    """The model's window, in tokens."""
    backend: str
    """Software that computes, as in "onnx"."""
    precision: str
    """Arithmetic, as in "fp32"."""
    device: str
    """Place of the computation: "cpu" or "cuda"."""
    pseudo: bool
    """True for pseudo-embeddings, which carry no meaning."""


class Quantization(enum.StrEnum):
    """Form of the vectors that a search compares first."""

    NONE = "none"
    INT8 = "int8"
    BINARY = "binary"
    TURBO = "turbo"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Layout(Sent, proto=layout_pb2.Layout):
    """Way of keeping and searching a version; in requests, what is None stays. The proto has units and bounds."""

    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None
    read_consistency: int | None = None
    read_fanout: int | None = None
    vectors_on_disk: bool | None = None
    payload_on_disk: bool | None = None
    hnsw_m: int | None = None
    hnsw_ef_construct: int | None = None
    hnsw_ef: int | None = None
    quantization: Quantization | None = None
    rescore: bool | None = None
    oversampling: float | None = None
    read_rate: int | None = None
    write_rate: int | None = None
    most_passages: int | None = None
    tenant: str | None = None
    tenant_required: bool | None = None


@dataclass(frozen=True, slots=True)
class CollectionVersion(Received, proto=collection_pb2.CollectionVersion):
    """A version of a collection: passages, and their vectors by one model."""

    collection: str
    version: str
    live: bool
    """True if the collection's name stands for it now."""
    state: VersionState
    model: ModelInfo
    """The model that made the vectors: name, fingerprint, dimension and precision."""
    passage_count: int
    """Documents, and chunks of documents."""
    fields: Mapping[str, FieldType]
    """Metadata fields that can be filtered on."""
    lexical_settings: str
    """Analyzer and parameters of the search by words."""
    source: str
    """Origin of its passages, in words."""
    create_time: datetime
    building_version: str
    """The version that is being built from it; empty where there is none."""
    previous_version: str
    """The version that was live before it; empty where there was none."""
    counted_passages: int = 0
    """Number of passages counted when it was complete, as long as none is deleted since; 0 where it is not known."""
    layout: Layout = Layout()
    token_model: ModelInfo | None = None
    """The model that made the token vectors, with the dimension of a row; None if there are none."""
    enriched: bool = False
    """True if all of its passages have the keys of their relations, which hops need."""


@dataclass(frozen=True, slots=True)
class ListedVersion(Received, proto=pb.ListedVersion):
    """A version in a list of all."""

    version: CollectionVersion
    model_served: bool
    """True if one of the gateway's embedders serves its model."""
    token_model_served: bool = False
    """True if one of them serves its token model; False where it has none."""


class ReindexPhase(enum.StrEnum):
    """A part of the way to another version."""

    COPY = "copy"
    """Passages are copied; vectors are made where the live version has none by the same model."""
    SWEEP = "sweep"
    """Deletions since the copy are repeated."""
    VERIFY = "verify"
    SWITCHED = "switched"
    UNKNOWN = "unknown"


class VersionCheckKind(enum.StrEnum):
    """A check of a version."""

    COUNT = "count"
    """It has as many passages as the live version."""
    SAMPLED_VECTORS = "sampled_vectors"
    """Sampled passages, embedded again, give the stored vectors."""
    SELF_RETRIEVAL = "self_retrieval"
    """Sampled passages find themselves."""
    OVERLAP = "overlap"
    """Its results overlap with the live version's."""
    SAMPLED_TOKENS = "sampled_tokens"
    """Token vectors of sampled passages, made again, are those that are stored."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VersionCheck(Received, proto=pb.VersionCheck):
    """One check, and its finding."""

    kind: VersionCheckKind
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ReindexProgress(Received, proto=pb.ReindexCollectionResponse):
    """Progress of a rebuild."""

    version: str
    """The version that is being built."""
    phase: ReindexPhase
    """The part that was just worked on."""
    done_count: int
    """Passages gone through in this phase."""
    total_count: int
    """Passages to go through in this phase, about."""
    copied_count: int
    """Passages copied in this step."""
    checks: Sequence[VersionCheck]
    """The checks, once they are made. One that has failed is the end: nothing is switched."""
    previous_version: str
    """The version that was live before the switch, once it is done."""


@dataclass(frozen=True, slots=True)
class Verified(Received, proto=pb.VerifyCollectionResponse):
    """Findings of all checks of a version."""

    version: str
    checks: Sequence[VersionCheck]

    @property
    def passed(self) -> bool:
        """True if all checks passed."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class Switched(Received, proto=pb.RollbackCollectionResponse):
    """The live version of a collection, and the one before."""

    live: CollectionVersion
    previous_version: str
    """The version that was live before; it stays."""


class SnapshotPhase(enum.StrEnum):
    """A part of the work on a snapshot."""

    COPY = "copy"
    """Passages are written to the snapshot, and again what others write meanwhile."""
    CHECK = "check"
    """Files are compared with their digests."""
    WRITE = "write"
    """Passages are written to the new version."""
    DONE = "done"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SnapshotProgress(Received, proto=collection_pb2.SnapshotProgress):
    """Progress of taking or restoring a snapshot."""

    phase: SnapshotPhase
    done_count: int
    """Passages gone through in this phase."""
    total_count: int
    """Passages to go through in this phase, about."""


@dataclass(frozen=True, slots=True)
class Snapshot(Received, proto=collection_pb2.Snapshot):
    """A copy of a version as it was at a moment."""

    name: str
    version: str
    create_time: datetime
    size_bytes: int
