"""Writes to live versions, which a version that is being built follows.

The proof that both agree in the end is in the retriever's `versions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from services.chassis.errors import FailedPrecondition, NotFound, Unavailable
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.store import Comparison, Difference, Store, Vectors, Written
from services.gateway.collections.vectors import BuildingVectors
from services.gateway.slices import slices
from sluice.type.v1 import passage_pb2

# Most comparisons of passages that others keep writing, and most tries of a write.
_MOST_ROUNDS = 20
_MOST_TRIES = 5
# The retriever takes up to 1000 passages in a call.
_COPY_SLICE = 512


class Following:
    """Copies passages of the live version to the version that is being built."""

    def __init__(self, store: Store, embedders: Embedders) -> None:
        self._store = store
        self._vectors = BuildingVectors(store, embedders)

    async def follow(self, collection: str, version: str, ids: Sequence[str], *, deadline: float) -> int:
        """Copy passages until they are equal; return the number copied.

        Raises FailedPrecondition (NOT_BUILDING) when the version is not being built, or no longer.
        """
        copied = 0
        for _ in range(_MOST_ROUNDS):
            differences = await self._store.compare(collection, version, ids, deadline=deadline)
            if not differences:
                return copied
            copied += await self._copy(collection, version, differences, deadline)
        raise Unavailable(f"others keep writing the same documents; {version!r} cannot follow", reason="CONTENDED")

    async def follow_next(
        self, collection: str, version: str, *, building: bool, cursor: str, deadline: float
    ) -> tuple[Comparison, int]:
        """Compare and copy the next passages; return the comparison and the number copied."""
        compared = await self._store.compare_next(
            collection, version, building=building, cursor=cursor, deadline=deadline
        )
        copied = 0
        if compared.differences:
            copied = await self._copy(collection, version, compared.differences, deadline)
            ids = [difference.id for difference in compared.differences]
            copied += await self.follow(collection, version, ids, deadline=deadline)
        return compared, copied

    async def _copy(self, collection: str, version: str, differences: Sequence[Difference], deadline: float) -> int:
        present = [difference for difference in differences if difference.passage is not None]
        gone = [difference for difference in differences if difference.passage is None]
        if gone:
            await self._store.copy(version, (), Vectors((), ""), gone, deadline=deadline)
        if present:
            vectors = await self._vectors.of(collection, version, present, deadline=deadline)
            texts = [difference.passage.ByteSize() for difference in present if difference.passage is not None]
            sizes = [text + size for text, size in zip(texts, vectors.sizes(), strict=True)]
            for part in slices(sizes, most=_COPY_SLICE):
                await self._store.copy(version, present[part], vectors.part(part), (), deadline=deadline)
        return len(present)


class Writing:
    """Writes to the live version, and waits until the version being built has followed.

    Where it cannot follow, because no embedder serves its model, its building is abandoned: the live version matters
    more.
    """

    def __init__(self, store: Store, following: Following) -> None:
        self._store = store
        self._following = following

    async def upsert(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        vectors: Vectors,
        *,
        batch: str = "",
        deadline: float,
    ) -> Written:
        """Store passages with their vectors."""
        return await self._followed(
            collection,
            lambda: self._store.upsert(collection, passages, vectors, batch=batch, deadline=deadline),
            deadline,
        )

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Written:
        """Delete documents by id."""
        most = 0

        async def delete() -> Written:
            nonlocal most  # a second try finds none of what the first has deleted
            deleted = await self._store.delete(collection, ids, deadline=deadline)
            most = max(most, deleted.count)
            return deleted

        return replace(await self._followed(collection, delete, deadline), count=most)

    async def relate(
        self, collection: str, said: Sequence[tuple[str, passage_pb2.Relations]], *, deadline: float
    ) -> Written:
        """Replace what stored documents say of their relations."""
        return await self._followed(
            collection, lambda: self._store.relate(collection, said, deadline=deadline), deadline
        )

    async def _followed(self, collection: str, write: Callable[[], Awaitable[Written]], deadline: float) -> Written:
        for _ in range(_MOST_TRIES):
            written = await write()
            if not written.building_version:
                return written
            try:
                await self._following.follow(
                    collection, written.building_version, written.changed_ids, deadline=deadline
                )
            except FailedPrecondition as error:
                # NOT_BUILDING: the collection was switched or the building ended, so the write has to be repeated.
                if error.reason != "NOT_BUILDING":
                    await self._store.abandon_version(written.building_version, deadline=deadline)
            except (NotFound, Unavailable):
                await self._store.abandon_version(written.building_version, deadline=deadline)
            else:
                return written
        raise Unavailable(f"the versions of {collection!r} keep changing; try again", reason="CONTENDED")
