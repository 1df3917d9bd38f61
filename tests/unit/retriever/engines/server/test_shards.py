import grpc
import pytest
from qdrant_client import grpc as api

from services.retriever.engines.server.shards import may_be_missing, shard_down

ACTIVE, DEAD = api.Active, api.Dead


def failed(details="", code=grpc.StatusCode.INTERNAL):
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details)


def node(peer, local, remote, states=None):
    """Answer of a node: its own shards, and those of others as pairs of shard and peer; all active by default."""
    states = states or {}
    return api.CollectionClusterInfoResponse(
        peer_id=peer,
        local_shards=[api.LocalShardInfo(shard_id=one, state=states.get((one, peer), ACTIVE)) for one in local],
        remote_shards=[
            api.RemoteShardInfo(shard_id=one, peer_id=other, state=states.get((one, other), ACTIVE))
            for one, other in remote
        ],
    )


def test_the_shards_of_a_node_that_does_not_answer_are_named():
    answers = [node(1, [0], [(1, 2), (2, 3)]), None, node(3, [2], [(0, 1), (1, 2)])]
    error = shard_down("docs-v1", failed(), answers)
    assert "1 of the 3 shards of 'docs-v1'" in error.message
    assert ": 1, kept by the nodes 2." in error.message
    assert (error.reason, error.metadata["version"]) == ("SHARD_DOWN", "docs-v1")
    assert error.metadata["dependency"] != "Qdrant"


def test_a_shard_with_another_replica_is_not_missing():
    answers = [node(1, [0, 1], [(0, 2), (1, 2)]), None]
    assert shard_down("docs-v1", failed("a panic"), answers) is None


def test_a_replica_that_qdrant_calls_dead_serves_nothing():
    answers = [node(1, [0], [(1, 2)], {(1, 2): DEAD}), node(2, [1], [(0, 1)], {(1, 2): DEAD})]
    assert ": 1," in shard_down("docs-v1", failed("a panic"), answers).message


@pytest.mark.parametrize(
    ("details", "found"),
    [("a panic", False), ("1 of 1 read operations failed: Failed to connect to http://10.0.0.2:6335/", True)],
)
def test_behind_one_address_the_words_of_the_error_decide(details, found):
    """Nobody says which of the nodes behind it are away."""
    answers = [node(1, [0], [(1, 2)])]
    assert (shard_down("docs-v1", failed(details), answers) is not None) == found


def test_a_server_alone_misses_nothing():
    assert shard_down("docs-v1", failed("shard: a panic"), [node(1, [0], [])]) is None
    assert shard_down("docs-v1", failed("a panic"), [None]) is None


def test_only_errors_that_say_nothing_are_looked_into():
    assert may_be_missing(failed())
    assert not may_be_missing(failed(code=grpc.StatusCode.INVALID_ARGUMENT))
    assert not may_be_missing(failed(code=grpc.StatusCode.UNAVAILABLE))
