"""The versions of a collection: built beside the live one, switched to in one request, and gone back to.

A name that users say is an alias of one of its versions, the live one. Another version is filled from it while it is
read and written (`create`, `compare`, `copy`), completed, and switched to. Until then the live version's metadata
names it, and whoever writes there has to make it follow.

Why the two agree in the end. Each write gives its passages a revision, unique for ever, which their copies keep. To
make passages follow is to repeat, until nothing differs: read the revisions in the version being built; see that it is
still being built; read the live version; write what differs, each passage only if its revision is still the one that
was read. So what is copied was read from the live version after the revision that it replaces, and an older text never
replaces a newer one: between the two stands the revision of the newer. A writer makes its passages follow after it has
written, and before it answers; the copying goes through all passages of both sides. A writer that has not seen the
mark had written before the mark was set, and the copying, begun later, finds what it wrote. A passage that a copy
brings back while it is being deleted is found by the copying's own repetition.
"""

from __future__ import annotations

import asyncio
import enum
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from qdrant_client import AsyncQdrantClient, models

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.retriever.documents import Passage
from services.retriever.index import (
    DENSE,
    MAX_BATCH,
    REVISION,
    CollectionInfo,
    CollectionModel,
    Index,
    Qdrant,
    VersionState,
    check_batch,
    check_model,
    number_of,
    point_id,
    to_passage,
    to_point,
)

# What earlier releases stored has no revision.
_UNREVISED = "0"
# Names may be taken meanwhile by others who create the next version.
_MOST_NAMES_TRIED = 5
# Passages are read so many at once, and no more of them when their texts have become so long: messages have a limit.
_POINTS_AT_ONCE, _ANSWER_CHARACTERS = 32, 1_000_000
# Longer than a description is trusted for, and than a call to Qdrant commonly lasts.
TAKE_OVER_SECONDS = 10.0


class Side(enum.Enum):
    """Whose passages a comparison goes through."""

    LIVE = "live"
    BUILDING = "building"


@dataclass(frozen=True, slots=True)
class Difference:
    """A passage that a version being built does not have as the live one has it."""

    id: str
    passage: Passage | None
    """As it is in the live version; None where it is not there."""
    revision: str
    """The write that made it there; empty where it is not there."""
    building_revision: str
    """The same of the version being built."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs among the passages compared, and where to go on."""

    differences: Sequence[Difference]
    compared: int
    next_cursor: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A passage for a version being built, which takes it only if it has `building_revision` of it, or none."""

    passage: Passage
    revision: str
    building_revision: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A passage that is to go from a version being built, if it has this revision of it."""

    id: str
    building_revision: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Passages with their vectors, chosen by chance, and how many there are in all."""

    passages: Sequence[Passage]
    version: str
    count: int


class Versions:
    """The life of collections. Every `deadline` is a moment on the monotonic clock."""

    def __init__(self, qdrant: Qdrant, index: Index) -> None:
        self._qdrant = qdrant
        self._index = index

    async def all(self, *, deadline: float | None = None) -> list[tuple[CollectionInfo, bool]]:
        """All versions of all collections, and whether each is live; what Sluice did not make is passed over."""

        async def names(client: AsyncQdrantClient) -> tuple[list[str], dict[str, str]]:
            known = [known.name for known in (await client.get_collections()).collections]
            return known, {alias.alias_name: alias.collection_name for alias in (await client.get_aliases()).aliases}

        versions, aliases = await self._qdrant.call(names, deadline=deadline)
        found = []
        for version in versions:
            try:
                info = await self._index.get_collection(version, deadline=deadline)
            except (NotFound, FailedPrecondition):  # dropped in this moment, or another application's
                continue
            found.append((info, aliases.get(info.collection, info.collection) == info.version))
        return sorted(found, key=lambda item: (item[0].collection, number_of(item[0].collection, item[0].version)))

    async def create(
        self, collection: str, model: CollectionModel, *, deadline: float | None = None
    ) -> tuple[CollectionInfo, CollectionInfo]:
        """The version to be filled by this model, new or begun before, and the live one that it is filled from.

        Where the live version is by this model already, and its words are weighed as those of a new one would be, there
        is nothing to fill: it is both. Raises FailedPrecondition while one is being built for another model.
        """
        live = await self._live(collection, deadline)
        if live is None:
            raise NotFound(f"collection {collection!r} does not exist", reason="COLLECTION_NOT_FOUND")
        building = await self._unfinished(live, deadline)
        like = self._index.described(collection, 1, model)
        same = (live.model.fingerprint, live.bm25) == (model.fingerprint, like.bm25) and live.version != collection
        if building is None and same:
            return live, live
        if building is None:
            building = await self._make_next(live, model, deadline)
        elif building.model.fingerprint != model.fingerprint:
            raise FailedPrecondition(
                f"{building.version!r} is being built for {building.model.name}; finish that first, or drop "
                f"{building.version!r}",
                reason="BUILD_UNDER_WAY",
                version=building.version,
            )
        # What is complete but not live has not been made to follow if its building was abandoned.
        notes = {"state": VersionState.BUILDING.value, "built_from": live.version}
        await self._index.note(building.version, notes, deadline=deadline)
        await self._index.note(live.version, {"building": building.version}, deadline=deadline)
        return (
            replace(building, state=VersionState.BUILDING, built_from=live.version),
            replace(live, building=building.version),
        )

    async def compare(
        self,
        collection: str,
        version: str,
        *,
        ids: Sequence[str] = (),
        side: Side = Side.LIVE,
        cursor: str = "",
        limit: int = MAX_BATCH,
        deadline: float | None = None,
    ) -> Comparison:
        """What differs among passages of these ids, or else among the next ones of a side.

        Raises FailedPrecondition (NOT_BUILDING) unless `version` is being built from the live version.
        """
        live = await self._building_from(collection, version, deadline)
        next_cursor = ""
        if ids:
            check_batch(ids, "ids")
            points = [point_id(passage_id) for passage_id in dict.fromkeys(ids)]
        else:
            points, next_cursor = await self._page(live if side is Side.LIVE else version, cursor, limit, deadline)
        if not points:
            return Comparison((), 0, next_cursor)
        built = await self._revisions(version, points, deadline)
        # Only now: after the switch the version is written directly, and such a revision must not be taken for old.
        live = await self._building_from(collection, version, deadline)
        current = await self._revisions(live, points, deadline)
        differing = [point for point in points if built.get(point, ("", ""))[1] != current.get(point, ("", ""))[1]]
        whole, left_out = await self._whole(live, differing, deadline)
        differences = []
        for point in differing:
            if point == left_out:
                # The rest does not fit into an answer. Pages go in the order of points, so the next one begins here.
                next_cursor, points = (next_cursor if ids else point), points[: points.index(point)]
                break
            identity, building_revision = built.get(point, ("", ""))
            passage, revision = whole.get(point, (None, ""))
            if passage is not None or building_revision:
                identity = identity if passage is None else passage.id
                differences.append(Difference(identity, passage, revision, building_revision))
        return Comparison(differences, len(points), next_cursor)

    async def copy(
        self,
        version: str,
        copies: Sequence[Copy],
        removals: Sequence[Removal],
        *,
        model_fingerprint: str,
        deadline: float | None = None,
    ) -> None:
        """Writes and removes passages of a version being built, each only if it is there as it was compared."""
        if len(copies) > MAX_BATCH or len(removals) > MAX_BATCH:
            raise InvalidArgument("passages", f"has more than {MAX_BATCH} entries")
        info = await self._index.get_collection(version, deadline=deadline)
        check_model(info, model_fingerprint)
        if copies:
            info = await self._index.prepared(info, [copy.passage for copy in copies], deadline=deadline)
        new = [to_point(copy.passage, info, copy.revision) for copy in copies if not copy.building_revision]
        changed = [copy for copy in copies if copy.building_revision]

        async def write(client: AsyncQdrantClient) -> None:
            if new:
                await client.upsert(version, new, wait=True, update_mode=models.UpdateMode.INSERT_ONLY)
            if changed:
                await client.upsert(
                    version,
                    [to_point(copy.passage, info, copy.revision) for copy in changed],
                    wait=True,
                    update_mode=models.UpdateMode.UPDATE_ONLY,
                    update_filter=_still([(copy.passage.id, copy.building_revision) for copy in changed]),
                )
            if removals:
                condition = _still([(removal.id, removal.building_revision) for removal in removals])
                await client.delete(version, models.FilterSelector(filter=condition), wait=True)

        await self._qdrant.call(write, deadline=deadline)

    async def sample(self, collection: str, limit: int, *, deadline: float | None = None) -> Sample:
        """Passages chosen by chance: ids are hashes, so those that follow any of them are."""
        if not 1 <= limit <= MAX_BATCH:
            raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_BATCH}")
        info = await self._index.get_collection(collection, deadline=deadline)
        start = str(uuid.UUID(int=random.getrandbits(128)))

        async def sample(client: AsyncQdrantClient) -> tuple[dict[Any, models.Record], int]:
            records: dict[Any, models.Record] = {}
            for offset in (start, None):
                if len(records) < limit:
                    page, _ = await client.scroll(
                        info.version,
                        limit=limit - len(records),
                        offset=offset,
                        with_payload=True,
                        with_vectors=[DENSE],
                    )
                    records |= {record.id: record for record in page}
            return records, (await client.count(info.version, exact=True)).count

        records, count = await self._qdrant.call(sample, deadline=deadline)
        passages = [to_passage(record.payload, _dense(record)) for record in records.values()]
        return Sample(passages, info.version, count)

    async def complete(self, version: str, *, deadline: float | None = None) -> CollectionInfo:
        """Records that a version is complete; FailedPrecondition (NOT_BUILDING) unless it is being built."""
        info = await self._index.get_collection(version, deadline=deadline)
        await self._building_from(info.collection, version, deadline)
        notes = {"state": VersionState.READY.value, "completed": datetime.now(UTC).isoformat()}
        await self._index.note(version, notes, deadline=deadline)
        try:
            await self._building_from(info.collection, version, deadline)
        except FailedPrecondition:  # abandoned in this moment
            await self._index.note(version, {"state": VersionState.BUILDING.value}, deadline=deadline)
            raise
        return replace(info, state=VersionState.READY)

    async def abandon(self, version: str, *, deadline: float | None = None) -> None:
        """Ends the building of a version; what is written from now on is missing there, until it is taken up again."""
        try:
            collection = (await self._index.get_collection(version, deadline=deadline)).collection
        except NotFound:  # deleted by other hands, which is no reason to wait for it for ever
            collection = version.rpartition("-v")[0]
            await self._index.note(collection, {"building": ""}, deadline=deadline)
            return
        live = await self._live(collection, deadline)
        if live is not None and version in (live.version, collection):
            raise FailedPrecondition(f"{version!r} is live", reason="VERSION_LIVE")
        if live is not None and live.building == version:
            # Before, as nothing may be switched to it once writing has ceased to reach it; and after, as somebody may
            # have completed it in between.
            await self._index.note(version, {"state": VersionState.BUILDING.value}, deadline=deadline)
            await self._index.note(live.version, {"building": ""}, deadline=deadline)
            await self._index.note(version, {"state": VersionState.BUILDING.value}, deadline=deadline)

    async def switch(
        self, collection: str, version: str = "", *, deadline: float | None = None
    ) -> tuple[CollectionInfo, str]:
        """Makes a ready version live, by default the one before; that version, and the one that was live until now.

        The alias moves in one request. A collection of a release without versions has to give its name up first, as
        Qdrant lets no alias have it; this takes some seconds, in which the name is found without the alias.
        """
        live = await self._live(collection, deadline)
        wanted = version or (live.previous if live else "")
        if not wanted:
            raise FailedPrecondition(f"nothing was live before in {collection!r}", reason="NO_PREVIOUS_VERSION")
        target = await self._index.get_collection(wanted, deadline=deadline)
        if target.collection != collection:
            raise InvalidArgument("version", f"is no version of {collection!r}")
        if target.state is not VersionState.READY:
            raise FailedPrecondition(
                f"{target.version!r} is not complete and verified; finish it by reindexing, or drop it",
                reason="VERSION_NOT_READY",
                version=target.version,
            )
        if live is None:
            await self._point(target, deadline)
            return replace(target, name=collection), ""
        if live.version == target.version:
            return live, live.previous
        unversioned = live.version == collection
        previous = "" if unversioned else live.version
        await self._index.note(target.version, {"building": "", "previous": previous}, deadline=deadline)
        if unversioned:
            await self._take_over(target, deadline)
        else:
            await self._point(target, deadline)
            if live.building:
                await self._index.note(live.version, {"building": ""}, deadline=deadline)
        return replace(target, name=collection, previous=previous, building=""), live.version

    async def delete(self, version: str, *, deadline: float | None = None) -> None:
        """Deletes a version that is not live."""
        info = await self._index.get_collection(version, deadline=deadline)
        await self.abandon(info.version, deadline=deadline)
        await self._qdrant.call(
            lambda client: client.delete_collection(info.version), name="delete_collection", deadline=deadline
        )
        self._index.forget()

    async def next_number(self, collection: str, *, deadline: float | None = None) -> int:
        """The number after those of all versions of a collection; a collection without versions counts as the first."""
        known = await self._qdrant.call(
            lambda client: client.get_collections(), name="get_collections", deadline=deadline
        )
        numbers = [number_of(collection, found.name) or found.name == collection for found in known.collections]
        return max([0, *map(int, numbers)]) + 1

    async def _make_next(self, live: CollectionInfo, model: CollectionModel, deadline: float | None) -> CollectionInfo:
        for _ in range(_MOST_NAMES_TRIED):
            number = await self.next_number(live.name, deadline=deadline)
            made = replace(
                self._index.described(live.name, number, model),
                schema=live.schema,
                source=f"reindexed from {live.version}",
                state=VersionState.BUILDING,
                built_from=live.version,
            )
            try:
                await self._index.make(made, deadline=deadline)
            except AlreadyExists:
                continue
            return made
        raise AlreadyExists(f"others keep creating versions of {live.name!r}; try again", reason="COLLECTION_EXISTS")

    async def _live(self, collection: str, deadline: float | None) -> CollectionInfo | None:
        """The version that a collection's name stands for; None where there is none."""
        try:
            live = await self._index.get_collection(collection, deadline=deadline)
        except NotFound:
            return None
        if live.collection != collection:
            raise InvalidArgument("collection", f"is a version of {live.collection!r}; name the collection")
        return live

    async def _unfinished(self, live: CollectionInfo, deadline: float | None) -> CollectionInfo | None:
        """The version of the same collection that is being built, or was left unfinished."""
        if live.building:
            try:
                return await self._index.get_collection(live.building, deadline=deadline)
            except NotFound:
                return None
        return next(
            (
                info
                for info, is_live in await self.all(deadline=deadline)
                if info.collection == live.name and info.state is VersionState.BUILDING and not is_live
            ),
            None,
        )

    async def _building_from(self, collection: str, version: str, deadline: float | None) -> str:
        """The live version, if `version` is being built from it."""
        live = await self._index.get_collection(collection, deadline=deadline)
        if live.building != version:
            raise FailedPrecondition(
                f"{version!r} is not being built from {live.version!r}, or not any more; begin the reindexing again",
                reason="NOT_BUILDING",
                version=version,
            )
        return live.version

    async def _page(self, version: str, cursor: str, limit: int, deadline: float | None) -> tuple[list[str], str]:
        if not 1 <= limit <= MAX_BATCH:
            raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_BATCH}")
        try:
            offset = str(uuid.UUID(cursor)) if cursor else None
        except ValueError:
            raise InvalidArgument("cursor", "is not one that an answer gave") from None
        records, following = await self._qdrant.call(
            lambda client: client.scroll(version, limit=limit, offset=offset, with_payload=False),
            name="scroll",
            deadline=deadline,
        )
        return [str(record.id) for record in records], "" if following is None else str(following)

    async def _revisions(
        self, version: str, points: Sequence[str], deadline: float | None
    ) -> dict[str, tuple[str, str]]:
        """Id and revision of the passages that exist, by their points."""
        records = await self._qdrant.call(
            lambda client: client.retrieve(version, points, with_payload=["id", REVISION]),
            name="retrieve",
            deadline=deadline,
        )
        return {str(record.id): ((record.payload or {})["id"], _revision(record)) for record in records}

    async def _whole(
        self, version: str, points: Sequence[str], deadline: float | None
    ) -> tuple[dict[str, tuple[Passage, str]], str]:
        """Passages and their revisions by their points, and the first point for which an answer has no room."""
        found: dict[str, tuple[Passage, str]] = {}
        size = 0
        for start in range(0, len(points), _POINTS_AT_ONCE):
            if size > _ANSWER_CHARACTERS:
                return found, points[start]
            some = points[start : start + _POINTS_AT_ONCE]
            records = await self._qdrant.call(
                lambda client, some=some: client.retrieve(version, some, with_payload=True),  # type: ignore[misc]
                name="retrieve",
                deadline=deadline,
            )
            found |= {str(record.id): (to_passage(record.payload), _revision(record)) for record in records}
            size = sum(len(passage.text) + len(passage.title) for passage, _ in found.values())
        return found, ""

    async def _point(self, target: CollectionInfo, deadline: float | None) -> None:
        """Moves the alias to a version, or makes it, in one request."""
        alias = models.CreateAlias(alias_name=target.collection, collection_name=target.version)
        create = models.CreateAliasOperation(create_alias=alias)
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=target.collection))

        async def point(client: AsyncQdrantClient) -> None:
            known = {alias.alias_name for alias in (await client.get_aliases()).aliases}
            await client.update_collection_aliases([delete, create] if target.collection in known else [create])

        await self._qdrant.call(point, deadline=deadline)
        self._index.forget()

    async def _take_over(self, heir: CollectionInfo, deadline: float | None) -> None:
        """Gives the name of a collection without versions to a version.

        The name itself stood in searches and writes under way, for vectors of the old model. So it stands for
        nothing, until nobody can mean the old collection by it any more; its heir is found by the note meanwhile.
        """
        await self._index.note(heir.version, {"supersedes": heir.collection}, deadline=deadline)
        await self._qdrant.call(
            lambda client: client.delete_collection(heir.collection), name="delete_collection", deadline=deadline
        )
        self._index.forget()
        await asyncio.sleep(TAKE_OVER_SECONDS)
        await self._point(heir, deadline)
        await self._index.note(heir.version, {"supersedes": ""}, deadline=deadline)


def _revision(record: models.Record) -> str:
    return str((record.payload or {}).get(REVISION, _UNREVISED))


def _still(revisions: Sequence[tuple[str, str]]) -> models.Filter:
    """The passages that still have these revisions."""
    return models.Filter(
        should=[
            models.Filter(
                must=[
                    models.HasIdCondition(has_id=[point_id(passage_id)]),
                    models.FieldCondition(key=REVISION, match=models.MatchValue(value=revision)),
                ]
            )
            for passage_id, revision in revisions
        ]
    )


def _dense(record: models.Record) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors: Any = record.vector
    return np.asarray(vectors[DENSE], dtype=np.float32)
