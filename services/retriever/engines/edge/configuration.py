"""Layouts in Qdrant Edge's words."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from services.retriever.engines.edge.points import DENSE, LATE, LEXICAL
from services.retriever.layout import Layout, Quantization

GRAPH_LEAST_KB = 10_000
"""Kilobytes of matching vectors up to which a filtered search compares them all, though there is a graph."""

_UNLIMITED_KB = 2**40


def to_config(dimension: int, layout: Layout, token_dimension: int = 0, *, threads: int = 1) -> edge.EdgeConfig:
    """Return the configuration of a shard; what it says of graph and quantization applies when they are built."""
    vectors = {
        # Of unit vectors, the dot product is the cosine.
        DENSE: edge.EdgeVectorParams(
            dimension,
            edge.Distance.Dot,
            quantization_config=_quantization(layout.quantization),
            memory=edge.Memory.Cold if layout.vectors_on_disk else edge.Memory.Cached,
        )
    }
    if token_dimension:
        vectors[LATE] = _token_vectors(token_dimension)
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors={LEXICAL: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=edge.Memory.Cached)},
        hnsw_config=edge.HnswIndexConfig(
            layout.hnsw_m,
            layout.hnsw_ef_construct,
            GRAPH_LEAST_KB,
            max_indexing_threads=threads,
            memory=edge.Memory.Cached,
        ),
        # One segment: each costs a search.
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=1, max_segment_size=_UNLIMITED_KB, indexing_threshold=1
        ),
        payload_memory=edge.Memory.Cold if layout.payload_on_disk else edge.Memory.Cached,
        id_tracker_memory=edge.Memory.Cached,
        max_search_threads=1,
    )


def to_index(kind: str, *, tenant: bool = False) -> Any:
    """Return an index of the kind that Edge calls so."""
    return edge.KeywordIndexParams(is_tenant=True) if tenant else getattr(edge.PayloadSchemaType, kind)


def _token_vectors(dimension: int) -> edge.EdgeVectorParams:
    """Return the parameters of vectors that are read of a few passages a search: no graph, and on the disk."""
    return edge.EdgeVectorParams(
        dimension,
        edge.Distance.Dot,
        multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
        datatype=edge.VectorStorageDatatype.Uint8,
        hnsw_config=edge.HnswIndexConfig(0, 4, GRAPH_LEAST_KB),
        memory=edge.Memory.Cold,
    )


def _quantization(
    kind: Quantization,
) -> edge.ScalarQuantizationConfig | edge.BinaryQuantizationConfig | edge.TurboQuantQuantizationConfig | None:
    match kind:
        case Quantization.INT8:
            return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned)
        case Quantization.BINARY:
            return edge.BinaryQuantizationConfig(memory=edge.Memory.Pinned)
        case Quantization.TURBO:
            return edge.TurboQuantQuantizationConfig(memory=edge.Memory.Pinned)
        case Quantization.NONE:
            return None


def indexes_of(shard: edge.EdgeShard) -> dict[str, tuple[str, bool]]:
    """Return the kind of each index by its path, and True where tenants are told apart by it."""
    return {
        key: (str(info.data_type).rpartition(".")[2], bool(getattr(info.params, "is_tenant", False)))
        for key, info in shard.info().payload_schema.items()
    }
