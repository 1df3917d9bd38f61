"""Settings of the retriever."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from services.chassis.settings import OptionalFile, SheddingSettings
from services.retriever.layout import Layout, Quantization
from services.retriever.lexical import LANGUAGES


class RetrieverSettings(SheddingSettings):
    """The retriever's environment. Which collection to search comes with each call."""

    grpc_port: int = Field(50055, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")

    qdrant_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/,]+[^\s,]*(,\s*https?://[^\s/,]+[^\s,]*)*)?$",
        description="Qdrant server, as `http://qdrant:6333`, or the nodes of its cluster, separated by commas; empty "
        "uses Qdrant's embedded engine.",
    )
    qdrant_grpc_port: int = Field(
        6334, ge=0, le=65535, description="gRPC port of the Qdrant server; 0 takes the ports in QDRANT_URL for it."
    )
    qdrant_api_key: SecretStr = Field(SecretStr(""), description="API key of the Qdrant server; use it with https.")
    qdrant_ca_file: OptionalFile = Field(
        None, description="Certificates (PEM) of those who sign Qdrant's; by default those that gRPC brings along."
    )
    qdrant_path: Path = Field(
        Path("data/qdrant"), description="Data folder of the embedded engine, which one process owns at a time."
    )
    qdrant_free_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Room that the embedded engine leaves on its disk: it refuses writes beyond that, since it dies "
        "where the disk is full. Bytes.",
    )
    qdrant_snapshot_path: str = Field(
        "data/snapshots",
        min_length=1,
        description="Folder for snapshots, or a URL of object storage, as `s3://bucket/folder` (with s3fs) or "
        "`gs://bucket/folder` (with gcsfs); the same for all retrievers of a Qdrant server.",
    )
    qdrant_timeout: float = Field(
        10, gt=0, le=600, description="Longest call to Qdrant where the caller's deadline leaves more. Seconds."
    )

    qdrant_pool_size: int = Field(
        3, ge=1, le=256, description="Most calls to the Qdrant server at once, each on a connection of its own."
    )
    qdrant_pool_timeout: float = Field(30.0, gt=0, le=600, description="Longest wait for a free connection. Seconds.")
    qdrant_pool_retry_enabled: bool = Field(True, description="Try calls again that met an outage.")
    qdrant_pool_max_retries: int = Field(3, ge=0, le=10, description="Most retries of a call, beyond its first try.")
    qdrant_pool_retry_delay: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Longest wait before the first retry, doubled for each one after it; the wait is drawn at "
        "random below that, and never outlasts the caller's deadline. Seconds.",
    )

    qdrant_breaker_failures: int = Field(
        5, ge=1, le=1000, description="Failures in a row after which Qdrant is left alone for a while."
    )
    qdrant_breaker_reset_seconds: float = Field(
        60, gt=0, le=3600, description="Time for which Qdrant is left alone, until one call probes it. Seconds."
    )

    qdrant_shards: int = Field(
        0, ge=0, le=1024, description="Shards of new collections in a cluster; 0 leaves it to Qdrant."
    )
    qdrant_replicas: int = Field(1, ge=1, le=32, description="Nodes that hold each shard of new collections.")
    qdrant_write_consistency: int = Field(
        1, ge=1, le=32, description="Replicas of new collections that have a write before it is acknowledged."
    )
    qdrant_read_consistency: int = Field(
        0, ge=0, le=32, description="Replicas of new collections that agree on what is read; 0 takes the word of any."
    )
    qdrant_read_fanout: int = Field(
        0,
        ge=0,
        le=32,
        description="Further replicas of new collections that are asked at the same time for every read; the first "
        "answer counts.",
    )
    qdrant_vectors_on_disk: bool = Field(
        False, description="Keep vectors of new collections in mapped files that need not fit into memory."
    )
    qdrant_payload_on_disk: bool = Field(
        True, description="Keep texts and metadata of new collections in mapped files that need not fit into memory."
    )
    qdrant_hnsw_m: int = Field(16, ge=4, le=128, description="Edges of a node in the graphs of new collections.")
    qdrant_hnsw_ef_construct: int = Field(
        100, ge=4, le=2000, description="Candidates that building the graphs of new collections looks at."
    )
    qdrant_hnsw_ef: int = Field(
        0, ge=0, le=5000, description="Candidates that searches of these graphs look at; 0 leaves it to Qdrant."
    )
    qdrant_quantization: Quantization = Field(
        Quantization.NONE,
        description="Form of the vectors that searches in new collections compare first: `int8` a byte a value, "
        "`binary` a bit, `turbo` four bits.",
    )
    qdrant_rescore: bool = Field(True, description="Compare the best of a quantized search by the whole vectors.")
    qdrant_oversampling: float = Field(
        2.0, ge=1, le=100, description="Number of those, as a multiple of what is searched for."
    )

    lexical_k1: float = Field(
        1.2, ge=0, le=10, description="BM25's k1 of new collections: the lower, the sooner repeats stop counting."
    )
    lexical_b: float = Field(
        0.6, ge=0, le=1, description="BM25's b of new collections: the higher, the less long passages count."
    )
    lexical_average_length: float = Field(
        128, gt=0, le=1_000_000, description="Typical length of a passage in new collections, in terms."
    )
    lexical_title_weight: float = Field(
        2, gt=0, le=100, description="Number of times that a word of the title counts in new collections."
    )
    lexical_language: str = Field(
        "english",
        pattern=f"^({'|'.join(LANGUAGES)})$",
        description="Language of new collections whose maker names none, for stems and stop words; `none` takes words "
        "as written. Words in other scripts have the stems of their script.",
    )
    relations: bool = Field(
        True, description="Give passages of new collections the keys of their relations, which hops need."
    )
    fusion_depth: int = Field(
        100,
        ge=1,
        le=1000,
        description="Candidates of each search that make the first places; deeper ones take twice as many.",
    )

    def layout(self) -> Layout:
        """Return the layout of new collections."""
        return Layout(
            shards=self.qdrant_shards,
            replicas=self.qdrant_replicas,
            write_consistency=self.qdrant_write_consistency,
            read_consistency=self.qdrant_read_consistency,
            read_fanout=self.qdrant_read_fanout,
            vectors_on_disk=self.qdrant_vectors_on_disk,
            payload_on_disk=self.qdrant_payload_on_disk,
            hnsw_m=self.qdrant_hnsw_m,
            hnsw_ef_construct=self.qdrant_hnsw_ef_construct,
            hnsw_ef=self.qdrant_hnsw_ef,
            quantization=self.qdrant_quantization,
            rescore=self.qdrant_rescore,
            oversampling=self.qdrant_oversampling,
        )
