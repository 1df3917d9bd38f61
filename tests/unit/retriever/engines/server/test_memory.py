from qdrant_client import grpc as api

from services.retriever.engines.server.memory import Memory
from services.retriever.engines.server.values import set_values


def described(*, whole, **layout):
    info = api.CollectionInfo(points_count=5)
    set_values(info.config.metadata, {"layout": layout})
    modifier = "Idf" if whole else "None"
    info.config.params.sparse_vectors_config.map["lexical"].modifier = api.Modifier.Value(modifier)
    return info


def test_of_a_version_that_was_never_described_nothing_is_known():
    memory = Memory()
    assert "docs-v1" not in memory
    assert memory["docs-v1"] == (None, None)


def test_a_version_is_remembered_as_it_was_described_last():
    memory = Memory()
    memory.learn("docs-v1", described(whole=True, read_consistency=2))
    assert memory["docs-v1"] == (api.ReadConsistency(factor=2), None)
    memory.learn("docs-v1", described(whole=False))
    consistency, table = memory["docs-v1"]
    assert consistency is None
    memory.learn("docs-v1", described(whole=False))
    assert memory["docs-v1"].table is table is not None
    memory.forget("docs-v1")
    assert "docs-v1" not in memory
