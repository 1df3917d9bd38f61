"""Further replicas of shards: Qdrant does not make them by itself when their wanted number is raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qdrant_client import grpc as api

from services.chassis.errors import FailedPrecondition
from services.retriever.engines.server.shards import replicas_of


def to_replications(
    version: str, answers: Sequence[api.CollectionClusterInfoResponse | None], wanted: int
) -> list[api.UpdateCollectionClusterSetupRequest]:
    """Return the requests after which each shard has so many replicas, on the nodes that hold the fewest.

    `answers` is what each node says about the version, None where it does not answer. Raises FailedPrecondition
    (LAYOUT_FIXED) if there are fewer nodes, or a shard lacks more than one: a node sends a shard to one node at a time.
    """
    seen = [answer for answer in answers if answer is not None]
    held = replicas_of(seen)
    load = Counter(peer for states in held.values() for peer in states)
    peers = {answer.peer_id for answer in seen} | load.keys()
    if len(peers) < wanted:
        raise _fixed(
            f"{wanted} replicas need as many nodes, and {len(peers)} of Qdrant are known for {version!r}; add nodes, "
            "or list all that there are in QDRANT_URL"
        )
    most = max((wanted - len(states) for states in held.values()), default=0)
    if most > 1:
        raise _fixed(
            f"shards of {version!r} lack {most} replicas; raise `replicas` by 1, and again when Qdrant has made them"
        )
    requests = []
    for shard, states in held.items():
        active = [peer for peer, state in states.items() if state == api.Active]
        if len(states) < wanted and active:
            target = min(peers - states.keys(), key=lambda peer: (load[peer], peer))
            load[target] += 1
            copy = api.ReplicateShard(shard_id=shard, from_peer_id=min(active), to_peer_id=target)
            requests.append(api.UpdateCollectionClusterSetupRequest(collection_name=version, replicate_shard=copy))
    return requests


def _fixed(problem: str) -> FailedPrecondition:
    return FailedPrecondition(problem, reason="LAYOUT_FIXED", field="replicas")
