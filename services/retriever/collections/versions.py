"""Versions of a collection: created next to the live one, completed, switched to, gone back to, deleted.

A version is filled from the live one (see `building`) while that is read and written. Until it is switched to, the live
version's notes name it, so that all that is written there is made to follow.

In a cluster a node may answer with the state before. What a call has changed is seen through every node once the call
has returned (see `PassageStore`), so what others rely on is announced, and acted on only then.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo, CollectionModel, VersionState
from services.retriever.store import Deadline, PassageStore, number_of

# Others who create the next version may take names.
_MOST_NAMES_TRIED = 5
# Longer than a description is trusted for, and than a call to the store commonly lasts.
TAKE_OVER_SECONDS = 10.0
# Longer than an alias takes to reach all nodes, and clocks differ.
SWITCHING_SECONDS = 15.0


class Versions:
    """Creates, switches and deletes versions."""

    def __init__(
        self, store: PassageStore, collections: Collections, *, take_over_seconds: float = TAKE_OVER_SECONDS
    ) -> None:
        """`take_over_seconds` is the time for which the name of a collection without versions stands for nothing."""
        self._store = store
        self._collections = collections
        self._take_over_seconds = take_over_seconds

    async def create(
        self,
        collection: str,
        model: CollectionModel,
        deadline: Deadline = None,
        token_model: CollectionModel | None = None,
    ) -> tuple[CollectionInfo, CollectionInfo]:
        """Return the version to be filled by these models, new or begun before, and the live one to fill it from.

        Where the live version is by them already, and its words are weighed as those of a new one would be, there is
        nothing to fill: it is both. Raises FailedPrecondition while one is being built for another model.
        """
        live = await self._collections.live(collection, deadline)
        building = await self._unfinished(live, deadline)
        like = self._collections.described(collection, 1, model, live.bm25.analyzer.language, token_model)
        same = _models(live) == _models(like) and live.bm25 == like.bm25 and live.version != collection
        if building is None and same:
            return live, live
        if building is None:
            building = await self._make_next(live, like, deadline)
        elif _models(building) != _models(like):
            tokens = f"token vectors of {building.token_model.name}" if building.token_model else "no token vectors"
            raise FailedPrecondition(
                f"{building.version!r} is being built for {building.model.name} and {tokens}; finish that first, or "
                f"delete {building.version!r}",
                reason="BUILD_UNDER_WAY",
                version=building.version,
            )
        # What is complete but not live has not been made to follow if its building was abandoned.
        await self._note(building.version, deadline, state=VersionState.BUILDING, built_from=live.version)
        await self._note(live.version, deadline, building=building.version)
        return (
            replace(building, state=VersionState.BUILDING, built_from=live.version),
            replace(live, building=building.version),
        )

    async def complete(self, version: str, deadline: Deadline = None) -> CollectionInfo:
        """Record that a version is complete; FailedPrecondition (NOT_BUILDING) unless it is being built."""
        info = await self._collections.get(version, deadline)
        await self.building_from(info.collection, version, deadline)
        await self._collections.count(version, deadline)
        await self._note(version, deadline, state=VersionState.READY, completed=datetime.now(UTC).isoformat())
        try:
            await self.building_from(info.collection, version, deadline)
        except FailedPrecondition:
            live = await self._collections.get(info.collection, deadline)
            if live.version != version and not live.is_switching:  # abandoned in this moment, not switched to
                await self._note(version, deadline, state=VersionState.BUILDING)
            raise
        return replace(info, state=VersionState.READY)

    async def abandon(self, version: str, deadline: Deadline = None) -> None:
        """End the building of a version; later writes are missing there until it is taken up again."""
        try:
            collection = (await self._collections.get(version, deadline)).collection
        except NotFound:  # deleted by other hands, which is no reason to wait for it without end
            await self._note(version.rpartition("-v")[0], deadline, building="")
            return
        live = await self._live(collection, deadline)
        if live is not None and version in (live.version, collection):
            raise FailedPrecondition(f"{version!r} is live", reason="VERSION_LIVE")
        if live is not None and live.building == version:
            # Before, as nothing may be switched to it once writing has ceased to reach it; and after, as another
            # caller may have completed it in between.
            await self._note(version, deadline, state=VersionState.BUILDING)
            await self._note(live.version, deadline, building="")
            await self._note(version, deadline, state=VersionState.BUILDING)

    async def switch(self, collection: str, version: str = "", deadline: Deadline = None) -> tuple[CollectionInfo, str]:
        """Make a ready version live, by default the one before; return it, and the one that was live until now.

        The alias moves in one step. A collection of a release without versions has to give its name up first, as no
        alias can have it; this takes some seconds, in which the name is found without the alias.
        """
        live = await self._live(collection, deadline)
        wanted = version or (live.previous if live else "")
        if not wanted:
            raise FailedPrecondition(f"nothing was live before in {collection!r}", reason="NO_PREVIOUS_VERSION")
        target = await self._collections.get(wanted, deadline)
        if target.collection != collection:
            raise InvalidArgument("version", f"is no version of {collection!r}")
        if target.state is not VersionState.READY:
            raise FailedPrecondition(
                f"{target.version!r} is not complete and verified; finish it by reindexing, or delete it",
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
        await self._note(target.version, deadline, building="", previous=previous, switching="")
        if unversioned:
            await self._take_over(target, deadline)
        else:
            await self._pass_on(live, target, deadline)
        return replace(target, name=collection, previous=previous, building=""), live.version

    async def delete(self, version: str, deadline: Deadline = None) -> None:
        """Delete a version that is not live."""
        if await self._is_damaged(version, deadline):
            if version in (await self._store.catalogue(deadline)).aliases.values():
                raise FailedPrecondition(f"{version!r} is live", reason="VERSION_LIVE")
            await self._store.drop(version, deadline)
            self._collections.forget()
            return
        info = await self._collections.get(version, deadline)
        await self.abandon(info.version, deadline)
        await self._store.drop(info.version, deadline)
        self._collections.forget()

    async def building_from(self, collection: str, version: str, deadline: Deadline = None) -> str:
        """Return the live version; FailedPrecondition (NOT_BUILDING) unless `version` is being built from it."""
        live = await self._collections.get(collection, deadline)
        if live.building != version or live.is_switching:
            raise FailedPrecondition(
                f"{version!r} is not being built from {live.version!r}, or not any more; begin the reindexing again",
                reason="NOT_BUILDING",
                version=version,
            )
        return live.version

    async def next_number(self, collection: str, deadline: Deadline = None) -> int:
        """Return the number after those of all versions; a collection without versions counts as the first."""
        names = (await self._store.catalogue(deadline)).versions
        return max([0, *(number_of(collection, name) or int(name == collection) for name in names)]) + 1

    async def _make_next(self, live: CollectionInfo, like: CollectionInfo, deadline: Deadline) -> CollectionInfo:
        for _ in range(_MOST_NAMES_TRIED):
            number = await self.next_number(live.name, deadline)
            made = replace(
                self._collections.described(
                    live.name, number, like.model, live.bm25.analyzer.language, like.token_model
                ),
                schema=live.schema,
                layout=live.layout,
                source=f"reindexed from {live.version}",
                state=VersionState.BUILDING,
                built_from=live.version,
            )
            try:
                await self._collections.make(made, deadline)
            except AlreadyExists:
                continue
            return made
        raise AlreadyExists(f"others keep creating versions of {live.name!r}; try again", reason="COLLECTION_EXISTS")

    async def _live(self, collection: str, deadline: Deadline) -> CollectionInfo | None:
        try:
            return await self._collections.live(collection, deadline)
        except NotFound:
            return None
        except FailedPrecondition as error:
            # Another version, restored from a snapshot, takes its place.
            if error.reason != "VERSION_DAMAGED":
                raise
            return None

    async def _is_damaged(self, version: str, deadline: Deadline) -> bool:
        try:
            await self._collections.get(version, deadline)
        except FailedPrecondition as error:
            return error.reason == "VERSION_DAMAGED"
        except NotFound:
            return False
        return False

    async def _unfinished(self, live: CollectionInfo, deadline: Deadline) -> CollectionInfo | None:
        """Return the version of the same collection that is being built from a live one, or was left unfinished."""
        if live.building:
            try:
                return await self._collections.get(live.building, deadline)
            except NotFound:
                return None
        versions, _ = await self._collections.versions(live.name, 1000, deadline=deadline)
        unfinished = (info for info, live in versions if info.state is VersionState.BUILDING and not live)
        return next((info for info in unfinished if info.built_from), None)

    async def _point(self, target: CollectionInfo, deadline: Deadline) -> None:
        await self._store.point(target.collection, target.version, deadline)
        self._collections.forget()

    async def _pass_on(self, live: CollectionInfo, target: CollectionInfo, deadline: Deadline) -> None:
        """Let the name of a collection pass from one version to another.

        Nodes of a cluster learn of it one after the other. So all learn first that it is about to be: from then on
        nothing is copied, and whoever has written looks again when it is over. If this is cut short, they go on after
        a while, in which the name passes on no more.
        """
        latest = time.monotonic() + SWITCHING_SECONDS / 2
        await self._note(live.version, deadline, switching=f"{time.time() + SWITCHING_SECONDS:.3f}")
        await self._point(target, latest if deadline is None else min(latest, deadline))
        await self._note(live.version, deadline, switching="", building="")

    async def _take_over(self, successor: CollectionInfo, deadline: Deadline) -> None:
        """Give the name of a collection without versions to a version.

        The name itself stood in searches and writes under way, for vectors of the old model. So it stands for
        nothing until no call can mean the old collection by it; until then its successor is found by the note.
        """
        await self._note(successor.version, deadline, supersedes=successor.collection)
        await self._store.drop(successor.collection, deadline)
        self._collections.forget()
        await asyncio.sleep(self._take_over_seconds)
        await self._point(successor, deadline)
        await self._note(successor.version, deadline, supersedes="")

    async def _note(self, version: str, deadline: Deadline, **notes: str) -> None:
        await self._collections.note(version, deadline, **notes)


def _models(info: CollectionInfo) -> tuple[str, str]:
    return info.model.fingerprint, info.token_fingerprint
