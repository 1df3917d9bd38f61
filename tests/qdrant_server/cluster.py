"""A cluster as Qdrant 1.18 was seen to behave: what nodes know of collections, who keeps which shard, who is down.

Changes of collections and aliases go through one log. The node that is asked has made a change, and all before it, when
it answers; the others make it in the same order, each some time later. The answer to the creation of a collection or an
alias waits for all nodes that are up; no other does. Points are where their shard is, for every node at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import grpc
from qdrant_client import grpc as api

from tests.qdrant_server.conversions import Id
from tests.qdrant_server.shards import Shard, number_for


class Refusal(Exception):
    """An answer that is a status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def failure(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INTERNAL, f"Service internal error: {message}")


def missing(name: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")


class Points:
    """The shards of a collection, which all nodes share."""

    def __init__(self, params: api.CollectionParams, nodes: int) -> None:
        replicas = min(params.replication_factor, nodes)
        self.shards = [Shard(params) for _ in range(params.shard_number)]
        self.places = [
            {(number + place) % nodes: api.ReplicaState.Active for place in range(replicas)}
            for number in range(params.shard_number)
        ]
        """The nodes that keep each shard, and the state of it there."""
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True
        for shard in self.shards:
            shard.close()

    def weigh(self, params: api.CollectionParams) -> None:
        """Multiply by the IDF, or do not, as the parameters say by now."""
        for shard in self.shards:
            shard.weigh(params)

    def spread(self, ids: Iterable[Id]) -> dict[int, list[Id]]:
        """Return ids by shard."""
        found = defaultdict(list)
        for one in ids:
            found[number_for(one, len(self.shards))].append(one)
        return found


@dataclass(frozen=True)
class Known:
    """State of a collection as a node knows it."""

    name: str
    points: Points
    config: api.CollectionConfig
    indexes: dict[str, api.PayloadSchemaInfo] = field(default_factory=dict)


@dataclass
class View:
    """State of everything as a node knows it."""

    collections: dict[str, Known] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Known:
        """Return the collection of this name, or behind this alias."""
        known = self.collections.get(self.aliases.get(name, name))
        if known is None or known.points.dropped:
            raise missing(name)
        return known

    def named(self, name: str) -> Known:
        """Return the collection of this name."""
        if name not in self.collections:
            raise missing(name)
        return self.collections[name]


Change = Callable[[View], bool]


@dataclass
class Node:
    """A node."""

    number: int
    up: bool = True
    view: View = field(default_factory=View)
    made: int = 0
    """Number of changes of the log that it has made."""

    @property
    def peer_id(self) -> int:
        return 1 + self.number


@dataclass(frozen=True)
class Entry:
    """A change in the log."""

    change: Change
    due: list[float]
    """Moments at which each node makes it."""


class Cluster:
    """Nodes, and what they agree on."""

    def __init__(self, nodes: int, lag: tuple[float, float]) -> None:
        self.nodes = [Node(number) for number in range(nodes)]
        self.lag = lag
        """Seconds, least and most, after which other nodes make a change."""
        self._log: list[Entry] = []
        self._turn = 0

    def next_node(self) -> Node:
        """Return the node that a balancer would choose for the next call."""
        up = [node for node in self.nodes if node.up]
        self._turn += 1
        return up[self._turn % len(up)]

    def view(self, node: Node) -> View:
        """Return what a node knows now."""
        now = time.monotonic()
        while node.made < len(self._log) and self._log[node.made].due[node.number] <= now:
            self._make_next(node)
        return node.view

    async def change(self, node: Node, change: Change, *, everywhere: bool = False) -> bool:
        """Make a change; with `everywhere`, return when all nodes that are up have made it."""
        if 2 * sum(one.up for one in self.nodes) <= len(self.nodes):
            raise failure("Failed to propose operation: leader is not established within 10s")
        now = time.monotonic()
        before = self._log[-1].due if self._log else [0.0] * len(self.nodes)
        due = [max(earlier, now + random.uniform(*self.lag)) for earlier in before]
        self._log.append(Entry(change, due))
        place = len(self._log)
        while node.made < place - 1:
            self._make_next(node)
        node.made = place
        done = change(node.view)
        if everywhere and len(self.nodes) > 1:
            await asyncio.sleep(max(0.0, *(due[one.number] - now for one in self.nodes if one.up and one is not node)))
        return done

    def points(self) -> Iterator[Points]:
        """Yield the points of all collections that any node knows."""
        known = (known for node in self.nodes for known in node.view.collections.values())
        yield from {id(one.points): one.points for one in known}.values()

    def readable(self, known: Known, consistency: api.ReadConsistency | None = None) -> list[Shard]:
        """Return all shards; INTERNAL if one of them has no replica, or too few, on a node that is up."""
        for number in range(len(known.points.shards)):
            self.reachable(known, number, consistency)
        return known.points.shards

    def reachable(self, known: Known, number: int, consistency: api.ReadConsistency | None = None) -> Shard:
        """Return a shard to read from."""
        places = known.points.places[number]
        up = [place for place, state in places.items() if state == api.ReplicaState.Active and self.nodes[place].up]
        if not up:
            raise failure(
                "1 of 1 read operations failed:\n  Service internal error: The replica set for shard "
                f"{number} on peer {1 + next(iter(places))} has no active replica"
            )
        if len(up) < _wanted(consistency, len(places)):
            raise failure(f"Not enough replicas of shard {number} agree: {len(up)} of {len(places)} can be asked")
        return known.points.shards[number]

    def write(self, known: Known, numbers: Iterable[int], write: Callable[[Shard, int], None]) -> None:
        """Write to shards; those that can be reached have it even if others make it fail."""
        failed = []
        for number in numbers:
            places = known.points.places[number]
            up = [place for place in places if self.nodes[place].up]
            if up:
                write(known.points.shards[number], number)
                places.update({place: api.ReplicaState.Dead for place in places if place not in up})
            if len(up) < min(len(places), known.config.params.write_consistency_factor or 1):
                failed.append(number)
        if failed:
            raise failure(
                f"{len(failed)} out of {len(known.points.shards)} shards failed to apply operation. First error "
                f"captured: Failed to apply update to shard {failed[0]}: not enough active replicas"
            )

    def replicate(self, known: Known, copy: api.ReplicateShard) -> None:
        """Copy a shard to another node; it is active there at once."""
        places, source, target = known.points.places[copy.shard_id], copy.from_peer_id - 1, copy.to_peer_id - 1
        if not 0 <= target < len(self.nodes):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: Peer {copy.to_peer_id} does not exist")
        if places.get(source) != api.ReplicaState.Active or target in places:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Wrong input: Shard {copy.shard_id} is not active on {copy.from_peer_id}, or is on {copy.to_peer_id}",
            )
        places[target] = api.ReplicaState.Active

    def take_down(self, number: int) -> None:
        """Let a node die; what it keeps stays."""
        self.nodes[number].up = False

    def bring_up(self, number: int) -> None:
        """Start a node again; its replicas recover what they missed."""
        self.nodes[number].up = True
        for points in self.points():
            for places in points.places:
                if number in places:
                    places[number] = api.ReplicaState.Active

    def _make_next(self, node: Node) -> None:
        change = self._log[node.made].change
        node.made += 1
        with suppress(Refusal):  # as the first node found
            change(node.view)


def changed(known: Known, config: api.CollectionConfig) -> Known:
    return replace(known, config=config)


def _wanted(consistency: api.ReadConsistency | None, replicas: int) -> int:
    """Return the number of replicas that have to agree."""
    if consistency is None or consistency.WhichOneof("value") is None:
        return 1
    if consistency.WhichOneof("value") == "factor":
        return min(consistency.factor, replicas)
    return replicas if consistency.type == api.ReadConsistencyType.All else replicas // 2 + 1
