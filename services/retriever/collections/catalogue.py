"""Collections and their versions: looking them up, creation, declared fields, deletion.

A collection's name is an alias of one of its versions, the live one, as `documents` of `documents-v3`; or it is itself
a collection, from a release without versions. A version keeps in its notes what its right use takes: the model that
made its vectors, its lexical settings, and the types of its passages' fields. Reading goes to the version that the
description was read from, so what is checked and what is searched are the same version even while the alias moves.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from services.chassis.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from services.chassis.validation import check_collection, split_version
from services.retriever import fields, paging
from services.retriever.collections.descriptions import CollectionInfo, CollectionModel, schema_notes
from services.retriever.documents import Passage
from services.retriever.fields import Exists, FieldType, Filter, Schema
from services.retriever.layout import Layout
from services.retriever.lexical import LANGUAGES, Analyzer, Bm25
from services.retriever.store import PLAIN, Catalogue, Deadline, Description, Parts, PassageStore, number_of
from sluice.type.v1 import layout_pb2

T = TypeVar("T")

MAX_DIMENSION = 65_536

# Seconds for which a description is trusted for reading. A call that does not fit it has it read again first.
_TRUSTED_SECONDS = 5.0
# Between looks at a version that is switched from.
_PAUSE_SECONDS = 0.05
_NAMES_SHOWN = 10
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_COLLECTION, _LONGEST_VERSION = 128, 139  # with "-v" and up to nine digits


class Collections:
    """Describes, creates and deletes collections."""

    def __init__(self, store: PassageStore, bm25: Bm25, layout: Layout = PLAIN, relations: str = "") -> None:
        """Use `bm25`, `layout` and these rules of relations (see `CollectionInfo.relations`) for new versions."""
        self._store = store
        self._bm25 = bm25
        self._layout = layout
        self._relations = relations
        self._descriptions: dict[str, tuple[float, CollectionInfo]] = {}
        self._declaring = asyncio.Lock()
        self._written: Counter[tuple[str, str, FieldType]] = Counter()

    async def get(self, name: str, deadline: Deadline = None) -> CollectionInfo:
        """Describe the version that a name stands for now; of a version's own name, that version."""
        check_name(name)
        try:
            found = await self._store.describe(name, deadline)
        except NotFound:
            self._descriptions.pop(name, None)
            found = await self._successor(name, deadline)
        info = CollectionInfo.from_description(name, found)
        self._descriptions[name] = (time.monotonic(), info)
        return info

    async def steady(self, name: str, deadline: Deadline = None) -> CollectionInfo:
        """Describe the version that a name stands for, once no switch is under way; see `versions`."""
        while True:
            info = await self.get(name, deadline)
            if not info.is_switching:
                return info
            await asyncio.sleep(_PAUSE_SECONDS)

    async def live(self, collection: str, deadline: Deadline = None) -> CollectionInfo:
        """Describe the live version of a collection; InvalidArgument for the name of a version."""
        live = await self.get(collection, deadline)
        if live.collection != collection:
            raise InvalidArgument("collection", f"is a version of {live.collection!r}; name the collection")
        return live

    async def using(self, name: str, use: Callable[[CollectionInfo], Awaitable[T]], deadline: Deadline = None) -> T:
        """Run `use` on the trusted description, and once more on a new one if that turns out not to fit."""
        read, info = self._descriptions.get(name, (-math.inf, None))
        if info is not None and time.monotonic() - read < _TRUSTED_SECONDS:
            try:
                return await use(info)
            except (InvalidArgument, FailedPrecondition, NotFound):
                pass
        info = await self.get(name, deadline)
        try:
            return await use(info)
        except NotFound:  # deleted between the look and the use: another version has taken over
            return await use(await self.get(name, deadline))

    async def versions(
        self, collection: str = "", page_size: int = 0, page_token: str = "", deadline: Deadline = None
    ) -> tuple[list[tuple[CollectionInfo, bool]], str]:
        """Return a page of versions, each with true if it is live, and the next page's token.

        They are sorted by collection and number. What Sluice did not make is left out.
        """
        if collection:
            check_name(collection)
        size = paging.size_of(page_size, default=100, most=1000)
        versions, aliases = await self._store.catalogue(deadline)
        wanted = [name for name in versions if not collection or collection in (name, split_version(name)[0])]
        names, token = paging.cut(wanted, _sort_key, size, page_token, collection)
        found = []
        for name in names:
            try:
                info = await self.get(name, deadline)
            except (NotFound, FailedPrecondition):  # deleted in this moment, or another application's
                continue
            found.append((info, aliases.get(info.collection, info.collection) == info.version))
        return found, token

    async def create(
        self,
        collection: str,
        model: CollectionModel,
        deadline: Deadline = None,
        *,
        language: str = "",
        layout: layout_pb2.Layout | None = None,
        token_model: CollectionModel | None = None,
    ) -> CollectionInfo:
        """Create the empty first version of a collection and its alias; AlreadyExists if the name is taken.

        Of several that create it at once, one succeeds, or all find its version.
        """
        check_collection("collection", collection)
        if await self._exists(collection, deadline):
            raise AlreadyExists(f"collection {collection!r} exists already", reason="COLLECTION_EXISTS")
        first = self.described(collection, 1, model, language, token_model)
        if layout is not None:
            first = first.laid_out(Layout.from_proto(layout, first.layout))
        try:
            await self.make(first, deadline)
        except AlreadyExists:
            # Others create it in this moment, or were killed before the alias was made.
            found = await self.get(first.version, deadline)
            found.check_model(model.fingerprint)
            found.check_token_model(first.token_fingerprint)
        if collection not in (await self._store.catalogue(deadline)).aliases:
            await self._store.point(collection, first.version, deadline)
        return replace(first, name=collection)

    async def delete(self, collection: str, deadline: Deadline = None) -> list[str]:
        """Delete all versions of a collection, the live one last, and with it the alias; return their names.

        Repeating it after a crash deletes the rest.
        """
        check_name(collection)
        versions, aliases = await self._store.catalogue(deadline)
        names = sorted((name for name in versions if number_of(collection, name)), key=_sort_key)
        if collection in versions or not names:
            names.append((await self.live(collection, deadline)).version)
        names.sort(key=lambda name: name == aliases.get(collection, collection))
        deleted = []
        for name in names:
            try:
                await self.get(name, deadline)
            except (NotFound, FailedPrecondition) as error:  # deleted in this moment, or another application's
                if error.reason not in ("ANALYZER_MISMATCH", "VERSION_DAMAGED"):
                    continue
            await self._store.drop(name, deadline)
            deleted.append(name)
        self.forget()
        return deleted

    def described(
        self,
        collection: str,
        number: int,
        model: CollectionModel,
        language: str = "",
        token_model: CollectionModel | None = None,
    ) -> CollectionInfo:
        """Describe an empty version of a collection, not yet made, with this retriever's lexical settings.

        An empty language is that of the settings.
        """
        check_name(collection, _LONGEST_COLLECTION)
        _check_model(model, "model")
        if token_model is not None:
            _check_model(token_model, "token_model")
        if language and language not in LANGUAGES:
            raise InvalidArgument("language", f"is {language!r}; send one of {', '.join(LANGUAGES)}")
        bm25 = replace(self._bm25, analyzer=Analyzer(language)) if language else self._bm25
        version = version_name(collection, number)
        now = datetime.now(UTC)
        return CollectionInfo(
            version,
            version,
            model,
            0,
            bm25,
            {},
            now,
            collection,
            source="written",
            layout=self._layout,
            token_model=token_model,
            relations=self._relations,
        )

    async def make(self, info: CollectionInfo, deadline: Deadline = None) -> None:
        """Create the version that `info` describes; AlreadyExists if there is one of the name."""
        await self._store.create(
            info.version, info.model.dimension, info.layout, info.to_notes(), deadline, info.token_dimension
        )
        if info.schema:
            await self._store.declare(info.version, info.schema, deadline, info.layout.tenant)

    async def note(self, version: str, deadline: Deadline = None, **notes: str) -> None:
        """Record something in a version's notes."""
        await self._store.note(version, {key: str(value) for key, value in notes.items()}, deadline)
        self.forget()

    async def keep(self, version: str, layout: Layout, deadline: Deadline = None) -> None:
        """Record the layout of a version in its notes."""
        await self._store.note(version, {"layout": layout.to_notes()}, deadline)
        self.forget()

    async def count(self, version: str, deadline: Deadline = None) -> int:
        """Count the passages of a version exactly, and record their number in its notes."""
        count = await self._store.count(version, deadline)
        await self.note(version, deadline, counted=str(count))
        return count

    async def uncount(self, info: CollectionInfo, deadline: Deadline = None) -> None:
        """Remove the recorded count of a version of which passages are about to be deleted."""
        if info.counted:
            await self.note(info.version, deadline, counted="")

    def forget(self) -> None:
        """Trust no description any more."""
        self._descriptions.clear()

    async def declare(
        self, info: CollectionInfo, passages: Sequence[Passage], deadline: Deadline = None
    ) -> CollectionInfo:
        """Declare the fields of these passages; return the description with them.

        InvalidArgument if a passage contradicts a declared type that some stored passage uses; a type that none uses
        any more is given again. One batch at a time, so that no declaration is lost; two retrievers that declare a
        field with different types in the same instant are not kept apart.
        """
        metadata = [passage.metadata for passage in passages]
        used = fields.types_of(metadata)
        if fields.all_fit(used, info.schema) and not fields.declare_all(metadata, info.schema):
            return info
        name = info.name
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()), self._declaring:
                info = await self.get(info.version, deadline)
                schema = dict(info.schema)
                for field, kind in used:
                    if not fields.all_fit({(field, kind)}, schema) and not await self._is_used(
                        name, info.version, field, schema[field], deadline
                    ):
                        del schema[field]
                new = fields.declare_all(metadata, schema)
                return await self.declare_types(info, new, deadline, tenant=info.layout.tenant)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while new fields were declared") from None

    async def declare_types(
        self, info: CollectionInfo, new: Schema, deadline: Deadline, *, tenant: str
    ) -> CollectionInfo:
        """Prepare fields of these types, of which `tenant` divides the version; return the description with them."""
        if new:
            await self._store.declare(info.version, new, deadline, tenant)
            await self.note(info.version, deadline, **schema_notes(new))
        return replace(info, schema={**info.schema, **new})

    @contextmanager
    def writing(self, name: str, passages: Sequence[Passage]) -> Iterator[None]:
        """Announce passages that are being written: their types count as used. Begin before the description is read."""
        used = [(name, *field) for field in fields.types_of([passage.metadata for passage in passages])]
        self._written.update(used)
        try:
            yield
        finally:
            self._written.subtract(used)
            self._written += Counter()  # forgets what is zero

    async def _exists(self, name: str, deadline: Deadline) -> bool:
        """True if a name stands for a version: one that was deleted can be read of for a while, but not changed."""
        try:
            await self._store.note((await self.get(name, deadline)).version, {}, deadline)
        except NotFound:
            return False
        return True

    async def _is_used(self, name: str, version: str, field: str, declared: FieldType, deadline: Deadline) -> bool:
        """True if a passage has a value of the declared type in this field, or is being written with one."""
        if any(self._written[name, field, kind] for kind in FieldType if fields.go_together(kind, declared)):
            return True
        rows, _ = await self._store.scroll(version, None, 1, Parts.KEYS, deadline, Filter(must=[Exists(field)]))
        return bool(rows)

    async def _successor(self, name: str, deadline: Deadline) -> Description:
        """Find the version that takes a name over from a collection of an earlier release, see `versions`."""
        catalogue = await self._store.catalogue(deadline)
        for version in catalogue.versions:
            if number_of(name, version):
                found = await self._store.describe(version, deadline)
                if found.notes.get("supersedes") == name:
                    return found
        raise _missing(name, catalogue)


def check_name(name: str, longest: int = _LONGEST_VERSION) -> None:
    """Raise InvalidArgument for what cannot be the name of a collection or a version."""
    if not _NAME.fullmatch(name) or len(name) > longest:
        raise InvalidArgument("collection", f'must be 1 to {_LONGEST_COLLECTION} letters, digits, "_" or "-"')


def _check_model(model: CollectionModel, path: str) -> None:
    if not model.fingerprint:
        raise InvalidArgument(f"{path}.fingerprint", "is empty; send that of the model that makes the vectors")
    if not 1 <= model.dimension <= MAX_DIMENSION:
        raise InvalidArgument(f"{path}.dimension", f"is {model.dimension}; send 1 to {MAX_DIMENSION}")


def version_name(collection: str, number: int) -> str:
    """Return the name of a version, counted from 1."""
    name = f"{collection}-v{number}"
    check_name(name)
    return name


def listed(names: Iterable[str]) -> str:
    """Return names as text for an error: sorted, at most ten, and the number of the others."""
    known = sorted(set(names))
    more = len(known) - _NAMES_SHOWN
    return ", ".join(known[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _missing(name: str, catalogue: Catalogue) -> NotFound:
    collection, number = split_version(name)
    siblings = [version for version in catalogue.versions if number and number_of(collection, version)]
    if siblings:
        problem = f"collection {collection!r} has no version {name!r}; its versions: {listed(siblings)}"
    else:
        known = listed(owner for owner, number in map(split_version, catalogue.versions) if number)
        problem = f"collection {name!r} does not exist; " + (f"collections: {known}" if known else "there is none yet")
    return NotFound(problem, reason="COLLECTION_NOT_FOUND", collection=name)


def _sort_key(version: str) -> str:
    collection, number = split_version(version)
    return f"{collection} {number:09}"
