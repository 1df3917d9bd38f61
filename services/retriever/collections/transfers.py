"""Transfers of versions between two Sluices: keys and whole passages to compare and copy, and versions to copy into.

The caller goes through the keys of both sides in the order of their points, and writes what differs with
`Building.copy`, each passage only if it is there as it was listed. It repeats that until nothing differs. A transfer
that was broken off is found again by its note, and what is there already is not copied again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from services.chassis.validation import check_collection
from services.retriever.collections.catalogue import MAX_DIMENSION, Collections, version_name
from services.retriever.collections.descriptions import CollectionInfo, VersionState
from services.retriever.collections.versions import Versions
from services.retriever.rows import check_ids
from services.retriever.store import ANSWER_BYTES, Deadline, Description, Parts, PassageStore, Row, point_id

MAX_KEYS = 4096

_FIRST_ROWS, _MOST_ROWS = 16, 256
_LONGEST_NAME = 200
_MOST_NAMES_TRIED = 5


class Transfers:
    """Reads versions whole, and creates versions like those of other places."""

    def __init__(self, store: PassageStore, collections: Collections, versions: Versions) -> None:
        self._store = store
        self._collections = collections
        self._versions = versions

    async def describe(self, collection: str, deadline: Deadline = None) -> tuple[CollectionInfo, str]:
        """Describe the version that a name stands for, and return its notes as JSON."""
        info = await self._collections.get(collection, deadline)
        notes = (await self._store.describe(info.version, deadline)).notes
        return info, json.dumps(dict(notes), sort_keys=True)

    async def keys(self, version: str, cursor: str, limit: int, deadline: Deadline = None) -> tuple[Sequence[Row], str]:
        """Return the next keys of a version in the order of their points, and the cursor after them."""
        if not 1 <= limit <= MAX_KEYS:
            raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_KEYS}")
        try:
            start = str(uuid.UUID(cursor)) if cursor else None
        except ValueError:
            raise InvalidArgument("cursor", "is not one that an answer gave") from None
        info = await self._collections.get(version, deadline)
        rows, following = await self._store.scroll(info.version, start, limit, Parts.KEYS, deadline)
        return rows, following or ""

    async def read(self, version: str, ids: Sequence[str], deadline: Deadline = None) -> tuple[list[Row], int]:
        """Return passages whole as far as an answer has room, and the number of ids that were looked for."""
        check_ids(ids, "ids")
        info = await self._collections.get(version, deadline)
        found: list[Row] = []
        end = size = 0
        step = _FIRST_ROWS
        while end < len(ids) and size < ANSWER_BYTES:
            points = [point_id(one) for one in ids[end : end + step]]
            rows = {row.id: row for row in await self._store.read(info.version, points, Parts.VECTOR, deadline)}
            for point in points:
                if (row := rows.get(point)) is not None:
                    size += row.passage.size + row.passage.vectors_size
                    if size > ANSWER_BYTES and end:
                        return found, end
                    found.append(row)
                end += 1
            step = max(1, min(_MOST_ROWS, int(end * (ANSWER_BYTES / (size or 1) - 1))))
        return found, end

    async def begin(
        self, collection: str, source_version: str, notes: str, deadline: Deadline = None
    ) -> CollectionInfo:
        """Return a version to be filled, new or begun before, that is like the one of these notes."""
        check_collection("collection", collection)
        if not 1 <= len(source_version) <= _LONGEST_NAME:
            raise InvalidArgument(
                "source_version", f"must be the name of a version, of 1 to {_LONGEST_NAME} characters"
            )
        wanted = _parsed(notes)
        source = f"copied from {source_version}"
        like = _described("like-v1", {**wanted, "collection": collection})
        versions, _ = await self._collections.versions(collection, 1000, deadline=deadline)
        for info, live in versions:
            unfinished = info.state is VersionState.BUILDING and not live
            models = (info.model, info.token_model) == (like.model, like.token_model)
            if unfinished and info.source == source and models and info.bm25 == like.bm25:
                return info
        for _ in range(_MOST_NAMES_TRIED):
            version = version_name(collection, await self._versions.next_number(collection, deadline))
            made = replace(
                _described(version, {**wanted, "collection": collection}),
                created=datetime.now(UTC),
                source=source,
                state=VersionState.BUILDING,
                built_from="",
                enriching="",  # what is copied gets its keys
            )
            try:
                await self._collections.make(made, deadline)
            except AlreadyExists:
                continue
            self._collections.forget()
            return made
        raise AlreadyExists(f"others keep creating versions of {collection!r}; try again", reason="COLLECTION_EXISTS")

    async def complete(self, version: str, passages: int, deadline: Deadline = None) -> CollectionInfo:
        """Record that a version is complete; FailedPrecondition unless it was begun here and has so many passages."""
        info = await self._collections.get(version, deadline)
        if not info.source.startswith("copied from "):
            raise FailedPrecondition(f"{version!r} was not begun by a transfer", reason="NOT_TRANSFERRED")
        count = await self._store.count(info.version, deadline)
        if count != passages:
            raise FailedPrecondition(
                f"{version!r} has {count} passages, and {passages} were copied; compare both sides again",
                reason="TRANSFER_INCOMPLETE",
            )
        await self._collections.note(
            info.version,
            deadline,
            state=VersionState.READY.value,
            completed=datetime.now(UTC).isoformat(),
            counted=str(count),
        )
        return await self._collections.get(info.version, deadline)


def _parsed(notes: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(notes)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise _foreign()
    return parsed


def _described(version: str, notes: Mapping[str, Any]) -> CollectionInfo:
    try:
        info = CollectionInfo.from_description(version, Description(version, notes, 0))
        models = [info.model, *([info.token_model] if info.token_model else [])]
        fits = all(1 <= model.dimension <= MAX_DIMENSION and model.fingerprint for model in models)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _foreign() from None
    if not fits:
        raise _foreign()
    return info


def _foreign() -> InvalidArgument:
    return InvalidArgument("notes", "are not those of a version; send what DescribeVersion gave")
