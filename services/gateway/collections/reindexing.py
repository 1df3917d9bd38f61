"""A collection by another model: built beside the live version while that is read and written, checked, switched to.

All that is known of a rebuild is in the index itself, so it may be killed anywhere: begun again, it compares both
versions and does what is left. Why the two agree in the end is told in the retriever's `versions`.
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, TypeVar

from services.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.gateway.collections.embedders import Embedders, EmbeddingModel
from services.gateway.collections.indexing import Store
from services.gateway.collections.verification import Check, Verification
from services.gateway.search.stages import Embedded, Passage, Upserted

# Passages compared at once: enough for the embedder's batches, few enough that one call takes a second or so.
PAGE = 128
# A passage that others keep writing is compared so often before that is called a failure.
_MOST_ROUNDS = 20
_MOST_TURNS = 5

WrittenT = TypeVar("WrittenT", bound="Written")


@dataclass(frozen=True, slots=True)
class Difference:
    """A passage that the version being built does not have as the live version has it."""

    id: str
    reading: str
    """What models read of it."""
    passage: bytes
    """The retriever's own message of the passage, as the gateway needs nothing else of it; empty where it is gone."""
    revision: str
    building_revision: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs among the passages compared, and where to go on."""

    differences: Sequence[Difference]
    compared: int
    next_token: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A version to be filled, and how many passages there are to fill it with."""

    version: str
    live_version: str
    passage_count: int


class Written(Protocol):
    """What came of writing to the live version."""

    @property
    def building_version(self) -> str:
        """The version that has to follow; empty where there is none."""

    @property
    def changed_ids(self) -> Sequence[str]:
        """Ids of the passages that have to follow."""


class VersionStore(Protocol):
    """Keeps versions; see the retriever's RPCs."""

    async def create_version(self, collection: str, model: EmbeddingModel, *, deadline: float) -> Begun: ...  # noqa: D102

    async def compare(  # noqa: D102
        self,
        collection: str,
        version: str,
        *,
        ids: Sequence[str] = (),
        of_building: bool = False,
        token: str = "",
        limit: int = PAGE,
        deadline: float,
    ) -> Comparison: ...

    async def copy(  # noqa: D102
        self,
        version: str,
        differences: Sequence[Difference],
        vectors: Sequence[bytes],
        gone: Sequence[Difference],
        *,
        model_fingerprint: str,
        deadline: float,
    ) -> None: ...

    async def complete_version(self, version: str, *, deadline: float) -> None: ...  # noqa: D102

    async def abandon_version(self, version: str, *, deadline: float) -> None: ...  # noqa: D102


class LiveStore(Store, Protocol):
    """Writes to live versions."""

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Deleted: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many passages were deleted, and the version that has to follow, if any."""

    count: int
    building_version: str = ""
    changed_ids: Sequence[str] = ()
    """Ids of the passages that have to follow."""


class Following:
    """Makes passages of a version that is being built follow those of the live version."""

    def __init__(self, versions: VersionStore, embedders: Embedders) -> None:
        self._versions = versions
        self._embedders = embedders

    async def follow(self, collection: str, version: str, ids: Sequence[str], *, deadline: float) -> int:
        """Makes passages follow; returns how many were copied. On return they are as they were at some moment since.

        Raises FailedPrecondition (NOT_BUILDING) when the version is not being built, or not any more.
        """
        copied = 0
        for _ in range(_MOST_ROUNDS):
            compared = await self._versions.compare(collection, version, ids=ids, deadline=deadline)
            if not compared.differences:
                return copied
            copied += await self._bring(version, compared.differences, deadline)
        raise Unavailable(f"others keep writing the same documents; {version!r} cannot follow", reason="CONTENDED")

    async def page(
        self, collection: str, version: str, *, of_building: bool, token: str, deadline: float
    ) -> tuple[Comparison, int]:
        """Makes the next passages of a side follow; what was compared, and how many were copied."""
        compared = await self._versions.compare(
            collection, version, of_building=of_building, token=token, deadline=deadline
        )
        copied = 0
        if compared.differences:
            copied = await self._bring(version, compared.differences, deadline)
            ids = [difference.id for difference in compared.differences]
            copied += await self.follow(collection, version, ids, deadline=deadline)
        return compared, copied

    async def _bring(self, version: str, differences: Sequence[Difference], deadline: float) -> int:
        present = [difference for difference in differences if difference.passage]
        gone = [difference for difference in differences if not difference.passage]
        vectors: Sequence[bytes] = ()
        fingerprint = ""
        if present:
            # The version's own name is that of a collection, too: its model embeds.
            embedded = await self._embedders.embed_documents(
                [difference.reading for difference in present], collection=version, deadline=deadline
            )
            vectors, fingerprint = embedded.vectors, embedded.fingerprint
        await self._versions.copy(version, present, vectors, gone, model_fingerprint=fingerprint, deadline=deadline)
        return len(present)


class Writing:
    """Writes to live versions, and answers when a version that is being built has followed.

    Where that cannot be, because nothing embeds for it, the building is abandoned: the live version comes first.
    """

    def __init__(self, store: LiveStore, versions: VersionStore, following: Following) -> None:
        self._store = store
        self._versions = versions
        self._following = following

    async def create_collection(self, collection: str, embedded: Embedded, *, deadline: float) -> None:
        """Creates a collection for the model that made the vectors."""
        await self._store.create_collection(collection, embedded, deadline=deadline)

    async def upsert(
        self,
        collection: str,
        passages: Sequence[Passage],
        vectors: Sequence[bytes],
        *,
        model_fingerprint: str,
        deadline: float,
    ) -> Upserted:
        """Stores passages with their vectors."""
        return await self._followed(
            collection,
            lambda: self._store.upsert(
                collection, passages, vectors, model_fingerprint=model_fingerprint, deadline=deadline
            ),
            deadline,
        )

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Deleted:
        """Deletes passages."""
        most = 0

        async def delete() -> Deleted:
            nonlocal most
            deleted = await self._store.delete(collection, ids, deadline=deadline)
            most = max(most, deleted.count)
            return deleted

        return replace(await self._followed(collection, delete, deadline), count=most)

    async def _followed(self, collection: str, write: Callable[[], Awaitable[WrittenT]], deadline: float) -> WrittenT:
        for _ in range(_MOST_TURNS):
            written = await write()
            if not written.building_version:
                return written
            try:
                await self._following.follow(
                    collection, written.building_version, written.changed_ids, deadline=deadline
                )
            except FailedPrecondition as error:
                # What has to be written has changed since: it is switched, or its building is over.
                if error.reason != "NOT_BUILDING":
                    await self._versions.abandon_version(written.building_version, deadline=deadline)
            except (NotFound, Unavailable):
                await self._versions.abandon_version(written.building_version, deadline=deadline)
            else:
                return written
        raise Unavailable(f"the versions of {collection!r} keep changing; try again", reason="CONTENDED")


class Phase(enum.Enum):
    """A part of the way."""

    COPY = "copy"
    SWEEP = "sweep"
    VERIFY = "verify"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is."""

    version: str
    phase: Phase
    """What was just done."""
    done: int
    """Passages gone through in this phase."""
    total: int
    copied: int = 0
    next_token: str = ""
    """Asks for the next part; empty at the end."""
    checks: Sequence[Check] = ()
    previous: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a rebuild is to go on; what a page token holds."""

    collection: str
    version: str
    phase: str = Phase.COPY.value
    token: str = ""
    done: int = 0
    total: int = 0

    def encoded(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def decoded(cls, token: str, collection: str) -> _Place:
        try:
            place = cls(**json.loads(base64.urlsafe_b64decode(token)))
            Phase(place.phase)
        except (ValueError, TypeError):
            raise InvalidArgument("page_token", "is not one that an answer gave; begin with an empty one") from None
        if place.collection != collection:
            raise InvalidArgument("page_token", "is of another collection; begin with an empty one")
        return place


class Switching(Protocol):
    """Moves aliases."""

    async def switch(self, collection: str, version: str, *, deadline: float) -> str:
        """Makes a version live; the one that was live before."""


class Reindexing:
    """Rebuilds collections part by part."""

    def __init__(
        self,
        versions: VersionStore,
        switching: Switching,
        embedders: Embedders,
        following: Following,
        verification: Verification,
    ) -> None:
        self._versions = versions
        self._switching = switching
        self._embedders = embedders
        self._following = following
        self._verification = verification

    async def advance(self, collection: str, model: str, page_token: str, *, deadline: float) -> Progress:
        """Does the next part by a moment on the monotonic clock.

        Raises FailedPrecondition where no embedder serves the model, while another model is being built for, and when
        the building was ended by others (NOT_BUILDING). The live version is untouched by all of these.
        """
        if not page_token:
            wanted = await self._embedders.model_named(model, deadline=deadline)
            begun = await self._versions.create_version(collection, wanted, deadline=deadline)
            if begun.version == begun.live_version:  # by this model already: an earlier run has switched to it
                return Progress(begun.version, Phase.SWITCHED, begun.passage_count, begun.passage_count)
            place = _Place(collection, begun.version, total=begun.passage_count)
            return Progress(begun.version, Phase.COPY, 0, begun.passage_count, next_token=place.encoded())
        place = _Place.decoded(page_token, collection)
        match Phase(place.phase):
            case Phase.COPY:
                return await self._go_through(place, Phase.SWEEP, deadline)
            case Phase.SWEEP:
                return await self._go_through(place, Phase.VERIFY, deadline)
            case Phase.VERIFY:
                return await self._verify(place, deadline)
            case Phase.SWITCHED:
                previous = await self._switching.switch(collection, place.version, deadline=deadline)
                self._embedders.forget(collection)
                return Progress(place.version, Phase.SWITCHED, place.total, place.total, previous=previous)

    async def _go_through(self, place: _Place, after: Phase, deadline: float) -> Progress:
        phase = Phase(place.phase)
        compared, copied = await self._following.page(
            place.collection,
            place.version,
            of_building=phase is Phase.SWEEP,
            token=place.token,
            deadline=deadline,
        )
        done = place.done + compared.compared
        following = replace(place, token=compared.next_token, done=done)
        if not compared.next_token:
            following = replace(place, phase=after.value, token="", done=0)
        return Progress(place.version, phase, done, max(done, place.total), copied, next_token=following.encoded())

    async def _verify(self, place: _Place, deadline: float) -> Progress:
        checks = await self._verification.verify(place.collection, place.version, deadline=deadline)
        token = ""
        if all(check.passed for check in checks):
            await self._versions.complete_version(place.version, deadline=deadline)
            token = replace(place, phase=Phase.SWITCHED.value).encoded()
        return Progress(place.version, Phase.VERIFY, place.total, place.total, next_token=token, checks=checks)
