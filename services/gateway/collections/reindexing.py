"""Reindexing: build, check and switch to a version by another model, or with or without token vectors.

The live version serves in the meantime.

All state of a rebuild is in the index itself, so it may be killed at any point: when it is begun again, it compares
both versions and does the rest.
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from services.chassis.errors import InvalidArgument
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.following import Following
from services.gateway.collections.store import Store
from services.gateway.collections.verification import Check, Verification
from sluice.gateway.v1 import collections_pb2


class Phase(enum.Enum):
    """A phase of a rebuild."""

    COPY = collections_pb2.REINDEX_PHASE_COPY
    SWEEP = collections_pb2.REINDEX_PHASE_SWEEP
    VERIFY = collections_pb2.REINDEX_PHASE_VERIFY
    SWITCHED = collections_pb2.REINDEX_PHASE_SWITCHED


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a rebuild."""

    version: str
    phase: Phase
    """The phase of the part that was just done."""
    done: int
    """Passages gone through in this phase."""
    total: int
    copied: int = 0
    next_cursor: str = ""
    """Asks for the next part; empty at the end."""
    checks: Sequence[Check] = ()
    previous: str = ""

    def to_proto(self) -> collections_pb2.ReindexCollectionResponse:
        """Write the response."""
        return collections_pb2.ReindexCollectionResponse(
            version=self.version,
            phase=self.phase.value,
            done_count=self.done,
            total_count=self.total,
            copied_count=self.copied,
            next_cursor=self.next_cursor,
            checks=[check.to_proto() for check in self.checks],
            previous_version=self.previous,
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """The content of a cursor: the next part of a rebuild."""

    collection: str
    version: str
    phase: str = Phase.COPY.name
    cursor: str = ""
    """The retriever's own cursor within the phase."""
    done: int = 0
    total: int = 0

    def encoded(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def decoded(cls, cursor: str, collection: str) -> _Place:
        try:
            place = cls(**json.loads(base64.urlsafe_b64decode(cursor)))
            Phase[place.phase]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InvalidArgument("cursor", "is not one that an answer gave; begin with an empty one") from None
        if place.collection != collection:
            raise InvalidArgument("cursor", "is of another collection; begin with an empty one")
        return place


class Reindexing:
    """Rebuilds collections part by part."""

    def __init__(self, store: Store, embedders: Embedders, following: Following, verification: Verification) -> None:
        self._store = store
        self._embedders = embedders
        self._following = following
        self._verification = verification

    async def advance(
        self, collection: str, model: str, cursor: str, *, token_vectors: bool | None = None, deadline: float
    ) -> Progress:
        """Do the next part by a deadline on the monotonic clock.

        An empty model keeps the live version's; `token_vectors` None keeps token vectors if it has such.

        Raises FailedPrecondition where no embedder serves the models, while a version for others is being built, and
        when another call has ended the building (NOT_BUILDING). None of these touches the live version.
        """
        if not cursor:
            return await self._begin(collection, model, token_vectors, deadline)
        place = _Place.decoded(cursor, collection)
        match Phase[place.phase]:
            case Phase.COPY:
                return await self._go_through(place, Phase.SWEEP, deadline)
            case Phase.SWEEP:
                return await self._go_through(place, Phase.VERIFY, deadline)
            case Phase.VERIFY:
                return await self._verify(place, deadline)
            case Phase.SWITCHED:
                switched = await self._store.switch(collection, place.version, deadline=deadline)
                self._embedders.forget(collection)
                return Progress(place.version, Phase.SWITCHED, place.total, place.total, previous=switched.previous)

    async def _begin(self, collection: str, model: str, token_vectors: bool | None, deadline: float) -> Progress:
        live = await self._store.collection(collection, deadline=deadline)
        wanted = await self._embedders.model_named(model, deadline=deadline) if model else live.model
        token_model = None
        if live.HasField("token_model") if token_vectors is None else token_vectors:
            token_model = await self._embedders.token_model_like(live.token_model.fingerprint, deadline=deadline)
        begun = await self._store.create_version(collection, wanted, token_model=token_model, deadline=deadline)
        version, total = begun.version.version, begun.live.passage_count
        if version == begun.live.version:  # an earlier run has switched to it
            return Progress(version, Phase.SWITCHED, total, total)
        return Progress(version, Phase.COPY, 0, total, next_cursor=_Place(collection, version, total=total).encoded())

    async def _go_through(self, place: _Place, after: Phase, deadline: float) -> Progress:
        phase = Phase[place.phase]
        compared, copied = await self._following.follow_next(
            place.collection,
            place.version,
            building=phase is Phase.SWEEP,
            cursor=place.cursor,
            deadline=deadline,
        )
        done = place.done + compared.compared
        following = replace(place, cursor=compared.next_cursor, done=done)
        if not compared.next_cursor:
            following = replace(place, phase=after.name, cursor="", done=0)
        return Progress(place.version, phase, done, max(done, place.total), copied, next_cursor=following.encoded())

    async def _verify(self, place: _Place, deadline: float) -> Progress:
        checks = await self._verification.verify(place.collection, place.version, deadline=deadline)
        cursor = ""
        if all(check.passed for check in checks):
            await self._store.complete_version(place.version, deadline=deadline)
            cursor = replace(place, phase=Phase.SWITCHED.name).encoded()
        return Progress(place.version, Phase.VERIFY, place.total, place.total, next_cursor=cursor, checks=checks)
