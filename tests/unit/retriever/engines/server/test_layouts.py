import pytest
from qdrant_client import grpc as api

from services.retriever.engines.server.layouts import (
    counts_whole,
    is_indexed,
    to_change,
    to_completion,
    to_creation,
    to_index,
)
from services.retriever.fields import FieldType
from services.retriever.layout import Layout, Quantization
from services.retriever.store import PLAIN

NONE = api.Modifier.Value("None")


def modifier(request):
    return request.sparse_vectors_config.map["lexical"].modifier


def test_a_plain_version_leaves_the_number_of_shards_to_qdrant_and_has_no_limits():
    request = to_creation("docs-v1", 3, PLAIN, {"model": "m", "dimension": 3})
    dense = request.vectors_config.params_map.map["dense"]
    assert (dense.size, dense.distance, dense.on_disk) == (3, api.Dot, False)
    assert not request.HasField("shard_number")
    assert not dense.HasField("quantization_config")
    assert not request.HasField("strict_mode_config")
    assert (modifier(request), request.on_disk_payload) == (api.Idf, True)
    assert request.metadata["dimension"].integer_value == 3


def test_a_layout_is_written_whole():
    layout = Layout(
        shards=3, replicas=2, write_consistency=2, vectors_on_disk=True, payload_on_disk=False, hnsw_m=32,
        hnsw_ef_construct=200, quantization=Quantization.TURBO, read_rate=100, most_passages=1000,
    )  # fmt: skip
    request = to_creation("docs-v1", 3, layout, {})
    assert (request.shard_number, request.replication_factor, request.write_consistency_factor) == (3, 2, 2)
    dense = request.vectors_config.params_map.map["dense"]
    assert dense.on_disk
    assert request.sparse_vectors_config.map["lexical"].index.on_disk
    assert (request.on_disk_payload, request.hnsw_config.m, request.hnsw_config.ef_construct) == (False, 32, 200)
    assert dense.quantization_config.turboquant == api.TurboQuantization(always_ram=True, bits=api.Bits4)
    limits = request.strict_mode_config
    assert (limits.read_rate_limit, limits.max_points_count, limits.HasField("write_rate_limit")) == (100, 1000, False)
    # Conditions of writes ask for revisions, which have no index.
    assert limits.unindexed_filtering_update


def test_token_vectors_have_neither_a_graph_nor_a_copy_and_stay_on_disk():
    request = to_creation("docs-v1", 3, Layout(quantization=Quantization.INT8), {}, 129)
    assert request.vectors_config.params_map.map["late"] == api.VectorParams(
        size=129,
        distance=api.Dot,
        on_disk=True,
        datatype=api.Uint8,
        multivector_config=api.MultiVectorConfig(comparator=api.MaxSim),
        hnsw_config=api.HnswConfigDiff(m=0),
    )
    # It would apply to all vectors.
    assert not request.HasField("quantization_config")


@pytest.mark.parametrize(("shards", "expected"), [(0, api.Idf), (1, api.Idf), (3, NONE)])
def test_qdrant_counts_terms_only_where_its_shard_is_the_whole_version(shards, expected):
    assert modifier(to_creation("docs-v1", 3, Layout(shards=shards), {})) == expected


def test_what_creating_leaves_out_is_set_afterwards():
    assert to_completion("docs-v1", PLAIN, 1) is None
    assert modifier(to_completion("docs-v1", PLAIN, 3)) == NONE
    fanned = to_completion("docs-v1", Layout(read_fanout=1), 1)
    assert fanned.params.read_fan_out_factor == 1
    assert not fanned.HasField("sparse_vectors_config")


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [
        (Quantization.NONE, "disabled"),
        (Quantization.INT8, "scalar"),
        (Quantization.BINARY, "binary"),
        (Quantization.TURBO, "turboquant"),
    ],
)
def test_a_change_sets_everything_that_can_be_changed(quantization, kind):
    layout = Layout(quantization=quantization, replicas=2, read_fanout=1, hnsw_m=8, vectors_on_disk=True)
    request = to_change("docs-v1", layout, 3)
    dense = request.vectors_config.params_map.map["dense"]
    assert dense.quantization_config.WhichOneof("quantization") == kind
    # What earlier releases set applies to all vectors.
    assert request.quantization_config.WhichOneof("quantization") == "disabled"
    assert (request.params.replication_factor, request.params.read_fan_out_factor) == (2, 1)
    assert (request.hnsw_config.m, modifier(request), request.strict_mode_config.enabled) == (8, NONE, False)
    assert dense.on_disk


def test_the_field_of_tenants_has_an_index_of_its_own_kind():
    index = to_index("docs-v1", "metadata.owner", FieldType.KEYWORD, tenant=True)
    assert index.field_index_params.keyword_index_params.is_tenant
    known = {"metadata.owner": api.PayloadSchemaInfo(data_type=api.Keyword, params=index.field_index_params)}
    assert is_indexed(known, "metadata.owner", FieldType.KEYWORD, tenant=True)
    assert is_indexed(known, "metadata.owner", FieldType.KEYWORD, tenant=False) is False
    assert is_indexed(known, "metadata.owner", FieldType.INTEGER, tenant=False) is False
    assert is_indexed(known, "metadata.other", FieldType.KEYWORD, tenant=False) is None


def test_who_counts_terms_is_read_from_the_version():
    info = api.CollectionInfo()
    info.config.params.sparse_vectors_config.map["lexical"].modifier = api.Idf
    assert counts_whole(info)
    info.config.params.sparse_vectors_config.map["lexical"].modifier = NONE
    assert not counts_whole(info)
