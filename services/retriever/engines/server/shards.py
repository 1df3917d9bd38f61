"""Finding out which parts of a collection no node holds, where Qdrant says no more than that it failed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import grpc
from qdrant_client import grpc as api

from services.chassis.errors import Unavailable
from services.retriever.engines.server.errors import SHARD_DOWN

# Not Qdrant itself: its breaker is for what no node answers, and this is about one collection.
_DEPENDENCY = "a shard in Qdrant"
_OF_A_REPLICA = re.compile(r"replica|shard|peer|transport|connect|consensus", re.IGNORECASE)
_RETRY_SECONDS = 5.0


def may_be_missing(error: grpc.aio.AioRpcError) -> bool:
    """True for an error with which a node of Qdrant says that another one does not answer."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return "shard" in (error.details() or "").lower()
    return error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def shard_down(
    version: str, error: grpc.aio.AioRpcError, answers: Sequence[api.CollectionClusterInfoResponse | None]
) -> Unavailable | None:
    """Return the error that names the missing shards of a version; None if none is missing, as far as can be told.

    `answers` is what each node says about the version, None where it does not answer.
    """
    seen = [answer for answer in answers if answer is not None]
    replicas = replicas_of(seen)
    reached = {answer.peer_id for answer in seen}
    missing, doubted = set(), False
    for shard, states in replicas.items():
        if not any(peer in reached and state == api.Active for peer, state in states.items()):
            missing.add(shard)
            doubted |= all(state == api.Active for state in states.values()) and None not in answers
    if not missing or (doubted and not _OF_A_REPLICA.search(error.details() or "")):
        return None
    peers = sorted({str(peer) for shard in missing for peer in replicas[shard]})
    return Unavailable(
        f"{len(missing)} of the {len(replicas)} shards of {version!r} have no node that answers: "
        f"{_listed(map(str, sorted(missing)))}, kept by the nodes {_listed(peers)}. Start these nodes again; with 2 "
        "replicas (`sluice tune --replicas`, QDRANT_REPLICAS) the loss of one costs nothing",
        reason=SHARD_DOWN,
        retry_after=_RETRY_SECONDS,
        dependency=_DEPENDENCY,
        version=version,
    )


def replicas_of(answers: Iterable[api.CollectionClusterInfoResponse]) -> dict[int, dict[int, int]]:
    """Return the state of each replica of each shard, by node."""
    found: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for answer in answers:
        for there in answer.remote_shards:
            found[there.shard_id].setdefault(there.peer_id, there.state)
    for answer in answers:  # a node knows best about itself
        for here in answer.local_shards:
            found[here.shard_id][answer.peer_id] = here.state
    return found


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
