"""Layouts of versions in Qdrant's messages: created, changed, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import grpc as api

from services.retriever.engines.server.points import DENSE, LATE, LEXICAL
from services.retriever.engines.server.values import set_values
from services.retriever.fields import FieldType
from services.retriever.layout import Layout, Quantization
from services.retriever.store import Notes

_INDEXES = {
    FieldType.KEYWORD: (api.FieldTypeKeyword, api.Keyword),
    FieldType.INTEGER: (api.FieldTypeInteger, api.Integer),
    FieldType.FLOAT: (api.FieldTypeFloat, api.Float),
    FieldType.BOOL: (api.FieldTypeBool, api.Bool),
}
_TENANT = api.PayloadIndexParams(keyword_index_params=api.KeywordIndexParams(is_tenant=True))


def to_creation(
    version: str, dimension: int, layout: Layout, notes: Notes, token_dimension: int = 0
) -> api.CreateCollection:
    """Return the request that creates a version."""
    vectors = {
        DENSE: api.VectorParams(
            size=dimension,
            # Of unit vectors, the dot product is the cosine.
            distance=api.Dot,
            on_disk=layout.vectors_on_disk,
            quantization_config=_quantization(layout.quantization),
        )
    }
    if token_dimension:
        vectors[LATE] = _token_vectors(token_dimension)
    request = api.CreateCollection(
        collection_name=version,
        vectors_config=api.VectorsConfig(params_map=api.VectorParamsMap(map=vectors)),
        sparse_vectors_config=_sparse(layout, whole=layout.shards <= 1),
        hnsw_config=_graph(layout),
        on_disk_payload=layout.payload_on_disk,
        shard_number=layout.shards or None,
        replication_factor=layout.replicas,
        write_consistency_factor=layout.write_consistency,
        strict_mode_config=_limits(layout),
    )
    set_values(request.metadata, notes)
    return request


def to_change(version: str, layout: Layout, shards: int) -> api.UpdateCollection:
    """Return the request that gives a version of so many shards another layout."""
    quantization = _quantization(layout.quantization)
    change = api.QuantizationConfigDiff(disabled=None if quantization else api.Disabled())
    if quantization is not None:
        kind = quantization.WhichOneof("quantization")
        assert kind is not None  # noqa: S101  see `_quantization`
        getattr(change, kind).CopyFrom(getattr(quantization, kind))
    dense = api.VectorParamsDiff(on_disk=layout.vectors_on_disk, quantization_config=change)
    return api.UpdateCollection(
        collection_name=version,
        params=api.CollectionParamsDiff(
            replication_factor=layout.replicas,
            write_consistency_factor=layout.write_consistency,
            on_disk_payload=layout.payload_on_disk,
            read_fan_out_factor=layout.read_fanout,
        ),
        hnsw_config=_graph(layout),
        vectors_config=api.VectorsConfigDiff(params_map=api.VectorParamsDiffMap(map={DENSE: dense})),
        # Earlier releases quantized all vectors there are, which with token vectors would be too many.
        quantization_config=api.QuantizationConfigDiff(disabled=api.Disabled()),
        sparse_vectors_config=_sparse(layout, whole=shards <= 1),
        strict_mode_config=_limits(layout) or api.StrictModeConfig(enabled=False),
    )


def to_completion(version: str, layout: Layout, shards: int) -> api.UpdateCollection | None:
    """Return the request for what creating a version leaves out; None if that is nothing."""
    spread = layout.shards == 0 and shards > 1
    if not (spread or layout.read_fanout):
        return None
    return api.UpdateCollection(
        collection_name=version,
        params=api.CollectionParamsDiff(read_fan_out_factor=layout.read_fanout) if layout.read_fanout else None,
        sparse_vectors_config=_sparse(layout, whole=False) if spread else None,
    )


def counts_whole(info: api.CollectionInfo) -> bool:
    """True if Qdrant multiplies by the terms' IDF itself, as it does where a version is one shard.

    It counts within each shard. In a version of several ones `frequencies` counts.
    """
    return info.config.params.sparse_vectors_config.map[LEXICAL].modifier == api.Idf


def to_index(version: str, key: str, kind: FieldType, *, tenant: bool) -> api.CreateFieldIndexCollection:
    """Return the request that makes a payload index."""
    return api.CreateFieldIndexCollection(
        collection_name=version,
        field_name=key,
        field_type=_INDEXES[kind][0],
        field_index_params=_TENANT if tenant else None,
        wait=True,
    )


def is_indexed(known: Mapping[str, api.PayloadSchemaInfo], key: str, kind: FieldType, *, tenant: bool) -> bool | None:
    """True if the payload index that is there is right, False if it is another one, None if there is none."""
    if key not in known:
        return None
    is_tenant = known[key].params.keyword_index_params.is_tenant
    return known[key].data_type == _INDEXES[kind][1] and is_tenant == tenant


def _graph(layout: Layout) -> api.HnswConfigDiff:
    return api.HnswConfigDiff(m=layout.hnsw_m, ef_construct=layout.hnsw_ef_construct)


def _token_vectors(dimension: int) -> api.VectorParams:
    """Return the parameters of vectors that are read of a few passages a search: no graph, and on the disk."""
    return api.VectorParams(
        size=dimension,
        distance=api.Dot,
        on_disk=True,
        datatype=api.Uint8,
        multivector_config=api.MultiVectorConfig(comparator=api.MaxSim),
        hnsw_config=api.HnswConfigDiff(m=0),
    )


def _sparse(layout: Layout, *, whole: bool) -> api.SparseVectorConfig:
    index = api.SparseIndexConfig(on_disk=layout.vectors_on_disk)
    # "None" is a word of Python.
    modifier = api.Idf if whole else api.Modifier.Value("None")
    return api.SparseVectorConfig(map={LEXICAL: api.SparseVectorParams(index=index, modifier=modifier)})


def _quantization(kind: Quantization) -> api.QuantizationConfig | None:
    """Return the quantized copy of the vectors, which stays in memory: every search begins there."""
    match kind:
        case Quantization.INT8:
            return api.QuantizationConfig(scalar=api.ScalarQuantization(type=api.Int8, quantile=0.99, always_ram=True))
        case Quantization.BINARY:
            return api.QuantizationConfig(binary=api.BinaryQuantization(always_ram=True))
        case Quantization.TURBO:
            return api.QuantizationConfig(turboquant=api.TurboQuantization(always_ram=True, bits=api.Bits4))
    return None


def _limits(layout: Layout) -> api.StrictModeConfig | None:
    """Return the limits of Qdrant's strict mode; None where there are none."""
    limits: dict[str, Any] = {
        "read_rate_limit": layout.read_rate,
        "write_rate_limit": layout.write_rate,
        "max_points_count": layout.most_passages,
    }
    if not any(limits.values()):
        return None
    return api.StrictModeConfig(
        enabled=True,
        # Updates ask for revisions, which have no index.
        unindexed_filtering_retrieve=True,
        unindexed_filtering_update=True,
        **{name: limit or None for name, limit in limits.items()},
    )
